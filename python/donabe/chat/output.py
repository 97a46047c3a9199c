"""Output text to content, thinking and tool calls, incrementally: one small parser per way a prompt was made.

A parser belongs to one completion and is used by one thread. `feed` may hold text back that could still become a tag;
`finish` gives the rest. Concatenating everything gives the same whatever the chunks were.
"""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from donabe.types import ToolCall

if TYPE_CHECKING:
    from donabe._core import ChatParser
    from donabe.template import ThinkingParser, ToolParser

_ID_ALPHABET = string.ascii_lowercase + string.digits


@dataclass(frozen=True, slots=True)
class Parsed:
    """What is new. `warning` says why output could not be parsed as the template promises."""

    text: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    warning: str = ""


class OutputParser(Protocol):
    """`is_costly`: call `feed` at intervals, not for every token."""

    @property
    def is_costly(self) -> bool: ...

    def feed(self, text: bytes) -> Parsed: ...

    def finish(self) -> Parsed: ...


class PlainOutput:
    """Everything is content."""

    is_costly = False

    def feed(self, text: bytes) -> Parsed:
        return Parsed(text=text.decode("utf-8", "replace"))

    def finish(self) -> Parsed:
        return Parsed()


class NativeOutput:
    """Answers to prompts of the native template engine. Each `feed` parses the whole answer again."""

    is_costly = True

    def __init__(self, parser: ChatParser) -> None:
        self._parser = parser
        self._spacing = _Spacing()

    def feed(self, text: bytes) -> Parsed:
        deltas = msgspec.json.decode(self._parser.feed(text))
        return self._spacing.trim(deltas["content"], deltas["thinking"])

    def finish(self) -> Parsed:
        """The rest, and all tool calls: they are passed on complete."""
        final = msgspec.json.decode(self._parser.finish())
        rest = self._spacing.trim(final["deltas"]["content"], final["deltas"]["thinking"])
        calls = tuple(_tool_call(call, index) for index, call in enumerate(final["tool_calls"]))
        warning = f"the answer was not parsed: {final['error']}" if final["error"] else ""
        return Parsed(text=rest.text, thinking=rest.thinking, tool_calls=calls, warning=warning)


class _Spacing:
    """Drops the white space that templates put around thinking: at both of its ends, and before what follows it."""

    def __init__(self) -> None:
        self._held = ""  # white space that is passed on only if more thinking follows
        self._has_thought = False
        self._has_content = False

    def trim(self, content: str, thinking: str) -> Parsed:
        thought = self._thought(thinking) if thinking else ""
        if self._has_thought and not self._has_content:
            content = content.lstrip()
        self._has_content |= bool(content)
        return Parsed(text=content, thinking=thought)

    def _thought(self, thinking: str) -> str:
        text = self._held + thinking if self._has_thought else thinking.lstrip()
        kept = text.rstrip()
        self._held = text[len(kept) :]
        self._has_thought |= bool(kept)
        return kept


class TemplateOutput:
    """Answers to prompts of a Go template: its thinking tags first, then its tool tag."""

    is_costly = False

    def __init__(self, thinking: ThinkingParser | None, tools: ToolParser | None) -> None:
        self._thinking = thinking
        self._tools = tools
        self._n_calls = 0

    def feed(self, text: bytes) -> Parsed:
        content = text.decode("utf-8", "replace")
        thought = ""
        if self._thinking is not None:
            thought, content = self._thinking.feed(content)
        calls: tuple[ToolCall, ...] = ()
        if self._tools is not None:
            content, calls = self._tools.feed(content)
        return Parsed(text=content, thinking=thought, tool_calls=self._numbered(calls))

    def finish(self) -> Parsed:
        thought, content = self._thinking.finish() if self._thinking is not None else ("", "")
        calls: tuple[ToolCall, ...] = ()
        if self._tools is not None:
            content, calls = self._tools.feed(content)
            rest, late = self._tools.finish()
            content, calls = content + rest, calls + late
        return Parsed(text=content, thinking=thought, tool_calls=self._numbered(calls))

    def _numbered(self, calls: tuple[ToolCall, ...]) -> tuple[ToolCall, ...]:
        numbered = tuple(
            msgspec.structs.replace(call, index=self._n_calls + i, id=call.id or new_call_id())
            for i, call in enumerate(calls)
        )
        self._n_calls += len(numbered)
        return numbered


def new_call_id() -> str:
    return "call_" + "".join(secrets.choice(_ID_ALPHABET) for _ in range(8))


def _tool_call(call: dict[str, Any], index: int) -> ToolCall:
    return ToolCall(
        name=call["name"], arguments=call["arguments"] or "{}", id=call.get("id") or new_call_id(), index=index
    )
