"""Finds tool calls in the answers of models prompted by a Go template, as the text streams in.

Such models write calls in many JSON dialects. What they share: a tag opens them, a declared tool's name occurs, and an
object holds the arguments. Text before the tag is content; text after a call is not, unless the tag is a bracket and it
was closed. The result does not depend on how the text is cut into chunks. An answer whose calls name no declared tool
is content.
"""

from __future__ import annotations

import enum
import secrets
import string
from collections.abc import Callable, Sequence

import msgspec

from donabe.template.thinking_parser import partial_length
from donabe.types import Tool, ToolCall

Result = tuple[str, tuple[ToolCall, ...]]

_ID_ALPHABET = string.ascii_lowercase + string.digits
_CLOSING = {"{": "}", "[": "]"}


class _State(enum.Enum):
    SEARCHING = 0  # the tag has not come yet
    CALLING = 1
    CONTENT = 2  # everything that follows is content


def new_call_id() -> str:
    """A random id of the form clients know."""
    return "call_" + "".join(secrets.choice(_ID_ALPHABET) for _ in range(8))


class ToolParser:
    """The parser of one answer; used by one thread.

    Args:
        tools: What the model may call.
        tag: What opens a call (`GoTemplate.tool_tag()`).
        new_id: Makes the ids of calls.
    """

    def __init__(self, tools: Sequence[Tool], tag: str = "{", *, new_id: Callable[[], str] = new_call_id) -> None:
        self._names = tuple(sorted({tool.name for tool in tools if tool.name}, key=len, reverse=True))
        self._tag = tag or "{"
        self._new_id = new_id
        self._state = _State.SEARCHING if self._names else _State.CONTENT
        self._buffer = ""  # from the tag on while calling, else text that may become the tag
        self._n_calls = 0
        self._is_blank = True  # no content but blanks was given out
        self._start = 0  # where the next call is looked for
        self._names_from = 0  # no name begins before this
        self._objects = _ObjectScanner()
        self._brackets = _BracketScanner(self._tag) if self._tag in _CLOSING else None

    def feed(self, text: str) -> Result:
        """Take the next piece of the answer; returns new content and new complete calls."""
        if self._state is _State.CONTENT:
            return text, ()
        self._buffer += text
        content = self._search() if self._state is _State.SEARCHING else ""
        if self._state is not _State.CALLING:
            return content, ()
        end = self._brackets.feed(self._buffer) if self._brackets else None
        if end is None:
            return content, self._take_calls(self._buffer, final=False)
        calls = self._take_calls(self._buffer[:end], final=True)
        tail = self._buffer[end:] if self._n_calls else self._buffer
        self._become_content()
        return content + tail, calls

    def finish(self) -> Result:
        """The answer is over; returns what was held back."""
        if self._state is not _State.CALLING:
            held = self._buffer
            self._become_content()
            return held, ()
        calls = self._take_calls(self._buffer, final=True)
        content = "" if self._n_calls else self._buffer
        self._become_content()
        return content, calls

    def _become_content(self) -> None:
        self._state = _State.CONTENT
        self._buffer = ""

    def _search(self) -> str:
        """Content before the tag; what may still become the tag stays in the buffer."""
        before, found, _ = self._buffer.partition(self._tag)
        if not found:
            cut = len(self._buffer) - partial_length(self._buffer, self._tag)
            before = self._buffer[:cut]
        self._is_blank = self._is_blank and not before.strip()
        if self._brackets and not self._is_blank:
            # A bracket means a call only at the start of the answer.
            content = self._buffer
            self._become_content()
            return content
        self._buffer = self._buffer[len(before) :]
        if found:
            self._state = _State.CALLING
        return before

    def _take_calls(self, region: str, *, final: bool) -> tuple[ToolCall, ...]:
        """All calls that are complete in the text from the tag on. Not `final`: more text may follow."""
        calls: list[ToolCall] = []
        while True:
            found = self._find_name(region, final=final)
            if found is None:
                break
            at, name = found
            span = self._objects.find(region, self._start)
            if span is None:
                break
            end, value = span
            calls.append(
                ToolCall(name=name, arguments=_arguments_text(value, name), id=self._new_id(), index=self._n_calls)
            )
            self._n_calls += 1
            self._start = max(at + len(name), end)
            self._names_from = self._start
            self._objects = _ObjectScanner()
        return tuple(calls)

    def _find_name(self, region: str, *, final: bool) -> tuple[int, str] | None:
        """The earliest tool name, the longest of those at one place; None while a longer or earlier one may come."""
        best: tuple[int, str] | None = None
        for name in self._names:  # longest first
            at = region.find(name, self._names_from)
            if at >= 0 and (best is None or at < best[0]):
                best = at, name
        if best is None:
            self._names_from = max(self._names_from, len(region) - len(self._names[0]))
        if best is None or final:
            return best
        for name in self._names:
            pending = len(region) - partial_length(region[max(self._start, len(region) - len(name)) :], name)
            if pending < len(region) and (pending < best[0] or (pending == best[0] and len(name) > len(best[1]))):
                return None
        return best


class _BracketScanner:
    """Where the bracket that opened the calls is closed; brackets in JSON strings do not count."""

    def __init__(self, opening: str, at: int = 0) -> None:
        self._opening = opening
        self._closing = _CLOSING[opening]
        self._at = at
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def feed(self, text: str) -> int | None:
        """Go on in the text, which only grew since the last call; returns the end of the bracket's span."""
        for index in range(self._at, len(text)):
            char = text[index]
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped = char == "\\"
                self._in_string = char != '"'
            elif char == '"':
                self._in_string = True
            elif char == self._opening:
                self._depth += 1
            elif char == self._closing:
                self._depth -= 1
                if self._depth == 0:
                    return index + 1
        self._at = len(text)
        return None


class _ObjectScanner:
    """The first `{…}` that is JSON. Goes on where it stopped when the text has grown; remembers what it found."""

    def __init__(self) -> None:
        self._next: int | None = None  # where to go on; None = not begun
        self._brackets: _BracketScanner | None = None
        self._begin = 0
        self._found: tuple[int, object] | None = None

    def find(self, text: str, start: int) -> tuple[int, object] | None:
        """(end, value) of the first object at or after `start`."""
        if self._next is None:
            self._next = start
        while self._found is None:
            if self._brackets is None:
                self._begin = text.find("{", self._next)
                if self._begin < 0:
                    self._next = len(text)
                    return None
                self._brackets = _BracketScanner("{", self._begin)
            end = self._brackets.feed(text)
            if end is None:
                return None
            self._next = end
            self._brackets = None
            value = _decode_object(text[self._begin : self._next])
            if value is not None:
                self._found = self._next, value
        return self._found


def _decode_object(text: str) -> dict[str, object] | None:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return None
    return value if isinstance(value, dict) else None


def _arguments_text(value: object, name: str) -> str:
    found = _find_arguments(value, name)
    return msgspec.json.encode(value if found is None else found).decode()


def _find_arguments(value: object, name: str) -> dict[str, object] | None:
    """The arguments in a call's object: beside `name`, under the tool's own name, or the same further inside."""
    if isinstance(value, dict):
        if "name" in value:
            for key in ("arguments", "parameters"):
                arguments = value.get(key)
                if isinstance(arguments, str):
                    arguments = _decode_object(arguments)
                if isinstance(arguments, dict):
                    return arguments
            return {}
        own = value.get(name)
        if isinstance(own, dict):
            return own
    elif not isinstance(value, list):
        return None
    for item in value.values() if isinstance(value, dict) else value:
        found = _find_arguments(item, name)
        if found is not None:
            return found
    return None
