"""JSON text as Go's encoding/json writes it: compact, map keys sorted, `<`, `>` and `&` escaped.

Stored layers are named by the digest of such text, and templates print it, so the bytes matter.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence

_MAX_DEPTH = 100
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_ESCAPED = re.compile("[<>&\u2028\u2029\ud800-\udfff]")
_SIMPLE_FLOAT = re.compile(r"-?\d+\.\d+")


class JsonStruct:
    """A value with fields in a fixed order; they are written in it."""

    __slots__ = ()

    def json_fields(self) -> Sequence[tuple[str, object]]:
        raise NotImplementedError


def go_json(value: object) -> str:
    """Encode None, bool, numbers, str, lists, tuples, mappings with str keys and `JsonStruct`s.

    Raises:
        ValueError: a NaN or infinity, a type that JSON does not have, or nesting deeper than 100.
    """
    parts: list[str] = []
    _encode(value, parts, 0)
    return "".join(parts)


def json_string(text: str) -> str:
    """A JSON string literal with Go's escapes. Lone surrogates become U+FFFD."""
    return _ESCAPED.sub(lambda match: _ESCAPES.get(match[0], "\ufffd"), json.dumps(text, ensure_ascii=False))


def json_float(value: float) -> str:
    """A JSON number: decimal notation unless the exponent is below -6 or above 20.

    Raises:
        ValueError: NaN or infinite.
    """
    if not math.isfinite(value):
        raise ValueError(f"unsupported value: {value}")
    text = repr(value)
    if value and not 1e-6 <= abs(value) < 1e21:
        mantissa, _, exponent = text.partition("e")
        sign = "-" if exponent.startswith("-") else "+"
        return f"{mantissa}e{sign}{exponent.lstrip('+-').lstrip('0')}"
    if _SIMPLE_FLOAT.fullmatch(text):
        return text.removesuffix(".0")
    from decimal import Decimal  # rare: 1e16 <= |x| < 1e21 and 1e-6 <= |x| < 1e-4

    return format(Decimal(text), "f")


def _encode(value: object, parts: list[str], depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError(f"value is nested deeper than {_MAX_DEPTH} levels")
    if value is None:
        parts.append("null")
    elif isinstance(value, bool):
        parts.append("true" if value else "false")
    elif isinstance(value, str):
        parts.append(json_string(value))
    elif isinstance(value, int):
        parts.append(str(int(value)))
    elif isinstance(value, float):
        parts.append(json_float(value))
    elif isinstance(value, JsonStruct):
        _encode_pairs(value.json_fields(), parts, depth)
    elif isinstance(value, Mapping):
        _encode_pairs(sorted(((str(key), item) for key, item in value.items()), key=lambda pair: pair[0]), parts, depth)
    elif isinstance(value, (list, tuple)):
        parts.append("[")
        for index, item in enumerate(value):
            if index:
                parts.append(",")
            _encode(item, parts, depth + 1)
        parts.append("]")
    else:
        raise ValueError(f"unsupported type: {type(value).__name__}")


def _encode_pairs(pairs: Sequence[tuple[str, object]], parts: list[str], depth: int) -> None:
    parts.append("{")
    for index, (key, item) in enumerate(pairs):
        parts.append(("," if index else "") + json_string(key) + ":")
        _encode(item, parts, depth + 1)
    parts.append("}")
