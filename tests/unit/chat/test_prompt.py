"""PromptBuilder: which renderer, what it is told, tokens, limits, and every refusal."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fakes.native_chat import FakeParser, FakeTemplates
from tests.fakes.native_model import BOS, N_VOCAB, FakeModel

from donabe.chat.prompt import PreparedPrompt, PromptBuilder
from donabe.errors import CapabilityError, ContextLengthError, GrammarError, InvalidRequestError, TemplateError
from donabe.types import (
    ChatRequest,
    Constraint,
    GenerateRequest,
    Message,
    ModelDetails,
    ModelSpec,
    OutputOptions,
    Tool,
    ToolCall,
    ToolChoice,
)

TOOLS = (Tool(name="f", description="d", parameters={"type": "object"}), Tool(name="g"))
HELLO = (Message(role="user", content="hello there"),)
GO = "{{ .System }}|{{ .Prompt }}|{{ .Response }}"


class Rig:
    def __init__(self, templates: FakeTemplates | None = None, *, jinja: bool = True, n_ctx: int = 64, **spec: Any):
        self.templates = templates or FakeTemplates()
        self.model = FakeModel(templates={None: "jinja"} if jinja else {})
        self.loaded: list[str | None] = []
        self.schemas: list[str] = []
        self.builder = PromptBuilder(
            self.model,
            ModelSpec(name="m", paths=("/m.gguf",), details=ModelDetails(), **spec),
            load_templates=self.load,
            make_parser=FakeParser,
            make_grammar=self.make_grammar,
            n_ctx=n_ctx,
        )

    def load(self, source: str | None) -> FakeTemplates:
        self.loaded.append(source)
        return self.templates

    def make_grammar(self, schema: str) -> str:
        self.schemas.append(schema)
        if "nonsense" in schema:
            raise GrammarError("no such type")
        return "root ::= any"

    def chat(self, *messages: Message, **fields: Any) -> PreparedPrompt:
        return self.builder.chat(ChatRequest(messages=messages or HELLO, **fields))

    def generate(self, prompt: Any, **fields: Any) -> PreparedPrompt:
        return self.builder.generate(GenerateRequest(prompt=prompt, **fields))

    def text(self, prepared: PreparedPrompt) -> str:
        return self.model.vocab.detokenize(prepared.tokens).decode()

    @property
    def seen(self) -> dict[str, Any]:
        return self.templates.seen[-1]


# --- the native template engine --------------------------------------------------------------------------------------


def test_chat_is_rendered_tokenised_and_constrained() -> None:
    rig = Rig()
    prepared = rig.chat(output=OutputOptions(stop=("X",), max_tokens=5))
    assert rig.text(prepared) == "<bos> user: hello there assistant:"
    assert (prepared.stops, prepared.max_tokens, prepared.n) == ((b"X", b"END"), 5, 1)
    assert prepared.boundaries == (0, 2, 4)
    assert prepared.sampler_params["preserved_tokens"] == [3]  # `<sep>`; "two words" is not one token


def test_pieces_are_the_bytes_of_each_token() -> None:
    rig = Rig()
    tokens = rig.builder.tokenize("hello there", add_special=True, parse_special=False)
    assert rig.builder.pieces(tokens) == [b"<bos>", b"hello", b"there"]
    with pytest.raises(InvalidRequestError, match="tokens"):
        rig.builder.pieces([10**6])


def test_templates_are_loaded_once() -> None:
    rig = Rig(chat_template="own")
    rig.chat()
    rig.chat()
    assert rig.loaded == ["own"]


def test_messages_take_the_openai_form() -> None:
    rig = Rig()
    call = ToolCall(name="f", arguments='{"a": 1}', id="c1")
    rig.chat(
        *HELLO,
        Message(role="assistant", thinking="hm", tool_calls=(call,)),
        Message(role="tool", content="42", tool_name="f", tool_call_id="c1"),
    )
    _, answer, result = rig.seen["messages"]
    assert answer["reasoning_content"] == "hm"
    assert answer["tool_calls"] == [
        {"type": "function", "id": "c1", "function": {"name": "f", "arguments": '{"a": 1}'}}
    ]
    assert (result["name"], result["tool_call_id"]) == ("f", "c1")


@pytest.mark.parametrize(
    ("choice", "names", "mode"),
    [
        (ToolChoice(), ["f", "g"], "auto"),
        (ToolChoice(mode="none"), ["f", "g"], "none"),
        (ToolChoice(mode="required"), ["f", "g"], "required"),
        (ToolChoice(mode="required", name="g"), ["g"], "required"),
    ],
)
def test_tool_choice(choice: ToolChoice, names: list[str], mode: str) -> None:
    rig = Rig()
    prepared = rig.chat(tools=TOOLS, tool_choice=choice)
    assert [tool["function"]["name"] for tool in rig.seen["tools"]] == names
    assert rig.seen["tool_choice"] == mode
    assert rig.seen["parallel_tool_calls"] is not bool(choice.name)
    assert prepared.sampler_params["grammar"] == "root ::= call"
    assert prepared.sampler_params["grammar_prefill"] == "assistant:"


def test_tool_choice_that_can_not_be_followed_is_refused() -> None:
    for choice, tools in ((ToolChoice(mode="required", name="h"), TOOLS), (ToolChoice(mode="required"), ())):
        with pytest.raises(InvalidRequestError) as caught:
            Rig().chat(tools=tools, tool_choice=choice)
        assert caught.value.field == "tool_choice"


@pytest.mark.parametrize(("think", "enabled"), [(None, True), (True, True), (False, False), ("high", True)])
def test_think_reaches_the_template(think: Any, enabled: bool) -> None:
    rig = Rig()
    rig.chat(think=think, template_kwargs={"x": 1})
    assert rig.seen["enable_thinking"] is enabled
    assert rig.seen["template_kwargs"] == ({"x": 1, "reasoning_effort": "high"} if think == "high" else {"x": 1})


def test_missing_abilities_are_capability_errors() -> None:
    plain = FakeTemplates(tools=False, thinking=False)
    picture = Message(role="user", content="look", images=(b"png",))
    for fields, capability in (({"tools": TOOLS}, "tools"), ({"think": True}, "thinking")):
        with pytest.raises(CapabilityError) as caught:
            Rig(plain).chat(**fields)
        assert caught.value.capability == capability
    Rig(plain).chat(tools=TOOLS, tool_choice=ToolChoice(mode="none"), think=False)
    Rig(plain, capabilities=("completion", "tools", "thinking")).chat(tools=TOOLS, think=True)  # declared is enough
    for rig in (Rig(), Rig(jinja=False), Rig(template=GO, jinja=False)):
        with pytest.raises(CapabilityError, match=r"messages\[0\] has an image"):
            rig.chat(picture)


@pytest.mark.parametrize(
    ("constraint", "key", "value"),
    [
        (Constraint(json_object=True), "json_schema", {"type": "object"}),
        (Constraint(json_schema={"type": "array"}), "json_schema", {"type": "array"}),
        (Constraint(grammar="root ::= x"), "grammar", "root ::= x"),
    ],
)
def test_constraint_reaches_the_template(constraint: Constraint, key: str, value: object) -> None:
    rig = Rig()
    rig.chat(constraint=constraint)
    assert rig.seen[key] == value


def test_bad_constraints_are_refused() -> None:
    with pytest.raises(GrammarError, match="no such type"):
        Rig().chat(constraint=Constraint(json_schema={"type": "nonsense"}))
    for constraint in (
        Constraint(json_object=True, grammar="x"),
        Constraint(json_schema={"enum": ["x" * 2_000_000]}),
    ):
        with pytest.raises(InvalidRequestError):
            Rig().generate("x", constraint=constraint)


def test_conversation_that_can_not_be_continued_is_a_request_error() -> None:
    with pytest.raises(InvalidRequestError, match="final assistant message"):
        Rig().chat(continue_final_message=True)
    rig = Rig()
    prepared = rig.chat(*HELLO, Message(role="assistant", content="well"), continue_final_message=True)
    assert rig.text(prepared).endswith("assistant: well")


def test_no_messages_and_no_role_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="messages is empty"):
        Rig().builder.chat(ChatRequest(messages=()))
    with pytest.raises(InvalidRequestError, match=r"messages\[1\] has no role"):
        Rig().chat(*HELLO, Message(role=""))


# --- Go templates and none -------------------------------------------------------------------------------------------


def test_stored_go_template_is_used() -> None:
    rig = Rig(template=GO, jinja=False)
    prepared = rig.chat(Message(role="system", content="be brief"), *HELLO)
    assert rig.builder.render(ChatRequest(messages=HELLO)).prompt == "|hello there|"
    assert rig.text(prepared).replace("<bos> ", "") == "be brief|hello there|"
    assert rig.loaded == []


def test_template_of_the_request_wins() -> None:
    rig = Rig()
    assert rig.builder.render(ChatRequest(messages=HELLO, template="[{{ .Prompt }}]")).prompt == "[hello there]"
    with pytest.raises(TemplateError):
        rig.chat(template="{{ .Broken")


def test_placeholder_template_of_a_model_with_renderer_is_not_used() -> None:
    rig = Rig(template="{{ .Prompt }}", renderer="some-renderer")
    rig.chat()
    assert rig.loaded == [None]


def test_model_without_template_joins_contents() -> None:
    rig = Rig(jinja=False)
    request = ChatRequest(messages=(Message(role="system", content="be brief"), *HELLO))
    assert rig.builder.render(request).prompt == "be brief\n\nhello there"
    prepared = rig.chat(constraint=Constraint(json_object=True))
    assert prepared.sampler_params["grammar"] == "root ::= any"
    for fields in ({"tools": TOOLS}, {"think": True}):
        with pytest.raises(CapabilityError):
            rig.chat(**fields)


THINKING_GO = (
    "{{ range .Messages }}{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ .Content }}{{ end }}"
    "{{ if .IsThinkSet }}{{ if .Think }}<think>{{ end }}{{ end }}"
)


@pytest.mark.parametrize(
    ("think", "root"), [(True, "root ::= thinking-0 "), (None, "root ::= "), (False, "root ::= any")]
)
def test_go_template_constrains_the_answer_and_not_the_thinking(think: bool | None, root: str) -> None:
    prepared = Rig(template=THINKING_GO, jinja=False).chat(think=think, constraint=Constraint(json_object=True))
    grammar = prepared.sampler_params["grammar"]
    assert grammar.startswith(root)
    assert ("thinking-0" in grammar) is (think is not False)
    assert ("| answer-after-thinking" in grammar) is (think is None)  # it may also begin with the answer


def test_go_template_without_tools_refuses_them() -> None:
    with pytest.raises(CapabilityError, match="does not support tools"):
        Rig(template=GO, jinja=False).chat(tools=TOOLS)


def test_doubled_bos_is_removed() -> None:
    rig = Rig(template="<bos>{{ .Prompt }}", jinja=False)
    assert rig.chat().tokens.tolist().count(BOS) == 1


# --- generate --------------------------------------------------------------------------------------------------------


def test_prompt_text_and_tokens() -> None:
    rig = Rig()
    assert rig.text(rig.generate("a <sep> b")) == "<bos> a <sep> b"
    assert rig.generate("a", add_special=False).tokens.tolist() == [10]
    assert rig.generate((BOS, 10)).tokens.tolist() == [BOS, 10]


def test_empty_prompt_begins_with_bos() -> None:
    rig = Rig()
    assert rig.generate("", add_special=False).tokens.tolist() == [BOS]
    rig.model.vocab.bos = -1
    with pytest.raises(InvalidRequestError, match="prompt is empty"):
        rig.generate("", add_special=False)


@pytest.mark.parametrize("token", [-1, N_VOCAB])
def test_token_out_of_range_is_refused(token: int) -> None:
    with pytest.raises(InvalidRequestError, match=f"prompt has token {token}"):
        Rig().generate((1, token))


def test_echo_is_the_prompt_as_given() -> None:
    rig = Rig()
    assert rig.generate("a  b", echo=True).echo == "a  b"
    assert rig.generate(tuple(rig.generate("a b").tokens.tolist()), echo=True).echo == "<bos> a b"


def test_infill_needs_its_tokens() -> None:
    rig = Rig()
    with pytest.raises(CapabilityError, match="does not support insert"):
        rig.generate("a", suffix="b")
    rig.model.vocab.fim_pre, rig.model.vocab.fim_suf, rig.model.vocab.fim_mid = 5, 6, 7
    assert rig.generate("a", suffix="b").tokens.tolist() == [BOS, 5, 10, 6, 11, 7]
    with pytest.raises(InvalidRequestError, match="suffix needs a prompt of text"):
        rig.generate((1,), suffix="b")


def test_infill_by_the_stored_template() -> None:
    rig = Rig(template="{{ if .Suffix }}P {{ .Prompt }} S {{ .Suffix }} M{{ else }}{{ .Prompt }}{{ end }}", jinja=False)
    assert rig.text(rig.generate("a", suffix="b")) == "<bos> P a S b M"


# --- limits ----------------------------------------------------------------------------------------------------------


def words(n: int, tag: str = "w") -> str:
    return " ".join(f"{tag}{i}" for i in range(n))


def test_longest_prompt_leaves_room_for_one_token() -> None:
    rig = Rig(n_ctx=16)
    assert len(rig.generate(words(14)).tokens) == 15
    with pytest.raises(ContextLengthError) as caught:
        rig.generate(words(15))
    assert (caught.value.n_prompt_tokens, caught.value.n_ctx) == (16, 16)


def test_truncation_keeps_the_front_and_counts() -> None:
    rig = Rig(n_ctx=16)
    prepared = rig.generate(words(40), truncate=True, n_keep=2)
    text = rig.text(prepared)
    assert text.startswith("<bos> w0 w1 ")
    assert text.endswith("w39")
    assert len(prepared.tokens) + prepared.n_truncated_tokens == 41


def test_conversation_is_shortened_before_it_is_cut() -> None:
    rig = Rig(n_ctx=24)
    old = [Message(role=role, content=words(6, role)) for _ in range(3) for role in ("user", "assistant")]
    request = (Message(role="system", content="sys"), *old, Message(role="user", content="last"))
    with pytest.raises(ContextLengthError):
        rig.chat(*request)
    prepared = rig.chat(*request, truncate=True)
    text = rig.text(prepared)
    assert "system: sys" in text
    assert text.endswith("last assistant:")
    assert (prepared.n_dropped_messages, prepared.n_truncated_tokens) == (4, 0)
    assert len(prepared.tokens) <= 23


def test_last_message_that_is_too_long_by_itself_is_cut() -> None:
    prepared = Rig(n_ctx=16).chat(*HELLO, Message(role="user", content=words(50)), truncate=True)
    assert (prepared.n_dropped_messages, len(prepared.tokens) < 16) == (1, True)
    assert prepared.n_truncated_tokens > 0
    assert prepared.boundaries == ()
