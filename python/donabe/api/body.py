"""Lenient reading of JSON request bodies: the rules every dialect shares.

Keys match in any case, `null` is absence, the last of repeated keys wins, unknown keys are collected and not refused,
and text after the first JSON value is ignored. Error texts follow the Go decoder's where clients show or match them.
Pure functions and one small reader class; no HTTP.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec

from donabe.errors import InvalidRequestError
from donabe.service.parameters import BOUNDS, check_count, check_number
from donabe.types import JsonObject

T = TypeVar("T")

_decode = msgspec.json.Decoder().decode

MAX_DIGITS = 400  # of an integer; no double has more
_BELOW_64_BITS = math.nextafter(-(2.0**63), -math.inf)  # may not be rounded into the range
_MAYBE_TOO_LARGE = re.compile(rb"[0-9]{19}")


def too_deep() -> InvalidRequestError:
    """The error for a value that is nested too deeply to be read."""
    return InvalidRequestError("exceeded max depth", hint="nest fewer arrays and objects")


def parse_json(body: bytes, *, when_empty: str = "missing request body") -> Any:
    """The first JSON value of a body.

    Raises:
        InvalidRequestError: Empty, cut off or malformed.
    """
    try:
        value = _decode(body)
    except msgspec.DecodeError:
        return _with_numbers_that_fit(_parse_slowly(body, when_empty))
    except RecursionError:
        raise too_deep() from None
    return _with_numbers_that_fit(value) if _MAYBE_TOO_LARGE.search(body) else value


def _parse_slowly(body: bytes, when_empty: str) -> Any:
    """Find out what is wrong with a body, or that only something after its first value is."""
    text = body.decode("utf-8", "replace").lstrip(" \t\r\n")
    if not text:
        raise InvalidRequestError(when_empty)
    try:
        value, _end = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_read_integer).raw_decode(text)
    except json.JSONDecodeError as error:
        if not text[error.pos :].strip() or error.msg.startswith("Unterminated string"):
            raise InvalidRequestError("unexpected EOF") from None
        character = text[error.pos]
        raise InvalidRequestError(
            f"invalid character '{character}' at offset {error.pos}: {error.msg}", hint="send one JSON object"
        ) from None
    except RecursionError:
        raise too_deep() from None
    return value


def _refuse_constant(name: str) -> Any:
    raise InvalidRequestError(f"invalid character '{name[0]}' looking for beginning of value")


def _read_integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= MAX_DIGITS else math.inf


def _with_numbers_that_fit(value: Any) -> Any:
    """The same value, integers of more than 64 bits as floats: no message to a runner carries larger ones.

    Raises:
        InvalidRequestError: A number is larger than any float; the error names its place.
    """
    holder = {"": value}
    open_: list[tuple[Any, str]] = [(holder, "")]
    while open_:
        inside, path = open_.pop()
        for key, item in _members(inside):
            place = path if isinstance(inside, list) else f"{path}.{key}".lstrip(".")
            if isinstance(item, (dict, list)):
                open_.append((item, place))
            elif isinstance(item, float) and not math.isfinite(item):
                raise _too_large(place)
            elif isinstance(item, int) and not -(2**63) <= item < 2**64:
                try:
                    inside[key] = float(item) if item > 0 else min(float(item), _BELOW_64_BITS)
                except OverflowError:
                    raise _too_large(place) from None
    return holder[""]


def _members(value: Any) -> Iterator[tuple[Any, Any]]:
    return iter(list(value.items()) if isinstance(value, dict) else enumerate(value))


def _too_large(place: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{place or 'the body'} holds a number that is too large",
        field=place or None,
        hint="no number may exceed 1e308",
    )


def kind_of(value: object) -> str:
    """The JSON kind of a value as error messages name it."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object" if isinstance(value, dict) else "null"


class Fields:
    """Reads the fields of one JSON object by name and type, and remembers which keys nobody asked for.

    Args:
        value: The decoded value; anything but an object is an error.
        struct: Name of the request in error messages.
        path: Dotted place of this object inside the request, ending in a dot, or "".
    """

    __slots__ = ("_inside", "_path", "_struct", "_values")

    def __init__(self, value: object, struct: str, path: str = "") -> None:
        self._struct = struct
        self._path = path
        self._inside: list[Fields] = []
        if not isinstance(value, dict):
            where = f"Go struct field {struct}.{path[:-1]} of type object" if path else f"Go value of type api.{struct}"
            raise InvalidRequestError(f"json: cannot unmarshal {kind_of(value)} into {where}", field=path[:-1] or None)
        self._values: JsonObject = {key.lower(): item for key, item in value.items() if item is not None}

    def take(self, name: str) -> Any:
        """The raw value; None when absent or null."""
        return self._values.pop(name, None)

    def has(self, name: str) -> bool:
        return self._values.get(name) is not None

    def string(self, name: str, default: str = "") -> str:
        value = self._values.pop(name, None)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.mismatch(name, value, "string")
        return value

    def optional_string(self, name: str) -> str | None:
        return self.string(name) if self.has(name) else self.take(name)

    def boolean(self, name: str, default: bool = False) -> bool:
        value = self._values.pop(name, None)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.mismatch(name, value, "bool")
        return value

    def is_boolean(self, name: str) -> bool:
        return isinstance(self._values.get(name), bool)

    def optional_boolean(self, name: str) -> bool | None:
        return self.boolean(name) if self.has(name) else self.take(name)

    def integer(self, name: str, default: int = 0) -> int:
        value = self._values.pop(name, None)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.mismatch(name, value, "int")
        if isinstance(value, float):
            if not math.isfinite(value) or value != int(value):
                raise self.mismatch(name, value, "int", kind=f"number {value:g}")
            value = int(value)
        if not -(2**63) <= value < 2**63:
            raise self.mismatch(name, value, "int", kind=f"number {value}")
        return value

    def bounded(self, name: str, default: int = 0) -> int:
        """An integer in its range of `service.parameters.BOUNDS`."""
        return check_number(name, self.integer(name, default), field=f"{self._path}{name}")

    def array(self, name: str, type_name: str = "[]any") -> list[Any]:
        """A list; how long it may be is in `service.parameters.BOUNDS`, if it is there under this name."""
        value = self._values.pop(name, None)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.mismatch(name, value, type_name)
        if name in BOUNDS:
            check_count(name, len(value), field=f"{self._path}{name}")
        return value

    def strings(self, name: str) -> list[str]:
        values = self.array(name, "[]string")
        for value in values:
            if not isinstance(value, str):
                raise self.mismatch(name, value, "string")
        return values

    def mapping(self, name: str) -> JsonObject:
        value = self._values.pop(name, None)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.mismatch(name, value, "map[string]interface {}")
        return value

    def objects(self, name: str, type_name: str, read: Callable[[Fields], T]) -> list[T]:
        """A list of objects, each read by `read`."""
        return [read(item) for item in self.items(name, self.array(name, type_name))]

    def items(self, name: str, values: list[Any]) -> list[Fields]:
        """The objects of a list as fields of their own; what nobody asks them for is in this object's `rest`."""
        found = [Fields(value, self._struct, f"{self._path}{name}.") for value in values]
        self._inside += found
        return found

    def inner(self, name: str) -> Fields | None:
        """A nested object as fields of its own; None when absent."""
        value = self._values.pop(name, None)
        return None if value is None else self.items(name, [value])[0]

    def report(self, name: str, value: object, *known: str) -> None:
        """Put what an object has beside these fields into `rest`; other values have nothing to report."""
        if isinstance(value, dict):
            self.items(name, [value])[0].ignore(*known)

    def mismatch(self, name: str, value: object, type_name: str, *, kind: str = "") -> InvalidRequestError:
        place = f"{self._path}{name}"
        return InvalidRequestError(
            f"json: cannot unmarshal {kind or kind_of(value)} into Go struct field {self._struct}.{place}"
            f" of type {type_name}",
            field=place,
        )

    def ignore(self, *names: str) -> None:
        """Accept these fields without an effect: harmless bookkeeping."""
        for name in names:
            self._values.pop(name, None)

    @property
    def rest(self) -> tuple[str, ...]:
        """Keys not asked for so far, here and in the objects inside, each once."""
        own = [self._path + key for key in self._values]
        return tuple(dict.fromkeys([*own, *(key for fields in self._inside for key in fields.rest)]))


def refuse(fields: Fields, *names: str, hint: str = "") -> None:
    """Refuse these fields by name; empty ones ask for nothing."""
    for name in names:
        value = fields.take(name)
        if value is not None and value not in ([], {}):
            raise InvalidRequestError(f"{name} is not supported", field=name, hint=hint or None)


def token_ids(values: list[Any], field: str) -> tuple[int, ...]:
    """Token ids of a list of integers."""
    for value in values:
        check_number("token", value, field=field, what=" for every token")
    return tuple(values)


def decode_base64(encoded: object, field: str, *, text: str = "{}") -> bytes:
    """Standard padded base64 of an image or audio file, line breaks tolerated.

    Args:
        text: What the dialect says when it is not; `{}` stands for the place of the first wrong byte.
    """
    if not isinstance(encoded, str):
        raise InvalidRequestError(f"{field} must hold base64 strings", field=field)
    max_bytes = BOUNDS["image_bytes"].high
    if len(encoded) > 2 * max_bytes:  # far more than its line breaks could be
        raise _too_many_bytes(field)
    compact = encoded.replace("\r", "").replace("\n", "")
    if len(compact) > (max_bytes + 2) // 3 * 4:
        raise _too_many_bytes(field)
    try:
        return base64.b64decode(compact, validate=True)
    except (binascii.Error, ValueError):
        alphabet = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=")
        bad = next((i for i, character in enumerate(compact) if character not in alphabet), len(compact))
        raise InvalidRequestError(text.format(f"illegal base64 data at input byte {bad}"), field=field) from None


def _too_many_bytes(field: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{field} holds a file of more than {BOUNDS['image_bytes'].high} bytes", field=field, hint="make it smaller"
    )
