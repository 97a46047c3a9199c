"""The functions templates may call: Go's builtins, and the reference system's json, dates and TypeScript types.

`and` and `or` are part of the evaluator, because they do not evaluate all their arguments. Functions raise CallError;
the evaluator adds the place.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote_plus

from donabe.template.limits import Budget
from donabe.template.printf import go_sprintf
from donabe.template.values import (
    CallError,
    GoStruct,
    byte_string,
    go_text,
    is_true,
    json_text,
    type_name,
)

Args = Sequence[object]


@dataclass(frozen=True, slots=True)
class Context:
    """What functions may use: the render's budget and the local date."""

    budget: Budget
    today: Callable[[], datetime.date]


@dataclass(frozen=True, slots=True)
class Builtin:
    """A function and how many arguments it takes; `n_max` None is any number."""

    call: Callable[[Args, Context], object]
    n_min: int = 0
    n_max: int | None = None


# --- printing --------------------------------------------------------------------------------------------------------


def _join_texts(pieces: list[str], context: Context) -> str:
    context.budget.work(sum(map(len, pieces)))
    return "".join(pieces)


def _print(args: Args, context: Context) -> str:
    """fmt.Sprint: a space between two neighbours that are not strings."""
    pieces: list[str] = []
    for index, arg in enumerate(args):
        if index and not isinstance(arg, str) and not isinstance(args[index - 1], str):
            pieces.append(" ")
        pieces.append(go_text(arg))
    return _join_texts(pieces, context)


def _println(args: Args, context: Context) -> str:
    pieces: list[str] = []
    for index, arg in enumerate(args):
        pieces += [" "] if index else []
        pieces.append(go_text(arg))
    return _join_texts([*pieces, "\n"], context)


def _printf(args: Args, context: Context) -> str:
    if not isinstance(args[0], str):
        raise CallError(f"wrong type for value; expected string; got {type_name(args[0])}")
    return go_sprintf(args[0], args[1:], context.budget)


_HTML = str.maketrans({"\0": "\ufffd", '"': "&#34;", "'": "&#39;", "&": "&amp;", "<": "&lt;", ">": "&gt;"})
_JS_NAMED = {
    "\\": "\\\\",
    "'": "\\'",
    '"': '\\"',
    "<": "\\u003C",
    ">": "\\u003E",
    "&": "\\u0026",
    "=": "\\u003D",
}


def _escapable(args: Args, context: Context) -> str:
    """The text to escape; charged at the length it may grow to."""
    text = _print(args, context)
    context.budget.work(6 * len(text))
    return text


def _html(args: Args, context: Context) -> str:
    return _escapable(args, context).translate(_HTML)


def _js(args: Args, context: Context) -> str:
    def escape(char: str) -> str:
        if char in _JS_NAMED:
            return _JS_NAMED[char]
        if char < " " or (char > "~" and not char.isprintable()):
            return f"\\u{ord(char):04X}"
        return char

    return "".join([escape(char) for char in _escapable(args, context)])


def _urlquery(args: Args, context: Context) -> str:
    return quote_plus(byte_string(_escapable(args, context)))


# --- logic and comparison --------------------------------------------------------------------------------------------


def _not(args: Args, _context: Context) -> bool:
    return not is_true(args[0])


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "number"
    if isinstance(value, str):
        return "string"
    return "none"


def _equal(left: object, right: object) -> bool:
    if left is None or right is None:
        return left is None and right is None
    left_kind, right_kind = _kind(left), _kind(right)
    if left_kind == "none" or right_kind == "none":
        culprit = left if left_kind == "none" else right
        raise CallError(f"non-comparable type {type_name(culprit)}")
    if left_kind != right_kind:
        raise CallError("incompatible types for comparison")
    return left == right


def _eq(args: Args, _context: Context) -> bool:
    if len(args) < 2:
        raise CallError("missing argument for comparison")
    return any([_equal(args[0], other) for other in args[1:]])


def _ne(args: Args, _context: Context) -> bool:
    return not _equal(args[0], args[1])


def _less(left: object, right: object) -> bool:
    left_kind, right_kind = _kind(left), _kind(right)
    if "none" in (left_kind, right_kind) or left_kind == right_kind == "bool":
        raise CallError("invalid type for comparison")
    if left_kind != right_kind:
        raise CallError("incompatible types for comparison")
    if isinstance(left, str) and isinstance(right, str):
        return byte_string(left) < byte_string(right)
    return left < right  # type: ignore[operator,no-any-return]


def _lt(args: Args, _context: Context) -> bool:
    return _less(args[0], args[1])


def _le(args: Args, _context: Context) -> bool:
    return _less(args[0], args[1]) or _equal(args[0], args[1])


def _gt(args: Args, _context: Context) -> bool:
    return not _less(args[0], args[1]) and not _equal(args[0], args[1])


def _ge(args: Args, _context: Context) -> bool:
    return not _less(args[0], args[1])


# --- collections -----------------------------------------------------------------------------------------------------


def _len(args: Args, _context: Context) -> int:
    value = args[0]
    if isinstance(value, str):
        return len(value) if value.isascii() else len(byte_string(value))
    if isinstance(value, (Mapping, list, tuple)):
        return len(value)
    raise CallError("len of nil pointer" if value is None else f"len of type {type_name(value)}")


def _position(index: object, length: int) -> int:
    """An index into a slice or string of `length`; `length` itself is out of range."""
    if index is None:
        raise CallError("cannot index slice/array with nil")
    if isinstance(index, bool) or not isinstance(index, int):
        raise CallError(f"cannot index slice/array with type {type_name(index)}")
    if not 0 <= index < length:
        raise CallError(f"index out of range: {index}")
    return index


def _index(args: Args, _context: Context) -> object:
    value = args[0]
    if value is None:
        raise CallError("index of untyped nil")
    for index in args[1:]:
        if isinstance(value, Mapping):
            if not isinstance(index, str):
                raise CallError(f"value has type {type_name(index)}; should be string")
            value = value.get(index)
        elif isinstance(value, str):
            data = byte_string(value)
            value = data[_position(index, len(data))]
        elif isinstance(value, (list, tuple)):
            value = value[_position(index, len(value))]
        elif value is None:
            raise CallError("index of nil pointer")
        else:
            raise CallError(f"can't index item of type {type_name(value)}")
    return value


def _slice(args: Args, context: Context) -> object:
    value, bounds = args[0], args[1:]
    if value is None:
        raise CallError("slice of untyped nil")
    if not isinstance(value, (str, list, tuple)):
        raise CallError(f"can't slice item of type {type_name(value)}")
    if isinstance(value, str) and len(bounds) == 3:
        raise CallError("cannot slice string with 3 indexes")
    data = byte_string(value) if isinstance(value, str) else value
    places = [_position(bound, len(data) + 1) for bound in bounds]
    for lower, upper in itertools.pairwise(places):
        if lower > upper:
            raise CallError(f"invalid slice index: {lower} > {upper}")
    start = places[0] if places else 0
    part = data[start : places[1] if len(places) > 1 else len(data)]
    context.budget.work(len(part))
    return part.decode("utf-8", "surrogateescape") if isinstance(part, bytes) else part


def _call(args: Args, _context: Context) -> object:
    raise CallError("call of nil" if args[0] is None else f"non-function of type {type_name(args[0])}")


# --- functions of the reference system -------------------------------------------------------------------------------


def _json(args: Args, context: Context) -> str:
    return _join_texts([json_text(args[0])], context)


def _current_date(_args: Args, context: Context) -> str:
    return context.today().isoformat()


def _yesterday_date(_args: Args, context: Context) -> str:
    return (context.today() - datetime.timedelta(days=1)).isoformat()


_TYPESCRIPT = {
    "string": "string",
    "number": "number",
    "integer": "number",
    "boolean": "boolean",
    "array": "any[]",
    "object": "Record<string, any>",
    "null": "null",
}


def _typescript(args: Args, _context: Context) -> str:
    if not isinstance(args[0], GoStruct):
        raise CallError(f"wrong type for value; expected api.ToolProperty; got {type_name(args[0])}")
    return _typescript_of(args[0])


def _typescript_of(prop: GoStruct) -> str:
    """The union of `anyOf`, or of the type names; nested unions are flat in TypeScript."""
    any_of = prop.fields.get("AnyOf")
    if isinstance(any_of, (list, tuple)) and any_of:
        return " | ".join(_typescript_of(item) for item in any_of if isinstance(item, GoStruct))
    names = prop.fields.get("Type")
    if not isinstance(names, (list, tuple)) or not names:
        return "any"
    return " | ".join(_TYPESCRIPT.get(str(name), "any") for name in names)


BUILTINS: Mapping[str, Builtin] = {
    "call": Builtin(_call, 1),
    "currentDate": Builtin(_current_date),
    "eq": Builtin(_eq, 1),
    "ge": Builtin(_ge, 2, 2),
    "gt": Builtin(_gt, 2, 2),
    "html": Builtin(_html),
    "index": Builtin(_index, 1),
    "js": Builtin(_js),
    "json": Builtin(_json, 1, 1),
    "le": Builtin(_le, 2, 2),
    "len": Builtin(_len, 1, 1),
    "lt": Builtin(_lt, 2, 2),
    "ne": Builtin(_ne, 2, 2),
    "not": Builtin(_not, 1, 1),
    "print": Builtin(_print),
    "printf": Builtin(_printf, 1),
    "println": Builtin(_println),
    "slice": Builtin(_slice, 1, 4),
    "toTypeScriptType": Builtin(_typescript, 1, 1),
    "urlquery": Builtin(_urlquery),
    "yesterdayDate": Builtin(_yesterday_date),
}
FUNCTION_NAMES = frozenset(BUILTINS) | {"and", "or"}
