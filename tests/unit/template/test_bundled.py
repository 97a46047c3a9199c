"""The bundled templates' exact prompts, and how a GGUF's Jinja template finds them."""

from __future__ import annotations

import hashlib

import pytest

from donabe.template import (
    BUNDLED,
    chat_template_capabilities,
    detect_template,
    parse_template,
    prefers_chat_template,
    render_chat,
)
from donabe.template.bundled import KNOWN_JINJA, KNOWN_TEXTS
from donabe.template.detect import edit_distance
from donabe.types import Message, Tool, ToolCall

CONVERSATION = [
    Message(role="system", content="S"),
    Message(role="user", content="U1"),
    Message(role="assistant", content="A1"),
    Message(role="user", content="U2"),
]
GEMMA = (
    "<start_of_turn>user\nS\n\nU1<end_of_turn>\n<start_of_turn>model\nA1<end_of_turn>\n"
    "<start_of_turn>user\nU2<end_of_turn>\n<start_of_turn>model\n"
)
PROMPTS = {
    "alfred": (
        "<start_system>S<end_message><start_user>U1<end_message><start_assistant>A1<end_message>"
        "<start_user>U2<end_message><start_assistant>"
    ),
    "alpaca": (
        "S\n\n### Instruction:\nU1\n\n### Response:\nA1\n\n### Instruction:\nU2\n\n### Response:\n"
    ),
    "chatml": (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n"
        "<|im_start|>user\nU2<|im_end|>\n<|im_start|>assistant\n"
    ),
    "chatqa": "System: S\n\nUser: U1\n\nAssistant: A1\n\nUser: U2\n\nAssistant:",
    "codellama-70b-instruct": (
        "Source: system\n\n S <step> Source: user\n\n U1 <step> Source: assistant\n\n A1 <step> "
        "Source: user\n\n U2 <step> Source: assistant\nDestination: user\n\n "
    ),
    "command-r": (
        "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>S<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>U1<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>A1<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>U2<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"
    ),
    "falcon-instruct": "System: S\nUser:\nU1\nFalcon:\nA1\nUser:\nU2\nFalcon:\n",
    "gemma-instruct": GEMMA,
    "gemma3-instruct": GEMMA,
    "granite-instruct": "System:\nS\n\nQuestion:\nU1\n\nAnswer:\nA1\n\nQuestion:\nU2\n\nAnswer:\n",
    "llama2-chat": (
        "[INST] <<SYS>>\nS\n<</SYS>>\n\nU1 [/INST] A1</s><s>[INST] <<SYS>><</SYS>>\n\nU2 [/INST]"
    ),
    "llama3-instruct": (
        "<|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nU1<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nA1<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
        "U2<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "magicoder": "S\n\n@@ Instruction\nU1\n\n@@ Response\nA1\n\n@@ Instruction\nU2\n\n@@ Response\n",
    "mistral-instruct": "[INST] S\n\nU1[/INST] A1</s>[INST] U2[/INST]",
    "openchat": (
        "GPT4 Correct System: S<|end_of_turn|>GPT4 Correct User: U1<|end_of_turn|>"
        "GPT4 Correct Assistant: A1<|end_of_turn|>GPT4 Correct User: U2<|end_of_turn|>GPT4 Correct Assistant:"
    ),
    "phi-3": (
        "<|system|>\nS<|end|>\n<|user|>\nU1<|end|>\n<|assistant|>\nA1<|end|>\n<|user|>\nU2<|end|>\n<|assistant|>\n"
    ),
    "solar-instruct": (
        "### System:\nS\n\n### User:\nU1\n\n### Assistant:\nA1</s>\n\n### User:\nU2\n\n### Assistant:\n"
    ),
    "starcoder2-instruct": (
        "S\n\n### Instruction\nU1\n\n### Response\nA1<|endoftext|>\n\n### Instruction\nU2\n\n### Response\n"
    ),
    "vicuna": "S\n\nUSER: U1\nASSISTANT: A1</s>\nUSER: U2\nASSISTANT:",
    "zephyr": "<|system|>\nS</s>\n<|user|>\nU1</s>\n<|assistant|>\nA1</s>\n<|user|>\nU2</s>\n<|assistant|>\n",
}  # fmt: skip


def test_every_bundled_template_has_a_golden_prompt() -> None:
    assert set(PROMPTS) == set(BUNDLED)
    assert {name for name, _, _ in KNOWN_JINJA} == set(BUNDLED) - {"vicuna"}


@pytest.mark.parametrize("name", sorted(PROMPTS))
def test_conversation_prints_in_the_format(name: str) -> None:
    assert render_chat(parse_template(BUNDLED[name].text), CONVERSATION) == PROMPTS[name]


def test_later_system_text_opens_the_next_user_turn() -> None:
    late = [Message(role="user", content="U"), Message(role="assistant", content="A"), CONVERSATION[0], CONVERSATION[3]]
    rendered = render_chat(parse_template(BUNDLED["vicuna"].text), late)
    assert rendered == "USER: U\nASSISTANT: A</s>\nS\n\nUSER: U2\nASSISTANT:"


def test_command_r_prints_tools_calls_and_results() -> None:
    template = parse_template(BUNDLED["command-r"].text)
    tool = Tool(
        name="search",
        description="Find pages",
        parameters={"properties": {"q": {"type": "string", "description": "words"}, "n": {"type": "integer"}}},
    )
    messages = [
        Message(role="user", content="U"),
        Message(role="assistant", tool_calls=(ToolCall(name="search", arguments='{"q":"x"}'),)),
        Message(role="tool", content="R"),
    ]
    rendered = render_chat(template, messages, tools=[tool])
    assert 'def search(n: integer, q: string) -> List[Dict]:\n    """Find pages\n\n    Args:\n' in rendered
    assert (
        'Action: ```json\n[\n    {"tool_name": "search", "parameters": {"q":"x"}}\n]```<|END_OF_TURN_TOKEN|>'
        in rendered
    )
    assert "<|SYSTEM_TOKEN|><results>\nconsole_output: R\n</results><|END_OF_TURN_TOKEN|>" in rendered
    assert template.tool_tag() == "Action: ```json"
    assert template.capabilities() == ("tools",)


# --- detection -------------------------------------------------------------------------------------------------------


def test_known_texts_are_those_of_the_index() -> None:
    index = {(name, length, digest) for name, length, digest in KNOWN_JINJA}
    for name, text in KNOWN_TEXTS:
        assert (name, len(text), hashlib.sha256(text.encode()).hexdigest()[:16]) in index


@pytest.mark.parametrize(("name", "text"), KNOWN_TEXTS)
def test_fewer_than_a_hundred_edits_are_recognised(name: str, text: str) -> None:
    exact, near = detect_template(text), detect_template(text + "#" * 20)
    assert exact is not None
    assert near is not None
    assert exact.name == near.name == name


def test_the_hundredth_edit_is_too_many() -> None:
    openchat = KNOWN_TEXTS[0][1]
    found = detect_template(openchat + "é" * 99)
    assert found is not None
    assert found.name == "openchat"
    assert detect_template(openchat + "é" * 100) is None
    assert detect_template("") is None


@pytest.mark.parametrize(
    ("left", "right", "distance"),
    [
        ("", "abc", 3),
        ("abc", "", 3),
        ("kitten", "sitting", 3),
        ("flaw", "lawn", 2),
        ("a" * 200, "a" * 150, 50),
        ("é", "e", 1),
    ],
)
def test_edit_distance_counts_code_points(left: str, right: str, distance: int) -> None:
    assert edit_distance(left, right) == distance


# --- which template to use -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("jinja", "capabilities"),
    [
        ("{{ messages }}", ()),
        ("{% if tools %}", ("tools",)),
        ("<think></think>{{ tool_call }}", ("tools", "thinking")),
        ("content.split('</think>')", ("thinking",)),
        ('content.split("</think>") reasoning_content', ()),
        ("content.split('</think>')<SPECIAL_12>", ()),
    ],
)
def test_jinja_capabilities_follow_from_its_text(jinja: str, capabilities: tuple[str, ...]) -> None:
    assert chat_template_capabilities(jinja) == capabilities


GO_TOOLS = '{{ .Tools }}{{ range .Messages }}{{ .ToolCalls }}{{ if eq .Role "tool" }}{{ end }}{{ end }}'
GO_TOOLS_ONE_WAY = "{{ .Tools }}{{ range .Messages }}{{ .Content }}{{ end }}"
JINJA_TOOLS = "tools message.tool_calls message['role'] == 'tool'"


@pytest.mark.parametrize(
    ("jinja", "go", "expected"),
    [
        ("{{ messages }}", "{{ .Prompt }}", False),
        (JINJA_TOOLS, "{{ .Prompt }}", True),
        ("tools", GO_TOOLS, False),
        (JINJA_TOOLS, GO_TOOLS, False),
        (JINJA_TOOLS, GO_TOOLS_ONE_WAY, True),
        ("tools <think></think>", GO_TOOLS, False),
        (JINJA_TOOLS + " <think></think>", GO_TOOLS, True),
        ("<think></think>", GO_TOOLS, False),
    ],
)
def test_jinja_is_preferred_when_it_expresses_more(jinja: str, go: str, expected: bool) -> None:
    assert prefers_chat_template(jinja, parse_template(go)) is expected
