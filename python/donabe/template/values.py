"""The values templates compute with, and how Go sees them: truth, type names, printed form.

Go values are mirrored by None (nil), bool, int, float, str, list or tuple (slice), dict with str keys (map) and
`GoStruct`. Strings are Go byte strings: bytes that are not UTF-8 travel as surrogate escapes until the output is
assembled.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from donabe.template.gojson import JsonStruct, go_json

_MAX_DEPTH = 100
_NOT_BYTES = re.compile("[\ud800-\udc7f\udd00-\udfff]")
_SURROGATES = re.compile("[\ud800-\udfff]")


class CallError(Exception):
    """A function or a conversion failed; the evaluator adds the place and raises TemplateError."""


class GoStruct(JsonStruct):
    """A struct: named fields, a type name for messages, and how it prints.

    Args:
        type_name: As Go would name it.
        fields: In declaration order.
        printed: The pairs of the JSON object the bare value prints as; None prints as Go does, `{field field}`.
        is_json: `printed` is also its form inside other JSON; otherwise that form has the Go field names.
    """

    __slots__ = ("_json", "fields", "printed", "type_name")

    def __init__(
        self,
        type_name: str,
        fields: Mapping[str, object],
        *,
        printed: Sequence[tuple[str, object]] | None = None,
        is_json: bool = False,
    ) -> None:
        self.type_name = type_name
        self.fields = fields
        self.printed = printed
        self._json = printed if is_json else None

    def json_fields(self) -> Sequence[tuple[str, object]]:
        return tuple(self.fields.items()) if self._json is None else self._json


class _Printed(JsonStruct):
    """The bare form of a struct, to encode."""

    __slots__ = ("_pairs",)

    def __init__(self, pairs: Sequence[tuple[str, object]]) -> None:
        self._pairs = pairs

    def json_fields(self) -> Sequence[tuple[str, object]]:
        return self._pairs


class JsonMap(dict[str, object]):
    """A map that prints as JSON."""


class JsonList(list[object]):
    """A slice that prints as JSON; empty it is Go's nil slice, null."""


class TypeNames(list[object]):
    """The type of a schema property: a slice of names, printed bare when there is one."""


def clean_text(text: str) -> str:
    """Text from outside: lone surrogates, which no UTF-8 has, become U+FFFD."""
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def finish_text(text: str) -> str:
    """Output text: surrogate-escaped bytes become characters where they form UTF-8, U+FFFD elsewhere."""
    if text.isascii() or not _SURROGATES.search(text):
        return text
    return _NOT_BYTES.sub("\ufffd", text).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def byte_string(text: str) -> bytes:
    """The bytes a Go string would have."""
    return _NOT_BYTES.sub("\ufffd", text).encode("utf-8", "surrogateescape")


def is_true(value: object) -> bool:
    """Go's truth: false, zero, empty string, nil and empty slice or map are false."""
    if isinstance(value, GoStruct):
        return True
    return bool(value)


def type_name(value: object) -> str:
    """The Go type a message names."""
    if value is None:
        return "interface {}"
    if isinstance(value, GoStruct):
        return value.type_name
    for python_type, name in (
        (bool, "bool"),
        (int, "int"),
        (float, "float64"),
        (str, "string"),
        (Mapping, "map[string]interface {}"),
        ((list, tuple), "[]interface {}"),
    ):
        if isinstance(value, python_type):
            return name
    return type(value).__name__


def go_text(value: object, depth: int = 0) -> str:
    """A value as fmt's `%v` prints it.

    Raises:
        CallError: nesting deeper than 100 levels, or a JSON-printing value JSON can't express.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return int_text(value)
    if isinstance(value, float):
        return float_text(value)
    if depth > _MAX_DEPTH:
        raise CallError(f"value is nested deeper than {_MAX_DEPTH} levels")
    return _composite_text(value, depth + 1)


def _composite_text(value: object, depth: int) -> str:
    if isinstance(value, (JsonMap, JsonList)):
        return json_text(value)
    if isinstance(value, GoStruct) and value.printed is not None:
        return json_text(_Printed(value.printed))
    if isinstance(value, TypeNames) and len(value) < 2:
        return "".join(go_text(name, depth) for name in value)
    if isinstance(value, GoStruct):
        return "{" + " ".join(go_text(field, depth) for field in value.fields.values()) + "}"
    if isinstance(value, Mapping):
        items = sorted(((str(key), item) for key, item in value.items()), key=lambda pair: pair[0])
        return "map[" + " ".join(f"{key}:{go_text(item, depth)}" for key, item in items) + "]"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(go_text(item, depth) for item in value) + "]"
    return f"<{type(value).__name__} value>"


def json_text(value: object) -> str:
    """Go JSON of a value.

    Raises:
        CallError: it has no JSON form.
    """
    if isinstance(value, JsonList) and not value:
        return "null"
    try:
        return go_json(value)
    except ValueError as exc:
        raise CallError(f"json: {exc}") from None


def int_text(value: int) -> str:
    """An integer in decimal; integers of JSON input may be of any size."""
    try:
        return str(value)
    except ValueError:
        raise CallError("integer is too long to print") from None


def float_text(value: float) -> str:
    """A float as `%v` prints it: shortest form, with an exponent below 1e-4 and from 1e6 on."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    exponent = int(f"{value:.16e}".partition("e")[2])
    if value == 0 or -4 <= exponent < 6:
        return repr(value).removesuffix(".0")
    n_digits = len(repr(value).partition("e")[0].lstrip("-").replace(".", "").strip("0"))
    return f"{value:.{max(n_digits - 1, 0)}e}"
