"""Reads a Modelfile: bytes to text to commands, by the reference system's character machine with all its quirks.

The quirks matter, because published Modelfiles rely on them: a quoted value closes only at the end of a line,
characters that do not print are dropped from values, and CR and LF both end a line. What the commands mean is
`definition`'s work.
"""

from __future__ import annotations

import codecs
import enum
import unicodedata
from dataclasses import dataclass

from donabe.errors import InvalidRequestError

KEYWORDS = (
    "from",
    "license",
    "template",
    "system",
    "adapter",
    "draft",
    "renderer",
    "parser",
    "parameter",
    "message",
    "requires",
)
ROLES = ("system", "user", "assistant")
MAX_MODELFILE_BYTES = 16 << 20

_NEWLINES = "\r\n"
_BLANKS = " \t"
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"})
_PIECES = '", "'


@dataclass(frozen=True, slots=True)
class Command:
    """One instruction.

    Attributes:
        keyword: One of `KEYWORDS`.
        value: Its text, unquoted.
        name: The parameter's name or the message's role; "" otherwise.
    """

    keyword: str
    value: str
    name: str = ""


class _State(enum.Enum):
    NIL = 0
    KEYWORD = 1
    PARAMETER = 2
    ROLE = 3
    VALUE = 4
    COMMENT = 5


def parse_modelfile(source: bytes | str) -> tuple[Command, ...]:
    """The commands of a Modelfile, in order.

    Args:
        source: UTF-8, or UTF-16 with a byte order mark; or decoded text.

    Raises:
        InvalidRequestError: bad syntax, or no FROM.
    """
    text = source if isinstance(source, str) else decode_modelfile(source)
    commands = parse_commands(text)
    if not any(command.keyword == "from" for command in commands):
        raise modelfile_error("no FROM line", hint="begin the Modelfile with FROM and a model name or file")
    return commands


def decode_modelfile(data: bytes) -> str:
    """The text of a Modelfile; bytes that are not UTF-8 become U+FFFD.

    Raises:
        InvalidRequestError: it is larger than any Modelfile may be.
    """
    if len(data) > MAX_MODELFILE_BYTES:
        raise modelfile_error(f"the Modelfile is larger than {MAX_MODELFILE_BYTES} bytes")
    for mark, encoding in ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")):
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    return data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace")


def parse_commands(text: str) -> tuple[Command, ...]:
    """Like `parse_modelfile` for decoded text, but a missing FROM is allowed."""
    machine = _Machine()
    for char in text:
        machine.feed(char)
    return machine.finish()


def modelfile_error(message: str, *, hint: str | None = None) -> InvalidRequestError:
    """The error for something wrong in a Modelfile."""
    return InvalidRequestError(message, field="modelfile", hint=hint)


def unquote(text: str) -> str | None:
    """The value that trimmed text stands for, or None while its closing quote is missing."""
    if text.startswith('"""'):
        return text[3:-3] if len(text) >= 6 and text.endswith('"""') else None
    if text.startswith('"'):
        return text[1:-1] if len(text) >= 2 and text.endswith('"') else None
    return text


class _Machine:
    def __init__(self) -> None:
        self._state = _State.NIL
        self._line = 1
        self._buffer: list[str] = []
        self._first_mark = self._last_mark = ""  # of the value's characters that are not blank
        self._keyword = ""
        self._name = ""
        self._commands: list[Command] = []
        self._handlers = {
            _State.NIL: self._nil,
            _State.KEYWORD: self._in_keyword,
            _State.PARAMETER: self._in_parameter,
            _State.ROLE: self._in_role,
            _State.VALUE: self._in_value,
            _State.COMMENT: self._in_comment,
        }

    def feed(self, char: str) -> None:
        if char in _NEWLINES:
            self._line += 1
        self._handlers[self._state](char)

    def finish(self) -> tuple[Command, ...]:
        if self._state is _State.VALUE:
            if not self._close_value():
                raise modelfile_error("unexpected EOF", hint="close the last quoted value")
        elif self._state not in (_State.NIL, _State.COMMENT):
            raise modelfile_error("unexpected EOF", hint="the last instruction has no value")
        return tuple(self._commands)

    def _take(self) -> str:
        text = "".join(self._buffer)
        self._buffer.clear()
        return text

    def _at_line(self, message: str) -> InvalidRequestError:
        return modelfile_error(f"(line {self._line}): {message}")

    def _nil(self, char: str) -> None:
        if char == "#":
            self._state = _State.COMMENT
        elif char not in _BLANKS + _NEWLINES:
            self._buffer.append(char)
            self._state = _State.KEYWORD

    def _in_comment(self, char: str) -> None:
        if char in _NEWLINES:
            self._state = _State.NIL

    def _in_keyword(self, char: str) -> None:
        if _is_letter(char):
            self._buffer.append(char)
            return
        keyword = "".join(self._buffer).lower()
        if char not in _BLANKS or keyword not in KEYWORDS:
            known = _PIECES.join(KEYWORDS[:-1])
            raise self._at_line(f'command must be one of "{known}", or "{KEYWORDS[-1]}"')
        self._buffer.clear()
        self._keyword, self._name = keyword, ""
        self._state = {"parameter": _State.PARAMETER, "message": _State.ROLE}.get(keyword, _State.VALUE)

    def _in_parameter(self, char: str) -> None:
        if _is_letter(char) or (char.isascii() and char.isdigit()) or char == "_":
            self._buffer.append(char)
        elif char in _BLANKS:
            self._name = self._take()
            self._state = _State.VALUE
        else:
            raise modelfile_error(f"unexpected EOF: {''.join(self._buffer)}", hint="write PARAMETER <name> <value>")

    def _in_role(self, char: str) -> None:
        if _is_letter(char):
            self._buffer.append(char)
        elif char in _BLANKS:
            self._name = self._take()
            if self._name not in ROLES:
                known = _PIECES.join(ROLES[:-1])
                raise self._at_line(f'message role must be one of "{known}", or "{ROLES[-1]}"')
            self._state = _State.VALUE
        else:
            raise modelfile_error(f"unexpected EOF: {''.join(self._buffer)}", hint="write MESSAGE <role> <text>")

    def _in_value(self, char: str) -> None:
        if char in _NEWLINES:
            if not self._close_value():
                self._buffer.append(char)
        elif char in _BLANKS:
            self._buffer.append(char)
        elif is_printable(char):
            self._buffer.append(char)
            self._first_mark = self._first_mark or char
            self._last_mark = char

    def _close_value(self) -> bool:
        """End the command if its value is complete."""
        if self._last_mark != '"' and self._first_mark == '"':
            return False  # long quoted texts are put together only where they may end
        value = unquote("".join(self._buffer).strip(_BLANKS + _NEWLINES))
        if value is None:
            return False
        self._commands.append(Command(self._keyword, value, self._name))
        self._buffer.clear()
        self._first_mark = self._last_mark = ""
        self._state = _State.NIL
        return True


def _is_letter(char: str) -> bool:
    return char.isascii() and char.isalpha()


def is_printable(char: str) -> bool:
    """Whether a character survives in a value: letters, marks, numbers, punctuation, symbols and the ASCII space."""
    return char == " " or unicodedata.category(char) not in _UNPRINTABLE
