"""Output parsers: streamed equals whole, white space around thinking, complete tool calls."""

from __future__ import annotations

import pytest
from tests.fakes.native_chat import FakeParser

from donabe.chat.output import NativeOutput, OutputParser, Parsed, PlainOutput, TemplateOutput
from donabe.template import ThinkingParser, ToolParser
from donabe.types import Tool


def run(parser: OutputParser, text: str, size: int) -> Parsed:
    """Everything the parser says when it is fed `size` bytes at a time."""
    data = text.encode()
    parts = [parser.feed(data[i : i + size]) for i in range(0, len(data), size)]
    parts.append(parser.finish())
    return Parsed(
        text="".join(part.text for part in parts),
        thinking="".join(part.thinking for part in parts),
        tool_calls=tuple(call for part in parts for call in part.tool_calls),
        warning="".join(part.warning for part in parts),
    )


CASES = [
    ("just text ", "just text ", "", 0),
    ("<t>\nwhy \n not\n</t>\n\nbecause\n", "because\n", "why \n not", 0),
    ("<t> only thoughts ", "", "only thoughts", 0),
    ("<t></t>\n answer", "\n answer", "", 0),
    ('<t>x</t>\n\nCALL f {"a": 1}', "", "x", 1),
    ("  leading space stays", "  leading space stays", "", 0),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(("text", "content", "thinking", "n_calls"), CASES)
def test_native_output_is_the_same_for_any_chunks(
    text: str, content: str, thinking: str, n_calls: int, size: int
) -> None:
    parsed = run(NativeOutput(FakeParser()), text, size)
    assert (parsed.text, parsed.thinking, len(parsed.tool_calls)) == (content, thinking, n_calls)


def test_tool_call_without_id_gets_one() -> None:
    (call,) = run(NativeOutput(FakeParser()), 'CALL f {"a": 1}', 3).tool_calls
    assert (call.name, call.arguments, call.index) == ("f", '{"a": 1}', 0)
    assert call.id.startswith("call_")
    assert len(call.id) == 13


def test_text_that_does_not_parse_is_whole_with_a_warning() -> None:
    parsed = run(NativeOutput(FakeParser()), "some BROKEN CALL", 2)
    assert parsed.text == "some BROKEN CALL"
    assert parsed.warning == "the answer was not parsed: no match"


def test_plain_output_passes_text_through() -> None:
    assert run(PlainOutput(), "<t>é", 100).text == "<t>é"


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_go_template_output_splits_thinking_and_tools(size: int) -> None:
    tool = Tool(name="weather")
    parser = TemplateOutput(ThinkingParser("<think>", "</think>"), ToolParser((tool,), "<tool_call>"))
    text = '<think>hm</think>Let me see. <tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'
    parsed = run(parser, text, size)
    assert (parsed.thinking, parsed.text.strip()) == ("hm", "Let me see.")
    (call,) = parsed.tool_calls
    assert (call.name, call.index) == ("weather", 0)
    assert call.id.startswith("call_")
