"""Splits template source into tokens: text outside the delimiters, words and symbols inside them.

Whitespace trimming (`{{-`, `-}}`) and comments are dealt with here, so the parser never sees them. Spaces inside an
action are tokens, because `.A.B` and `.A .B` mean different things.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from donabe.errors import TemplateError
from donabe.template.literals import parse_char, parse_number, parse_string

SPACES = " \t\r\n"
_LEFT = "{{"
_RIGHT = "}}"


class Kind(enum.Enum):
    """What a token is; the value is how messages name it."""

    TEXT = "text"
    LEFT = "{{"
    RIGHT = "}}"
    SPACE = "space"
    FIELD = "field"  # .Name
    DOT = "."
    VARIABLE = "variable"  # $name or $
    IDENTIFIER = "function"
    KEYWORD = "keyword"
    CONSTANT = "constant"
    NIL = "nil"
    DECLARE = ":="
    ASSIGN = "="
    COMMA = ","
    PIPE = "|"
    OPEN = "("
    CLOSE = ")"
    EOF = "EOF"


KEYWORDS = frozenset({"block", "break", "continue", "define", "else", "end", "if", "range", "template", "with"})


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of source. `value` is set for constants."""

    kind: Kind
    text: str
    at: int
    value: str | int | float | bool = ""

    def __str__(self) -> str:
        if self.kind is Kind.EOF:
            return "EOF"
        if self.kind is Kind.KEYWORD:
            return f"<{self.text}>"
        text = self.text if len(self.text) <= 10 else self.text[:10] + "..."
        return quote(text)


def quote(text: str) -> str:
    """Text in double quotes with escapes, for messages."""
    escaped = (
        text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    )
    return f'"{escaped}"'


def syntax_error(source: str, at: int, message: str, name: str = "") -> TemplateError:
    """The error for a place in the source, in the form the reference system reports to clients."""
    line = source.count("\n", 0, at) + 1
    return TemplateError(f"template: {name}:{line}: {message}")


def tokenize(source: str) -> list[Token]:
    """All tokens of a template, ending with EOF.

    Raises:
        TemplateError: an action that is not closed, a bad character, a bad constant.
    """
    return _Lexer(source).run()


class _Lexer:
    def __init__(self, source: str) -> None:
        self._src = source
        self._pos = 0
        self._tokens: list[Token] = []
        self._n_open = 0  # parentheses open in the current action

    def run(self) -> list[Token]:
        trim_next = False
        while True:
            left = self._src.find(_LEFT, self._pos)
            end = len(self._src) if left < 0 else left
            self._add_text(self._pos, end, trim_start=trim_next, trim_end=left >= 0 and self._trims_left(left))
            if left < 0:
                self._tokens.append(Token(Kind.EOF, "", len(self._src)))
                return self._tokens
            trim_next = self._action(left)

    def _add_text(self, start: int, end: int, *, trim_start: bool, trim_end: bool) -> None:
        text = self._src[start:end]
        if trim_start:
            text = text.lstrip(SPACES)
        if trim_end:
            text = text.rstrip(SPACES)
        if text:
            self._tokens.append(Token(Kind.TEXT, text, start))

    def _trims_left(self, left: int) -> bool:
        return self._src.startswith("-", left + 2) and self._src[left + 3 : left + 4] in tuple(SPACES)

    def _right_length(self, pos: int) -> int:
        """Length of the closing delimiter at pos (`}}` 2, ` -}}` 4), or 0."""
        if self._src.startswith(_RIGHT, pos):
            return 2
        if self._src[pos : pos + 1] in tuple(SPACES) and self._src.startswith("-}}", pos + 1):
            return 4
        return 0

    def _action(self, left: int) -> bool:
        """Read one `{{ … }}`; returns whether the following text is trimmed."""
        pos = left + (3 if self._trims_left(left) else 2)
        comment_at = pos + (1 if pos == left + 3 else 0)
        if self._src.startswith("/*", comment_at):
            return self._comment(comment_at)
        self._tokens.append(Token(Kind.LEFT, _LEFT, left))
        self._pos = pos
        self._n_open = 0
        while True:
            n = self._right_length(self._pos)
            if n:
                if self._n_open:
                    raise syntax_error(self._src, self._pos, "unclosed left paren")
                self._tokens.append(Token(Kind.RIGHT, _RIGHT, self._pos + n - 2))
                self._pos += n
                return n == 4
            if self._pos >= len(self._src):
                raise syntax_error(self._src, left, "unclosed action")
            self._inside()

    def _comment(self, start: int) -> bool:
        end = self._src.find("*/", start + 2)
        if end < 0:
            raise syntax_error(self._src, start, "unclosed comment")
        n = self._right_length(end + 2)
        if not n:
            raise syntax_error(self._src, end, "comment ends before closing delimiter")
        self._pos = end + 2 + n
        return n == 4

    def _emit(self, kind: Kind, end: int, value: str | int | float | bool = "") -> None:
        self._tokens.append(Token(kind, self._src[self._pos : end], self._pos, value))
        self._pos = end

    def _inside(self) -> None:
        """Read one token inside an action."""
        char = self._src[self._pos]
        following = self._src[self._pos + 1 : self._pos + 2]
        if char in SPACES:
            self._space()
        elif char == ":":
            if following != "=":
                raise syntax_error(self._src, self._pos, "expected :=")
            self._emit(Kind.DECLARE, self._pos + 2)
        elif char in _SYMBOLS:
            self._symbol(char)
        elif char in "\"`'":
            self._quoted(char)
        elif char == "$":
            self._variable()
        elif char == "." and not ("0" <= following <= "9"):
            self._field()
        elif char in "+-." or "0" <= char <= "9":
            self._number()
        elif is_word_char(char):
            self._word()
        else:
            raise syntax_error(self._src, self._pos, f"unrecognized character in action: {_describe(char)}")

    def _space(self) -> None:
        end = self._pos
        while end < len(self._src) and self._src[end] in SPACES and not self._right_length(end):
            end += 1
        self._emit(Kind.SPACE, end)

    def _symbol(self, char: str) -> None:
        if char == "(":
            self._n_open += 1
        elif char == ")":
            self._n_open -= 1
            if self._n_open < 0:
                raise syntax_error(self._src, self._pos, "unexpected right paren")
        self._emit(_SYMBOLS[char], self._pos + 1)

    def _quoted(self, char: str) -> None:
        end = self._pos + 1
        while True:
            at = self._src[end : end + 1]
            if not at or (at == "\n" and char != "`"):
                raise syntax_error(self._src, self._pos, _UNTERMINATED[char])
            if at == char:
                break
            end += 2 if at == "\\" and char != "`" else 1
        raw = self._src[self._pos + 1 : end]
        parse: dict[str, Callable[[str], str | int]] = {"`": _raw_string, '"': parse_string, "'": parse_char}
        try:
            value = parse[char](raw)
        except ValueError as exc:
            message = f"malformed character constant: '{raw}'" if char == "'" else str(exc)
            raise syntax_error(self._src, self._pos, message) from None
        self._emit(Kind.CONSTANT, end + 1, value)

    def _word_end(self, start: int) -> int:
        end = start
        while end < len(self._src) and is_word_char(self._src[end]):
            end += 1
        if end < len(self._src) and self._src[end] not in _TERMINATORS and not self._src.startswith(_RIGHT, end):
            raise syntax_error(self._src, end, f"bad character {_describe(self._src[end])}")
        return end

    def _field(self) -> None:
        end = self._word_end(self._pos + 1)
        self._emit(Kind.DOT if end == self._pos + 1 else Kind.FIELD, end)

    def _variable(self) -> None:
        self._emit(Kind.VARIABLE, self._word_end(self._pos + 1))

    def _word(self) -> None:
        end = self._word_end(self._pos)
        word = self._src[self._pos : end]
        if word in KEYWORDS:
            self._emit(Kind.KEYWORD, end)
        elif word in ("true", "false"):
            self._emit(Kind.CONSTANT, end, word == "true")
        else:
            self._emit(Kind.NIL if word == "nil" else Kind.IDENTIFIER, end)

    def _number(self) -> None:
        end = self._pos + 1
        while end < len(self._src):
            char = self._src[end]
            exponent = char in "+-" and self._src[end - 1] in "eEpP"
            if not (is_word_char(char) or char == "." or exponent):
                break
            end += 1
        text = self._src[self._pos : end]
        try:
            value = parse_number(text)
        except ValueError as exc:
            raise syntax_error(self._src, self._pos, str(exc)) from None
        self._emit(Kind.CONSTANT, end, value)


_SYMBOLS = {"=": Kind.ASSIGN, ",": Kind.COMMA, "|": Kind.PIPE, "(": Kind.OPEN, ")": Kind.CLOSE}
_TERMINATORS = SPACES + ".,|:()="
_UNTERMINATED = {
    '"': "unterminated quoted string",
    "`": "unterminated raw quoted string",
    "'": "unterminated character constant",
}


def _raw_string(raw: str) -> str:
    return raw.replace("\r", "")


def is_word_char(char: str) -> bool:
    """Whether a character may be part of a name: a letter, a decimal digit or `_`."""
    return char == "_" or char.isalpha() or char.isdecimal()


def _describe(char: str) -> str:
    shown = f" '{char}'" if char.isprintable() else ""
    return f"U+{ord(char):04X}{shown}"
