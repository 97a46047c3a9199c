"""The Go templates donabe ships, one for each common prompt format, and the index that recognises those formats.

Newlines matter in every template, so they are written as escapes. `stop` holds the texts that end an answer in that
format. Roles a format has no words for are printed as user turns, so that nothing of a conversation is lost.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BundledTemplate:
    """A template and the stop strings that belong to it."""

    name: str
    text: str
    stop: tuple[str, ...]


def _by_role(system: str, user: str, assistant: str) -> str:
    """One printed form for each role; `.Content` is the text."""
    return (
        '{{ range .Messages }}{{ if eq .Role "system" }}' + system + '{{ else if eq .Role "assistant" }}' + assistant
        + "{{ else }}" + user + "{{ end }}{{ end }}"
    )  # fmt: skip


# Keeps system text in $system until the next user turn prints it with _KEPT_SYSTEM.
_KEEP_SYSTEM = (
    '{{ if $system }}{{ $system = print $system "\\n\\n" .Content }}{{ else }}{{ $system = .Content }}{{ end }}'
)
_KEPT_SYSTEM = '{{ if $system }}{{ $system }}\n\n{{ $system = "" }}{{ end }}'


def _with_kept_system(user: str, assistant: str) -> str:
    """Formats without a system turn: its text opens the next user turn, where `user` says `SYSTEM`."""
    return '{{ $system := "" }}' + _by_role(_KEEP_SYSTEM, user.replace("SYSTEM", _KEPT_SYSTEM), assistant)


_COMMAND_R_TOOLS = """{{ if .Tools }}

## Available Tools
These Python functions can be called:

```python
{{ range $index, $tool := .Tools }}{{ if $index }}

{{ end }}def {{ .Function.Name }}({{ $more := false }}{{ range $name, $property := .Function.Parameters.Properties -}}
{{ if $more }}, {{ end }}{{ $more = true }}{{ $name }}: {{ $property.Type }}{{ end }}) -> List[Dict]:
    \"\"\"{{ .Function.Description }}
{{- if .Function.Parameters.Properties }}

    Args:
{{- range $name, $property := .Function.Parameters.Properties }}
        {{ $name }} ({{ $property.Type }}): {{ $property.Description }}
{{- end }}
{{- end }}
    \"\"\"
    pass
{{- end }}
```

To call functions, write `Action:` and a JSON code block: a list of objects with `tool_name` and `parameters`.
{{- end }}"""

_COMMAND_R_MESSAGES = """{{ range .Messages -}}
{{ if eq .Role "user" }}<|START_OF_TURN_TOKEN|><|USER_TOKEN|>{{ .Content }}<|END_OF_TURN_TOKEN|>
{{- else if eq .Role "assistant" }}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{{ .Content }}
{{- if .ToolCalls }}Action: ```json{{ "\\n" }}[
{{- range $index, $call := .ToolCalls }}{{ if $index }},{{ end }}
    {"tool_name": {{ json .Function.Name }}, "parameters": {{ .Function.Arguments }}}
{{- end }}
]```
{{- end }}<|END_OF_TURN_TOKEN|>
{{- else if eq .Role "tool" }}<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|><results>
console_output: {{ .Content }}
</results><|END_OF_TURN_TOKEN|>
{{- end }}{{ end }}"""

_COMMAND_R = (
    "{{ if or .System .Tools }}<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{{ .System }}" + _COMMAND_R_TOOLS
    + "<|END_OF_TURN_TOKEN|>{{ end }}" + _COMMAND_R_MESSAGES + "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"
)  # fmt: skip

_GEMMA3 = (
    "{{ range $i, $message := .Messages }}"
    '{{ if eq .Role "assistant" }}<start_of_turn>model\n{{ .Content }}<end_of_turn>\n'
    '{{ else if ne .Role "system" }}<start_of_turn>user\n'
    "{{ if and (eq $i 1) $.System }}{{ $.System }}\n\n{{ end }}{{ .Content }}<end_of_turn>\n{{ end }}"
    "{{ if eq (len (slice $.Messages $i)) 1 }}<start_of_turn>model\n{{ end }}{{ end }}"
)

_ALL = (
    BundledTemplate(
        "alfred",
        "{{ range .Messages }}<start_{{ .Role }}>{{ .Content }}<end_message>{{ end }}<start_assistant>",
        ("<start_system>", "<end_message>", "<start_user>", "<start_assistant>"),
    ),
    BundledTemplate(
        "alpaca",
        _with_kept_system("SYSTEM### Instruction:\n{{ .Content }}\n\n", "### Response:\n{{ .Content }}\n\n")
        + "### Response:\n",
        ("### Instruction:", "### Response"),
    ),
    BundledTemplate(
        "chatml",
        "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n",
        ("<|im_start|>", "<|im_end|>"),
    ),
    BundledTemplate(
        "chatqa",
        _by_role("System: {{ .Content }}\n\n", "User: {{ .Content }}\n\n", "Assistant: {{ .Content }}\n\n")
        + "Assistant:",
        ("System:", "User:", "Assistant:", "<|begin_of_text|>"),
    ),
    BundledTemplate(
        "codellama-70b-instruct",
        "{{ range .Messages }}Source: {{ .Role }}\n\n {{ .Content }} <step> {{ end }}"
        "Source: assistant\nDestination: user\n\n ",
        ("Source:", "Destination:", "<step>"),
    ),
    BundledTemplate("command-r", _COMMAND_R, ("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>")),
    BundledTemplate(
        "falcon-instruct",
        _by_role("System: {{ .Content }}\n", "User:\n{{ .Content }}\n", "Falcon:\n{{ .Content }}\n") + "Falcon:\n",
        ("User:", "Assistant:"),
    ),
    BundledTemplate(
        "gemma-instruct",
        _with_kept_system(
            "<start_of_turn>user\nSYSTEM{{ .Content }}<end_of_turn>\n",
            "<start_of_turn>model\n{{ .Content }}<end_of_turn>\n",
        )
        + "<start_of_turn>model\n",
        ("<start_of_turn>", "<end_of_turn>"),
    ),
    BundledTemplate("gemma3-instruct", _GEMMA3, ("<end_of_turn>",)),
    BundledTemplate(
        "granite-instruct",
        _by_role("System:\n{{ .Content }}\n\n", "Question:\n{{ .Content }}\n\n", "Answer:\n{{ .Content }}\n\n")
        + "Answer:\n",
        ("System:", "Question:", "Answer:"),
    ),
    BundledTemplate(
        "llama2-chat",
        '{{ $system := "" }}'
        + _by_role(
            _KEEP_SYSTEM,
            '[INST] <<SYS>>{{ if $system }}\n{{ $system }}\n{{ $system = "" }}{{ end }}<</SYS>>\n\n'
            "{{ .Content }} [/INST]",
            " {{ .Content }}</s><s>",
        ),
        ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
    ),
    BundledTemplate(
        "llama3-instruct",
        "{{ range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>{{ end }}"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    BundledTemplate(
        "magicoder",
        _with_kept_system("SYSTEM@@ Instruction\n{{ .Content }}\n\n", "@@ Response\n{{ .Content }}\n\n")
        + "@@ Response\n",
        ("@@ Instruction", "@@ Response"),
    ),
    BundledTemplate(
        "mistral-instruct",
        _with_kept_system("[INST] SYSTEM{{ .Content }}[/INST]", " {{ .Content }}</s>"),
        ("<|im_start|>", "<|im_end|>"),  # not texts of this format; kept, because stored models name this list
    ),
    BundledTemplate(
        "openchat",
        _by_role(
            "GPT4 Correct System: {{ .Content }}<|end_of_turn|>",
            "GPT4 Correct User: {{ .Content }}<|end_of_turn|>",
            "GPT4 Correct Assistant: {{ .Content }}<|end_of_turn|>",
        )
        + "GPT4 Correct Assistant:",
        ("<|end_of_turn|>",),
    ),
    BundledTemplate(
        "phi-3",
        "{{ range .Messages }}<|{{ .Role }}|>\n{{ .Content }}<|end|>\n{{ end }}<|assistant|>\n",
        ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>"),
    ),
    BundledTemplate(
        "solar-instruct",
        _by_role(
            "### System:\n{{ .Content }}\n\n", "### User:\n{{ .Content }}\n\n", "### Assistant:\n{{ .Content }}</s>\n\n"
        )
        + "### Assistant:\n",
        ("### System:", "### User:", "### Assistant"),
    ),
    BundledTemplate(
        "starcoder2-instruct",
        _with_kept_system("SYSTEM### Instruction\n{{ .Content }}\n\n", "### Response\n{{ .Content }}<|endoftext|>\n\n")
        + "### Response\n",
        ("### Instruction", "### Response", "<|endoftext|>"),
    ),
    BundledTemplate(
        "vicuna",
        _with_kept_system("SYSTEMUSER: {{ .Content }}\n", "ASSISTANT: {{ .Content }}</s>\n") + "ASSISTANT:",
        ("USER:", "ASSISTANT:"),
    ),
    BundledTemplate(
        "zephyr",
        "{{ range .Messages }}<|{{ .Role }}|>\n{{ .Content }}</s>\n{{ end }}<|assistant|>\n",
        ("<|system|>", "</s>", "<|user|>", "<|assistant|>"),
    ),
)

BUNDLED = {template.name: template for template in _ALL}

# (bundled template, code points, first 16 hex digits of SHA-256) of the Jinja texts that use its format.
KNOWN_JINJA = (
    ("chatml", 441, "91aa728ae59c8e30"),
    ("chatml", 291, "58c1a1f04baa7ada"),
    ("zephyr", 410, "66291cf0045c2425"),
    ("chatml", 358, "3ce2fe9753f9a77a"),
    ("openchat", 222, "901b10d47195fadb"),
    ("chatml", 209, "a805e50fed68938a"),
    ("chatml", 196, "153280e3ff55d19d"),
    ("chatml", 328, "793202280c0910ab"),
    ("chatml", 327, "af9c0233881b083b"),
    ("zephyr", 306, "bf61473d7119388a"),
    ("mistral-instruct", 470, "26a59556925c9873"),
    ("starcoder2-instruct", 574, "6de66c5b4eb23df8"),
    ("llama2-chat", 813, "ea2472f29dbd93c3"),
    ("codellama-70b-instruct", 531, "75678d4630858651"),
    ("mistral-instruct", 477, "7e995b379ec01747"),
    ("chatml", 450, "e6f6e5c192657d16"),
    ("chatml", 306, "f42d04ffb2e487fa"),
    ("chatml", 629, "f02c534193010c4b"),
    ("chatml", 1842, "faf1f8b675beeabd"),
    ("alpaca", 1041, "993c0af704bad76a"),
    ("chatqa", 459, "8aeba567270fa9a8"),
    ("gemma-instruct", 591, "ecd6ae513fe103f0"),
    ("gemma3-instruct", 1532, "7de1c58e208eda46"),
    ("llama3-instruct", 389, "ba03a121d097859c"),
    ("llama3-instruct", 4614, "e10ca381b1ccc5cf"),
    ("granite-instruct", 376, "e84ee90c8a81a15d"),
    ("magicoder", 571, "230527c8a608cf3a"),
    ("alfred", 533, "071cfb2d4c797ad4"),
    ("llama2-chat", 815, "e8d5b5a546d3f19d"),
    ("phi-3", 254, "605841622bcb6572"),
    ("phi-3", 269, "268b6082ceb7176d"),
    ("phi-3", 218, "b0e53f5e7bae6fdb"),
    ("chatqa", 690, "cd3636885332999f"),
    ("falcon-instruct", 356, "2c575663fbb6c03a"),
    ("falcon-instruct", 340, "f6084d6ec1cb3238"),
    ("solar-instruct", 409, "b8e5e922a7a4ab5d"),
    ("command-r", 1204, "9db2cf47ce03bfd0"),
)

_CHATML_TURNS = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# Whole texts of the formats that occur in many small variations; edit distance is measured to these, in this order.
KNOWN_TEXTS = (
    (
        "openchat",
        "{{ bos_token }}{% for message in messages %}{{ 'GPT4 Correct ' + message['role'].title() + ': ' + "
        "message['content'] + '<|end_of_turn|>'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'GPT4 Correct Assistant:' }}{% endif %}",
    ),
    ("chatml", "{{bos_token}}" + _CHATML_TURNS),
    ("chatml", _CHATML_TURNS),
    (
        "phi-3",
        "{{ bos_token }}{% for message in messages %}{{'<|' + message['role'] + '|>' + '\n' + message['content'] + "
        "'<|end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}"
        "{% endif %}",
    ),
)
