"""Wraps streamed text at word boundaries. A word that turns out too long for its line is taken back and written on the
next one, so that text shows as soon as it arrives.
"""

from __future__ import annotations

import unicodedata
from typing import TextIO

_MIN_WIDTH = 10


class WrappedWriter:
    """Writes to a stream, at most `width` columns a line; None (no terminal, or too narrow) writes as it comes."""

    def __init__(self, stream: TextIO, width: int | None) -> None:
        self._stream = stream
        self._width = width if width is not None and width >= _MIN_WIDTH else None
        self._column = 0
        self._word = ""
        self._word_width = 0

    def write(self, text: str) -> None:
        self._stream.write(text if self._width is None else "".join(map(self._step, text)))
        self._stream.flush()

    def _step(self, character: str) -> str:
        assert self._width is not None, "without a width nothing is stepped"
        if character == "\n":
            self._column = 0
            self._start_word()
            return character
        size = _columns(character)
        if character in " \t":
            self._column += size
            self._start_word()
            return character
        if self._column + size > self._width:
            return self._break_line(character, size)
        self._column += size
        self._word += character
        self._word_width += size
        return character

    def _break_line(self, character: str, size: int) -> str:
        word, width = self._word, self._word_width
        if width + size > (self._width or 0) or width == 0 or size == 2:  # nothing to move, or no word boundaries
            self._word, self._word_width = (character, size) if size == 1 else ("", 0)
            self._column = size
            return "\n" + character
        self._word, self._word_width = word + character, width + size
        self._column = self._word_width
        return f"\x1b[{width}D\x1b[K\n{word}{character}"

    def _start_word(self) -> None:
        self._word, self._word_width = "", 0


def _columns(character: str) -> int:
    if character == "\t":
        return 8
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
