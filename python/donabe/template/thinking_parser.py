"""Splits an answer into thinking and content by the tags its Go template shows, as the text streams in.

Only a leading block is thinking: without an opening tag at the start (after blanks) everything is content, unchanged.
The result does not depend on how the text is cut into chunks.
"""

from __future__ import annotations

import enum


class _State(enum.Enum):
    START = 0  # nothing but blanks and a possible piece of the opening tag so far
    THINKING_START = 1  # blanks after the opening tag are skipped
    THINKING = 2
    CONTENT_START = 3  # blanks after the closing tag are skipped
    CONTENT = 4


class ThinkingParser:
    """The parser of one answer; used by one thread.

    Args:
        opening: Tag that begins thinking.
        closing: Tag that ends it.
        started: The prompt already ends with the opening tag, so the answer begins inside thinking.
    """

    def __init__(self, opening: str, closing: str, started: bool = False) -> None:
        if not opening or not closing:
            raise ValueError("both thinking tags must have text")
        self._opening = opening
        self._closing = closing
        self._held = ""
        self._state = _State.THINKING_START if started else _State.START

    @classmethod
    def for_prompt(cls, opening: str, closing: str, prompt: str) -> ThinkingParser:
        """A parser for the answer to `prompt`, which may end with the opening tag."""
        return cls(opening, closing, started=prompt.rstrip().endswith(opening.strip()))

    @property
    def is_started(self) -> bool:
        """Whether the next text is thinking for sure."""
        return self._state in (_State.THINKING_START, _State.THINKING)

    def feed(self, text: str) -> tuple[str, str]:
        """Take the next piece of the answer; returns what is new of (thinking, content)."""
        self._held += text
        thinking = ""
        if self._state is _State.START:
            self._skip_opening()
        if self._state is _State.THINKING_START:
            self._skip_blanks(_State.THINKING)
        if self._state is _State.THINKING:
            thinking = self._take_thinking()
        if self._state is _State.CONTENT_START:
            self._skip_blanks(_State.CONTENT)
        return thinking, self._take_content()

    def finish(self) -> tuple[str, str]:
        """The answer is over; returns what was held back of (thinking, content)."""
        held, self._held = self._held, ""
        is_thinking = self._state in (_State.THINKING_START, _State.THINKING)
        self._state = _State.CONTENT
        return (held, "") if is_thinking else ("", held)

    def _skip_opening(self) -> None:
        text = self._held.lstrip()
        if text.startswith(self._opening):
            self._held = text[len(self._opening) :]
            self._state = _State.THINKING_START
        elif not self._opening.startswith(text):
            self._state = _State.CONTENT

    def _skip_blanks(self, then: _State) -> None:
        self._held = self._held.lstrip()
        if self._held:
            self._state = then

    def _take_thinking(self) -> str:
        thinking, found, rest = self._held.partition(self._closing)
        if found:
            self._held = rest
            self._state = _State.CONTENT_START
            return thinking
        n_held = partial_length(self._held, self._closing)
        cut = len(self._held) - n_held
        thinking, self._held = self._held[:cut], self._held[cut:]
        return thinking

    def _take_content(self) -> str:
        if self._state is not _State.CONTENT:
            return ""
        content, self._held = self._held, ""
        return content


def partial_length(text: str, tag: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `tag`."""
    for length in range(min(len(text), len(tag) - 1), 0, -1):
        if tag.startswith(text[-length:]):
            return length
    return 0
