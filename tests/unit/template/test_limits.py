"""Hostile templates: bounded in size, depth, output, steps and time, and never anything but a TemplateError."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from donabe.errors import TemplateError
from donabe.template import Limits, ToolParser, parse_template, render_chat, render_generate
from donabe.types import Message, Tool, ToolCall

TIGHT = Limits(max_output_chars=20_000, max_work_chars=50_000, max_steps=20_000, max_time_s=2.0)
MESSAGES = [
    Message(role="system", content="s"),
    Message(role="user", content="hello\n{{ .X }}"),
    Message(
        role="assistant", content="a", thinking="t", tool_calls=(ToolCall(name="f", arguments='{"a":[1,{"b":null}]}'),)
    ),
    Message(role="tool", content="r", tool_name="f"),
]
TOOLS = [Tool(name="f", description="d", parameters={"properties": {"a": {"type": "string"}}})]

BOMBS = [
    ("{{ range 1000000000 }}x{{ end }}", "longer than|more than"),
    ("{{ range 1000000000 }}{{ end }}", "more than 20000 steps"),
    ("{{ range 1000 }}{{ range 1000 }}{{ range 1000 }}{{ end }}{{ end }}{{ end }}", "more than 20000 steps"),
    ('{{ $x := "aaaaaaaa" }}{{ range 60 }}{{ $x = print $x $x }}{{ end }}', "more than 50000 characters"),
    ('{{ $x := "aaaaaaaa" }}{{ range 60 }}{{ $x = printf "%s%s" $x $x }}{{ end }}', "more than 50000 characters"),
    ('{{ printf "%999999d" 1 }}', "more than 50000 characters"),
    ('{{ printf "%999999[1]d%999999[1]d" 1 }}', "more than 50000 characters"),
    ('{{ define "x" }}{{ template "x" . }}{{ end }}{{ template "x" . }}', "maximum template depth"),
    ('{{ define "x" }}{{ range 9 }}{{ template `x` }}{{ end }}{{ end }}{{ template "x" . }}', "maximum template depth"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BOMBS)
def test_bomb_is_stopped_by_a_limit(text: str, message: str) -> None:
    template = parse_template(text, limits=TIGHT)
    started = time.monotonic()
    with pytest.raises(TemplateError, match=message):
        render_generate(template, "x")
    assert time.monotonic() - started < 2.0


def test_default_limits_stop_an_endless_loop_in_time() -> None:
    template = parse_template("{{ range 1000000000000 }}{{ end }}", limits=Limits(max_time_s=0.05))
    with pytest.raises(TemplateError, match=r"runs longer than 0\.05 s"):
        render_generate(template, "x")


def test_exchanges_of_one_conversation_share_the_limits() -> None:
    template = parse_template("{{ range 1000 }}{{ end }}{{ .Prompt }}{{ .Response }}", limits=TIGHT)
    messages = [Message(role=role, content="x") for _ in range(50) for role in ("user", "assistant")]
    with pytest.raises(TemplateError, match="steps"):
        render_chat(template, messages)


@pytest.mark.parametrize("depth", [64, 65, 5000])
@pytest.mark.parametrize(
    ("opening", "closing"),
    [("{{ if .A }}", "{{ end }}"), ("{{ range .A }}", "{{ end }}"), ("{{ with .A }}", "{{ end }}")],
)
def test_nesting_is_limited_while_parsing(depth: int, opening: str, closing: str) -> None:
    text = opening * depth + closing * depth
    if depth <= 64:
        assert render_generate(parse_template(text), "x") == ""
    else:
        with pytest.raises(TemplateError, match="nested deeper than 64 levels"):
            parse_template(text)


@pytest.mark.parametrize("depth", [64, 65, 6000])
def test_parentheses_are_limited_while_parsing(depth: int) -> None:
    text = "{{ " + "(" * depth + "1" + ")" * depth + " }}"
    with contextlib.nullcontext() if depth <= 64 else pytest.raises(TemplateError, match="nested deeper"):
        assert render_generate(parse_template(text), "x") == "1"


def test_long_else_if_chain_is_limited() -> None:
    with pytest.raises(TemplateError, match="nested deeper"):
        parse_template("{{ if .A }}" + "{{ else if .B }}" * 100 + "{{ end }}")


def test_source_is_limited() -> None:
    with pytest.raises(TemplateError, match="characters long, the limit is 262144"):
        parse_template("x" * 300_000)


def test_deeply_nested_values_are_refused_not_crashed_on() -> None:
    arguments = '{"a":' * 500 + "1" + "}" * 500
    message = Message(role="assistant", tool_calls=(ToolCall(name="f", arguments=arguments),))
    for text in (
        "{{ .Function.Arguments }}",
        "{{ range .Function.Arguments }}{{ . }}{{ end }}",
        "{{ json .Function }}",
    ):
        template = parse_template("{{ range .Messages }}{{ range .ToolCalls }}" + text + "{{ end }}{{ end }}")
        with pytest.raises(TemplateError, match="nested deeper than 100 levels"):
            render_chat(template, [message])


def test_deeply_nested_tool_schema_is_refused() -> None:
    schema: dict[str, object] = {"type": "string"}
    for _ in range(200):
        schema = {"type": "object", "properties": {"p": schema}}
    template = parse_template("{{ .Tools }}{{ range .Messages }}{{ end }}")
    with pytest.raises(TemplateError, match="nested deeper than 64 levels"):
        render_chat(template, MESSAGES, tools=[Tool(name="f", parameters=schema)])


# --- anything at all -------------------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        "{{",
        "}}",
        "{{-",
        "-}}",
        "if",
        "else",
        "end",
        "range",
        "with",
        "define",
        "template",
        "block",
        "break",
        "continue",
        "nil",
        "true",
        ".",
        ".A",
        ".Messages",
        ".Content",
        ".ToolCalls",
        ".Tools",
        ".Prompt",
        ".Response",
        "$",
        "$x",
        "$i",
        ",",
        ":=",
        "=",
        "|",
        "(",
        ")",
        "and",
        "or",
        "not",
        "eq",
        "lt",
        "index",
        "slice",
        "len",
        "print",
        "printf",
        "json",
        "html",
        "js",
        "urlquery",
        "call",
        "toTypeScriptType",
        "currentDate",
        "1",
        "-3",
        "1.5",
        "'a'",
        '"s"',
        '"%d%v"',
        "`r`",
        '"%9999d"',
        "/*",
        "*/",
        "0x",
        "text",
        ".Role",
        "$x.Role",
        ".Function.Arguments",
        "99999999999999999999",
        "1e400",
        '"\\xff"',
        '"\\ud800"',
    ]
)
SNIPPETS = st.sampled_from(
    [
        "{{ range .Messages }}",
        "{{ range $i, $x := .Messages }}",
        "{{ range .Tools }}",
        "{{ if .Content }}",
        "{{ end }}",
        "{{ else }}",
        "{{ $x := .Messages }}",
        "{{ . }}",
        "{{ json . }}",
        "{{ .ToolCalls }}",
        '{{ printf "%v %d %s" . 1 }}',
        "{{ len . }}",
        "{{ index .Messages 1 }}",
        "{{ slice .Content 1 }}",
        "{{ .Prompt }}",
        "{{ range 99999999 }}",
        "text",
        "\n",
    ]
)
SOURCES = st.one_of(
    st.lists(PIECES, max_size=30).map(" ".join),
    st.lists(SNIPPETS, max_size=20).map("".join),
    st.lists(st.one_of(PIECES, SNIPPETS), max_size=25).map("".join),
    st.text(max_size=60),
)


@settings(max_examples=500, deadline=None)
@given(SOURCES)
def test_random_template_fails_with_template_error_or_renders(source: str) -> None:
    with contextlib.suppress(TemplateError):
        template = parse_template(source, limits=TIGHT)
        template.capabilities()
        tag = template.tool_tag()
        assert tag
        ToolParser(TOOLS, tag).feed(source)
        for think in (None, True):
            with contextlib.suppress(TemplateError):
                render_chat(template, MESSAGES, tools=TOOLS, think=think).encode()
        render_generate(template, "p", suffix="s").encode()


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=8)
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=12,
)
RANDOM_MESSAGES = st.lists(
    st.builds(
        Message,
        role=st.sampled_from(["system", "user", "assistant", "tool", "developer", ""]),
        content=st.text(st.characters(codec=None), max_size=20),
        thinking=st.text(max_size=5),
    ),
    max_size=8,
)


@settings(max_examples=200, deadline=None)
@given(RANDOM_MESSAGES, st.dictionaries(st.text(max_size=10), JSON, max_size=4), JSON)
def test_random_messages_and_schemas_render(messages: list[Message], schema: dict[str, object], prop: object) -> None:
    text = (
        "{{ .System }}{{ .Tools }}{{ range .Tools }}{{ . }}{{ .Function }}{{ .Function.Parameters }}"
        "{{ range $n, $p := .Function.Parameters.Properties }}"
        "{{ $n }}{{ $p }}{{ $p.Type }}{{ toTypeScriptType $p }}{{ end }}"
        "{{ end }}{{ range .Messages }}{{ .Role }}{{ .Content }}{{ json . }}{{ . }}{{ end }}"
    )
    hard = {"anyOf": prop, "type": prop, "enum": prop, "items": prop}
    schema = {"type": prop, "properties": {"p": prop, "q": hard}} | schema
    render_chat(parse_template(text), messages, tools=[Tool(name="f", parameters=schema)]).encode()
