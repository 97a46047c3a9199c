"""Requests to prompt text: what templates see of messages, tools and thinking, and the three ways they are run."""

from __future__ import annotations

import pytest

from donabe.errors import TemplateError
from donabe.template import parse_template, render_chat, render_generate
from donabe.types import Message, Tool, ToolCall

LEGACY = (
    "{{ if .System }}{{ .System }} {{ end }}{{ if .Prompt }}{{ .Prompt }} {{ end }}"
    "{{ if .Response }}{{ .Response }} {{ end }}"
)
SCHEMA = {
    "type": "object",
    "required": ["city"],
    "additionalProperties": False,
    "properties": {
        "unit": {"type": ["string", "null"], "enum": ["C", "F"], "default": "C"},
        "city": {"type": "string", "description": "a <place>"},
        "days": {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "string"}}]},
    },
}
TOOL = Tool(name="get_weather", description="Get weather", parameters=SCHEMA)
PROPERTIES_JSON = (
    '{"city":{"type":"string","description":"a \\u003cplace\\u003e"},'
    '"days":{"anyOf":[{"type":"integer"},{"type":"array","items":{"type":"string"}}]},'
    '"unit":{"type":["string","null"],"enum":["C","F"]}}'
)
PARAMETERS_JSON = '{"type":"object","required":["city"],"properties":' + PROPERTIES_JSON + "}"
FUNCTION_JSON = '{"name":"get_weather","description":"Get weather","parameters":' + PARAMETERS_JSON + "}"
TOOL_JSON = '{"type":"function","function":' + FUNCTION_JSON + "}"


def user(text: str) -> Message:
    return Message(role="user", content=text)


def assistant(text: str) -> Message:
    return Message(role="assistant", content=text)


def system(text: str) -> Message:
    return Message(role="system", content=text)


def chat(text: str, *messages: Message, **options: object) -> str:
    return render_chat(parse_template(text), messages, **options)  # type: ignore[arg-type]


# --- messages mode ---------------------------------------------------------------------------------------------------


def test_system_texts_are_joined_and_stay_in_place() -> None:
    rendered = chat(
        "{{ .System }}|{{ range .Messages }}{{ .Role }}:{{ .Content }};{{ end }}", system("a"), user("x"), system("b")
    )
    assert rendered == "a\n\nb|system:a;user:x;system:b;"


def test_neighbours_of_one_role_are_merged_except_tool_results() -> None:
    tool = Message(role="tool", content="r")
    rendered = chat("{{ range .Messages }}{{ .Role }}:{{ .Content }};{{ end }}", user("a"), user("b"), tool, tool)
    assert rendered == "user:a\n\nb;tool:r;tool:r;"


def test_merging_keeps_tool_calls_and_thinking_of_all() -> None:
    calls = [Message(role="assistant", tool_calls=(ToolCall(name=name),), thinking=name) for name in ("f", "g")]
    text = "{{ range .Messages }}{{ .Thinking }}{{ range .ToolCalls }}[{{ .Function.Name }}]{{ end }}{{ end }}"
    assert chat(text, *calls) == "f\n\ng[f][g]"


def test_model_system_is_used_unless_the_first_message_is_system() -> None:
    text = "{{ range .Messages }}{{ .Role }}:{{ .Content }};{{ end }}"
    assert chat(text, user("x"), system="s") == "system:s;user:x;"
    assert chat(text, system("own"), user("x"), system="s") == "system:own;user:x;"


@pytest.mark.parametrize(
    ("think", "expected"),
    [
        (None, "false||false"),
        (True, "true|medium|true"),
        (False, "false||true"),
        ("low", "true|low|true"),
        ("max", "true|max|true"),
    ],
)
def test_think_is_flag_level_and_whether_it_was_given(think: object, expected: str) -> None:
    text = "{{ .Think }}|{{ .ThinkLevel }}|{{ .IsThinkSet }}{{ range .Messages }}{{ end }}"
    assert chat(text, user("x"), think=think) == expected


def test_message_fields_have_the_reference_names() -> None:
    message = Message(role="tool", content="c", tool_name="n", tool_call_id="i", images=(b"xx",))
    text = "{{ range .Messages }}{{ .Content }} {{ .ToolName }} {{ .ToolCallID }} {{ len .Images }}{{ end }}"
    assert chat(text, message) == "c n i 1"


def test_unknown_message_field_is_an_error_unknown_root_key_is_not() -> None:
    assert chat("{{ .Nope }}{{ if .Nope }}x{{ end }}{{ range .Messages }}{{ end }}", user("x")) == "<no value>"
    with pytest.raises(TemplateError, match=r"can't evaluate field Nope in type"):
        chat("{{ range .Messages }}{{ .Nope }}{{ end }}", user("x"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ .Tools }}", f"[{TOOL_JSON}]"),
        ("{{ json .Tools }}", f"[{TOOL_JSON}]"),
        ("{{ range .Tools }}{{ . }}{{ end }}", TOOL_JSON),
        ("{{ range .Tools }}{{ .Function }}{{ end }}", FUNCTION_JSON),
        ("{{ range .Tools }}{{ .Function.Parameters }}{{ end }}", PARAMETERS_JSON),
        ("{{ range .Tools }}{{ .Function.Parameters.Properties }}{{ end }}", PROPERTIES_JSON),
        ("{{ range .Tools }}{{ json .Function.Parameters.Properties }}{{ end }}", PROPERTIES_JSON),
        ("{{ range .Tools }}{{ .Type }} {{ .Function.Name }} {{ .Function.Parameters.Type }}{{ end }}", None),
        (
            "{{ range .Tools }}{{ range $n, $p := .Function.Parameters.Properties }}"
            "{{ $n }}:{{ $p.Type }};{{ end }}{{ end }}",
            "city:string;days:;unit:[string null];",
        ),
        (
            "{{ range .Tools }}{{ range .Function.Parameters.Properties }}{{ toTypeScriptType . }};{{ end }}{{ end }}",
            "string;number | any[];string | null;",
        ),
        ("{{ range .Tools }}{{ range .Function.Parameters.Required }}{{ . }}{{ end }}{{ end }}", "city"),
        ("{{ .Tools.String }}", f"[{TOOL_JSON}]"),
    ],
)
def test_tools_print_as_json_with_sorted_properties(text: str, expected: str | None) -> None:
    rendered = chat(text + "{{ range .Messages }}{{ end }}", user("x"), tools=[TOOL])
    assert rendered == (expected or "function get_weather object")


def test_no_tools_print_as_null_and_are_false() -> None:
    text = "{{ .Tools }}{{ json .Tools }}{{ if .Tools }}yes{{ end }}{{ len .Tools }}{{ range .Messages }}{{ end }}"
    assert chat(text, user("x")) == "nullnull0"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ range .ToolCalls }}{{ .Function.Name }} {{ .Function.Arguments }}{{ end }}", 'f {"a":"\\u003c","b":[1]}'),
        (
            "{{ range .ToolCalls }}{{ range $k, $v := .Function.Arguments }}{{ $k }}={{ $v }} {{ end }}{{ end }}",
            "a=< b=[1] ",
        ),
        ("{{ range .ToolCalls }}{{ . }}{{ end }}", '{"name":"f","arguments":{"a":"\\u003c","b":[1]}}'),
        (
            "{{ json .ToolCalls }}",
            '[{"ID":"i","Function":{"Index":2,"Name":"f","Arguments":{"a":"\\u003c","b":[1]}}}]',
        ),
    ],
)
def test_tool_calls_print_as_json(text: str, expected: str) -> None:
    call = ToolCall(name="f", arguments='{"b":[1],"a":"<"}', id="i", index=2)
    assert chat("{{ range .Messages }}" + text + "{{ end }}", Message(role="assistant", tool_calls=(call,))) == expected


@pytest.mark.parametrize("arguments", ["[1]", "{", '"x"'])
def test_arguments_that_are_no_object_are_refused_with_the_call(arguments: str) -> None:
    call = ToolCall(name="f", arguments=arguments)
    with pytest.raises(TemplateError, match='arguments of tool call "f" are not'):
        chat("{{ range .Messages }}{{ end }}", Message(role="assistant", tool_calls=(call,)))


def test_lone_surrogates_become_replacement_characters() -> None:
    assert (
        chat("{{ range .Messages }}{{ .Content }}{{ json .Content }}{{ end }}", user("a\ud800b"))
        == 'a\ufffdb"a\ufffdb"'
    )


# --- legacy mode -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "messages", "expected"),
    [
        (LEGACY, [user("A"), assistant("B"), user("C")], "A B C "),
        (LEGACY, [user("A"), assistant("B"), system("S"), user("C")], "A B S C "),
        ("{{ .Prompt }}", [user("u1"), assistant("a1"), user("u2")], "u1a1u2"),
        (
            "{{ if .System }}[S]{{ .System }}{{ end }}[U]{{ .Prompt }}[A]{{ .Response }}[E]",
            [system("s"), user("u1"), assistant("a1"), user("u2")],
            "[S]s[U]u1[A]a1[E][U]u2[A]",
        ),
        ("[U]{{ .Prompt }}[A]{{ .Response }}[E]", [user("u"), assistant("pre")], "[U]u[A]pre"),
        ("{{ .Prompt }}{{ if .Response }}{{ .Response }}[E]{{ else }}[G]{{ end }}", [user("u")], "u[G]"),
        ("{{ .Prompt }}{{ if .Response }}{{ .Response }}[E]{{ end }}", [user("u"), assistant("p")], "up"),
        ('{{ define "a" }}[A]{{ .Response }}[E]{{ end }}{{ .Prompt }}{{ template "a" . }}!', [user("u")], "u[A]"),
        ("{{ .Prompt }}{{ json .Response }}!", [user("u"), assistant('p"')], 'u"p\\""'),
        ("{{ .Tools }}{{ .Prompt }}{{ .Response }}", [user("u")], "<no value>u"),
    ],
)
def test_older_templates_run_once_for_each_exchange(text: str, messages: list[Message], expected: str) -> None:
    assert chat(text, *messages) == expected


def test_parse_adds_response_only_when_the_template_mentions_none() -> None:
    for text in ("{{ .Prompt }}", "{{ .Prompt }}{{ .Response }}"):
        assert chat(text, user("u"), assistant("a"), user("v")) == "uav"


# --- generate --------------------------------------------------------------------------------------------------------

INSERT = "{{- if .Suffix }}<PRE> {{ .Prompt }} <SUF>{{ .Suffix }} <MID>{{- else }}{{ .Prompt }}{{- end }}"


def test_suffix_runs_the_insert_branch() -> None:
    template = parse_template(INSERT)
    assert template.capabilities() == ("insert",)
    assert render_generate(template, "def add(", suffix="return x") == "<PRE> def add( <SUF>return x <MID>"
    assert render_generate(template, "hi") == "hi"


def test_generate_is_a_conversation_of_one_message() -> None:
    template = parse_template("{{ range .Messages }}{{ .Role }}:{{ .Content }};{{ end }}")
    assert render_generate(template, "p", system="s", response="r") == "system:s;user:p;assistant:r;"


# --- what a template tells about itself ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "capabilities"),
    [
        (
            "{{ .prompt }}{{ if .tools }}{{ .tools }}{{ end }}{{ if .suffix }}{{ .suffix }}{{ end }}",
            ("tools", "insert"),
        ),
        ("{{ .Prompt }}", ()),
        ('{{ define "x" }}{{ .Tools }}{{ end }}', ("tools",)),
        (
            "{{ range .Messages }}{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ end }}",
            ("thinking",),
        ),
    ],
)
def test_capabilities_follow_from_the_names_used(text: str, capabilities: tuple[str, ...]) -> None:
    assert parse_template(text).capabilities() == capabilities


def test_variables_are_lower_cased_fields_and_variables() -> None:
    text = (
        "{{ range $i, $Msg := .Messages }}{{ if eq (print $Msg.Role .A.B) `x` }}{{ (index .C 0).D }}{{ end }}{{ end }}"
    )
    assert parse_template(text).variables() == {"messages", "i", "msg", "role", "a", "b", "c", "d"}


@pytest.mark.parametrize(
    ("body", "tag"),
    [
        ('{{if .ToolCalls}}{{range .ToolCalls}}<tool_call>{"name": {{.}}}</tool_call>{{end}}{{end}}', "<tool_call>"),
        ('{{if .ToolCalls}}[{{range .ToolCalls}}{"name"}{{end}}]{{end}}', "["),
        ('{{if .ToolCalls}}{{range .ToolCalls}}{"name": {{.}}}{{end}}{{end}}', "{"),
        ("{{if .ToolCalls}}{{range .ToolCalls}}{{ . }}{{end}}]{{end}}", "{"),
        ("{{if .ToolCalls}}Action: ```json{{range .ToolCalls}}{{.}}{{end}}{{end}}", "Action: ```json"),
        ('{{if .ToolCalls}} functools[{"x"}{{end}}', "functools["),
        ("{{if and .Content .ToolCalls}} [TOOL_CALL] [{{range .ToolCalls}}{{.}}{{end}}{{end}}", "[TOOL_CALL] ["),
        ("{{ .Content }}", "{"),
    ],
)
def test_tool_tag_is_the_text_that_opens_calls(body: str, tag: str) -> None:
    assert parse_template("{{ range .Messages }}" + body + "{{ end }}").tool_tag() == tag


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        (
            "{{ range .Messages }}{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ end }}",
            ("<think>", "</think>"),
        ),
        (
            "{{ range $i, $m := $.Messages }}{{ if $m.Thinking }}\n[T] {{ $m.Thinking }} [/T]\n{{ end }}{{ end }}",
            ("[T]", "[/T]"),
        ),
        ("{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}", None),
        ("{{ range .Messages }}{{ .Thinking }}{{ end }}", None),
        ("{{ range .Other }}<a>{{ .Thinking }}</a>{{ end }}", None),
    ],
)
def test_thinking_tags_are_the_texts_around_thinking(text: str, tags: tuple[str, str] | None) -> None:
    assert parse_template(text).thinking_tags() == tags
