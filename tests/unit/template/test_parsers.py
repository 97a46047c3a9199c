"""Answers of Go-template models: thinking and tool calls, whatever the chunks."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from donabe.template import ThinkingParser, ToolParser
from donabe.types import Tool

TOOLS = [Tool(name=name) for name in ("add", "get_x", "say_hello", "say_hello_world")]


def run_tools(tag: str, *chunks: str) -> tuple[str, list[tuple[str, object]]]:
    ids = iter(range(1000))
    parser = ToolParser(TOOLS, tag, new_id=lambda: str(next(ids)))
    results = [parser.feed(chunk) for chunk in chunks] + [parser.finish()]
    calls = [call for _, found in results for call in found]
    assert [call.index for call in calls] == list(range(len(calls)))
    return "".join(content for content, _ in results), [(call.name, json.loads(call.arguments)) for call in calls]


def run_thinking(opening: str, closing: str, *chunks: str, started: bool = False) -> tuple[str, str]:
    parser = ThinkingParser(opening, closing, started)
    results = [parser.feed(chunk) for chunk in chunks] + [parser.finish()]
    return "".join(thinking for thinking, _ in results), "".join(content for _, content in results)


CALLS = [
    (
        "<tool_call>",
        'Let me. <tool_call>{"name":"add","arguments":{"a":"1"}}</tool_call>',
        "Let me. ",
        [("add", {"a": "1"})],
    ),
    ("<tool_call>", '<tool_call>{"name":"add"}</tool_call> done', "", [("add", {})]),
    ("<tool_call>", '<tool_call>{"name":"add","parameters":{"b":2}}', "", [("add", {"b": 2})]),
    ("<tool_call>", '<tool_call>{"name":"add","arguments":"{\\"a\\":1}"}', "", [("add", {"a": 1})]),
    ("<tool_call>", '<tool_call>{"add":{"a":1}}', "", [("add", {"a": 1})]),
    ("<tool_call>", '<tool_call>add {"a":1}', "", [("add", {"a": 1})]),
    (
        "<tool_call>",
        '<tool_call>{"type":"function","function":{"name":"add","arguments":{"a":1}}}',
        "",
        [("add", {"a": 1})],
    ),
    (
        "<tool_call>",
        '<tool_call>{"name":"add","arguments":{"a":1}}</tool_call>\n<tool_call>{"name":"get_x","arguments":{}}</tool_call>',
        "",
        [("add", {"a": 1}), ("get_x", {})],
    ),
    ("<tool_call>", '<tool_call>{"name":"say_hello_world","arguments":{}}', "", [("say_hello_world", {})]),
    ("<tool_call>", '<tool_call>{"name":"add","arguments":{"s":"}{ add \\" }"}}', "", [("add", {"s": '}{ add " }'})]),
    ("<tool_call>", "a <tool_", "a <tool_", []),
    ("<tool_call>", '<tool_call>{"name":"unknown"}</tool_call>', '<tool_call>{"name":"unknown"}</tool_call>', []),
    ("{", 'Hello {"name":"add","arguments":{}}', 'Hello {"name":"add","arguments":{}}', []),
    ("{", '{"name": "unknown"}', '{"name": "unknown"}', []),
    ("{", ' \n{"name":"add","arguments":{"a":1}} after', " \n after", [("add", {"a": 1})]),
    ("{", '{"name":"add","arguments":{"a":1}', '{"name":"add","arguments":{"a":1}', []),
    (
        "[",
        '[{"name":"add","arguments":{"a":1}},{"name":"get_x","arguments":{}}] ok',
        " ok",
        [("add", {"a": 1}), ("get_x", {})],
    ),
    ("[", '[{"name":"add","arguments":{"l":["]"]}}]', "", [("add", {"l": ["]"]})]),
    ("[", "[1] see", "[1] see", []),
    ("[", "plain", "plain", []),
    ("[TOOL_CALLS] [", '[TOOL_CALLS] [{"name":"add","arguments":{}}]', "", [("add", {})]),
]


@pytest.mark.parametrize(("tag", "text", "content", "calls"), CALLS)
def test_calls_are_found_and_content_kept(tag: str, text: str, content: str, calls: list[object]) -> None:
    assert run_tools(tag, text) == (content, calls)
    assert run_tools(tag, *text) == (content, calls)


def test_name_that_may_become_longer_is_waited_for() -> None:
    parser = ToolParser(TOOLS, "<t>")
    assert parser.feed('<t>{"a":{}} say_hello') == ("", ())
    _, calls = parser.feed(" ")
    assert [call.name for call in calls] == ["say_hello"]


def test_without_tools_everything_is_content() -> None:
    assert ToolParser((), "{").feed('{"name":"add"}') == ('{"name":"add"}', ())


def test_call_is_given_out_as_soon_as_it_is_complete() -> None:
    parser = ToolParser(TOOLS, "<t>")
    parser.feed('<t>{"name":"add","arguments":{}')
    _, calls = parser.feed("}")
    assert [call.name for call in calls] == ["add"]
    assert calls[0].id.startswith("call_")
    assert len(calls[0].id) == 13


THINKING = [
    ("<think>a</think>b", "a", "b"),
    (" \n<think> \n a </think>\n\n b ", "a ", "b "),
    ("  plain <think>x</think>", "", "  plain <think>x</think>"),
    ("<thin", "", "<thin"),
    ("<think>a</thi", "a</thi", ""),
    ("<think>a<b</c></think>", "a<b</c>", ""),
    ("", "", ""),
]


@pytest.mark.parametrize(("text", "thinking", "content"), THINKING)
def test_leading_block_is_thinking(text: str, thinking: str, content: str) -> None:
    assert run_thinking("<think>", "</think>", text) == (thinking, content)
    assert run_thinking("<think>", "</think>", *text) == (thinking, content)


def test_prompt_that_ends_with_the_tag_starts_inside_thinking() -> None:
    parser = ThinkingParser.for_prompt("<think>", "</think>", "assistant\n<think>\n")
    assert parser.feed("why</think> so") == ("why", "so")


def test_thinking_streams_its_blanks() -> None:
    parser = ThinkingParser("<think>", "</think>", started=True)
    assert parser.feed("a \n") == ("a \n", "")
    assert parser.feed("b <") == ("b ", "")


# --- chunks make no difference ---------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        "add",
        "get_x",
        "say_hello",
        "say_hello_world",
        "say_",
        "{",
        "}",
        "[",
        "]",
        '"',
        ":",
        ",",
        "\\",
        " ",
        "\n",
        "x",
        "é",
        '{"name":"add","arguments":{"a":1}}',
        '"name":"get_x"',
        '"arguments":{}',
        "<tool_call>",
        "</tool_call>",
        "<tool_",
        "<think>",
        "</think>",
        "<thi",
        "</th",
        "<",
    ]
)
TEXTS = st.lists(PIECES, max_size=14).map("".join)
TAGS = st.sampled_from(["{", "[", "<tool_call>", "say", "functools["])


@settings(max_examples=300, deadline=None)
@given(TEXTS, TAGS, st.lists(st.integers(0, 80), max_size=8))
def test_tool_parser_streamed_equals_unstreamed(text: str, tag: str, cuts: list[int]) -> None:
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    chunks = [text[a:b] for a, b in itertools.pairwise(places)]
    assert run_tools(tag, *chunks) == run_tools(tag, text) == run_tools(tag, *text)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_tool_parser_loses_nothing_without_calls(text: str) -> None:
    content, calls = run_tools("<tool_call>", text)
    assert calls or content == text


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.booleans(), st.lists(st.integers(0, 80), max_size=8))
def test_thinking_parser_streamed_equals_unstreamed(text: str, started: bool, cuts: list[int]) -> None:
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    chunks = [text[a:b] for a, b in itertools.pairwise(places)]
    whole = run_thinking("<think>", "</think>", text, started=started)
    assert run_thinking("<think>", "</think>", *chunks, started=started) == whole
    assert run_thinking("<think>", "</think>", *text, started=started) == whole
