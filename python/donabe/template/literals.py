"""Constants as Go writes them: interpreted strings, characters, integers and floats."""

from __future__ import annotations

import math
import re

MAX_INT = 2**63 - 1
MIN_INT = -(2**63)

_SIMPLE_ESCAPES = {
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
    "\\": "\\",
}
_HEX_LENGTHS = {"x": 2, "u": 4, "U": 8}
_INTEGER = re.compile(r"[+-]?(0[xX](_?[0-9a-fA-F])+|0[bB](_?[01])+|0[oO](_?[0-7])+|0(_?[0-7])*|[1-9](_?[0-9])*)")
_DECIMAL = re.compile(r"[+-]?([0-9](_?[0-9])*)?\.?([0-9](_?[0-9])*)?([eE][+-]?[0-9]+)?")
_HEX_FLOAT = re.compile(r"[+-]?0[xX][0-9a-fA-F_]*\.?[0-9a-fA-F_]*[pP][+-]?[0-9]+")


def parse_string(raw: str) -> str:
    """The value of an interpreted string, given what stands between its quotes.

    Raises:
        ValueError: a bad escape.
    """
    if "\\" not in raw:
        return raw
    out: list[str] = []
    pos = 0
    while pos < len(raw):
        if raw[pos] != "\\":
            out.append(raw[pos])
            pos += 1
            continue
        char, pos = _escape(raw, pos, quote='"')
        out.append(char)
    return join_bytes("".join(out))


def parse_char(raw: str) -> int:
    """The code point of a character constant, given what stands between its quotes.

    Raises:
        ValueError: not exactly one character.
    """
    if raw.startswith("\\"):
        char, end = _escape(raw, 0, quote="'")
        if end != len(raw):
            raise ValueError("invalid syntax")
        code = ord(char)
        return code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code
    if len(raw) != 1:
        raise ValueError("invalid syntax")
    return ord(raw)


def _escape(raw: str, pos: int, *, quote: str) -> tuple[str, int]:
    """The character an escape at pos stands for, and the position after it. Bytes >= 0x80 are surrogate-escaped."""
    kind = raw[pos + 1 : pos + 2]
    if kind == quote:
        return quote, pos + 2
    if kind in _SIMPLE_ESCAPES:
        return _SIMPLE_ESCAPES[kind], pos + 2
    if kind in _HEX_LENGTHS:
        digits = raw[pos + 2 : pos + 2 + _HEX_LENGTHS[kind]]
        end = pos + 2 + _HEX_LENGTHS[kind]
        base = 16
    else:
        digits = raw[pos + 1 : pos + 4]
        end = pos + 4
        base = 8
    if len(digits) != end - pos - (2 if base == 16 else 1) or not _all_digits(digits, base):
        raise ValueError("invalid syntax")
    code = int(digits, base)
    if kind in ("u", "U"):
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            raise ValueError("invalid syntax")
        return chr(code), end
    if code > 0xFF:
        raise ValueError("invalid syntax")
    return (chr(code) if code < 0x80 else chr(0xDC00 + code)), end


def _all_digits(digits: str, base: int) -> bool:
    allowed = "0123456789abcdefABCDEF" if base == 16 else "01234567"
    return bool(digits) and all(char in allowed for char in digits)


def join_bytes(text: str) -> str:
    """Text whose surrogate-escaped bytes that now form UTF-8 became characters."""
    if text.isascii():
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text


def parse_number(text: str) -> int | float:
    """An integer or float constant.

    Raises:
        ValueError: with the message for the template's author.
    """
    digits = text.replace("_", "")
    if _INTEGER.fullmatch(text):
        value = _integer(digits)
        if not MIN_INT <= value <= MAX_INT:
            raise ValueError(f"integer overflow: {text[:40]!r}")
        return value
    if any("0" <= char <= "9" for char in text):
        number = math.nan
        if _HEX_FLOAT.fullmatch(text):
            number = _hex_float(digits)
        elif _DECIMAL.fullmatch(text):
            if not any(char in text for char in ".eE"):
                raise ValueError(f"integer overflow: {text[:40]!r}")
            number = float(digits)
        if math.isfinite(number):
            return number
    raise ValueError(f"bad number syntax: {text[:40]!r}")


def _integer(digits: str) -> int:
    sign = -1 if digits.startswith("-") else 1
    body = digits.lstrip("+-").lower()
    for prefix, base in (("0x", 16), ("0b", 2), ("0o", 8)):
        if body.startswith(prefix):
            return sign * int(body[2:], base)
    if len(body) > 1 and body.startswith("0"):
        return sign * int(body, 8)
    if len(body) > 20:
        return sign * 2**64
    return sign * int(body)


def _hex_float(digits: str) -> float:
    try:
        return float.fromhex(digits)
    except (ValueError, OverflowError):
        return math.nan
