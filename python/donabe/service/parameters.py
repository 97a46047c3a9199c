"""Every number and switch a request may set, in one table: type, range, and which part of the request it becomes. A
second one bounds the numbers that are no options, and how many of each thing a request may hold.

All dialects check against this table, under the field names of their own callers. Options are merged in the order
defaults < the model's stored parameters < the request; `null` leaves the layer below in force.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from donabe.errors import InvalidRequestError
from donabe.settings import KV_CACHE_TYPES
from donabe.types import JsonObject, LoadOptions, OutputOptions, SamplingOptions

Kind = Literal["integer", "float32", "boolean", "string", "array", "map"]
Part = Literal["load", "sampling", "output", "prompt"]

MAX_TOKENS = 2**31 - 1
N_CTX_MIN = 4  # smaller contexts are raised to it
# The largest seed the sampler takes is 2**32 - 2: the value above it means "random" to llama.cpp.
SEED_MODULUS = 2**32 - 1


@dataclass(frozen=True)
class Parameter:
    """One option. `low` and `high` are inclusive; for arrays they bound the number of items.

    Attributes:
        target: Field of the request part; "" where `Options` treats it by name.
        choices: What a string may be.
    """

    name: str
    kind: Kind
    part: Part
    target: str = ""
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()


_TABLE = (
    # loading
    Parameter("num_ctx", "integer", "load", "n_ctx_per_request", 0, 16_777_216),  # 0 = automatic
    Parameter("num_batch", "integer", "load", "n_batch", 0, 65_536),  # 0 = automatic
    Parameter("num_gpu", "integer", "load", "n_gpu_layers", -1, 10_000),  # -1 = automatic
    Parameter("main_gpu", "integer", "load", "main_gpu", 0, 255),
    Parameter("num_thread", "integer", "load", "n_threads", 0, 1024),  # 0 = automatic
    Parameter("draft_num_predict", "integer", "load", "n_draft_max", 0, 64),  # 0 = no speculation
    Parameter("kv_cache_type", "string", "load", choices=KV_CACHE_TYPES),
    Parameter("use_mmap", "boolean", "load", "use_mmap"),
    Parameter("use_mlock", "boolean", "load", "use_mlock"),
    # sampling
    Parameter("seed", "integer", "sampling", "seed", -(2**63), 2**64 - 1),  # negative = random
    Parameter("temperature", "float32", "sampling", "temperature", 0, 100),
    Parameter("top_k", "integer", "sampling", "top_k", -1, 1_000_000),  # <= 0 = off
    Parameter("top_p", "float32", "sampling", "top_p", 0, 1),
    Parameter("min_p", "float32", "sampling", "min_p", 0, 1),
    Parameter("typical_p", "float32", "sampling", "typical_p", 0, 1),
    Parameter("repeat_last_n", "integer", "sampling", "repeat_last_n", -1, MAX_TOKENS),
    Parameter("repeat_penalty", "float32", "sampling", "repeat_penalty", 0, 100),
    Parameter("presence_penalty", "float32", "sampling", "presence_penalty", -100, 100),
    Parameter("frequency_penalty", "float32", "sampling", "frequency_penalty", -100, 100),
    Parameter("xtc_probability", "float32", "sampling", "xtc_probability", 0, 1),
    Parameter("xtc_threshold", "float32", "sampling", "xtc_threshold", 0, 1),
    Parameter("dry_multiplier", "float32", "sampling", "dry_multiplier", 0, 100),
    Parameter("dry_base", "float32", "sampling", "dry_base", 0, 100),
    Parameter("dry_allowed_length", "integer", "sampling", "dry_allowed_length", 0, MAX_TOKENS),
    Parameter("dry_penalty_last_n", "integer", "sampling", "dry_penalty_last_n", -1, MAX_TOKENS),
    Parameter("dry_sequence_breakers", "array", "sampling", "dry_sequence_breakers", 0, 64),
    Parameter("mirostat", "integer", "sampling", "mirostat", 0, 2),
    Parameter("mirostat_tau", "float32", "sampling", "mirostat_tau", 0, 1000),
    Parameter("mirostat_eta", "float32", "sampling", "mirostat_eta", 0, 1),
    Parameter("logit_bias", "map", "sampling", "logit_bias", 0, 4096),  # token id -> -100..100
    # output
    Parameter("num_predict", "integer", "output", "", -2, MAX_TOKENS),  # negative = no limit of its own
    Parameter("stop", "array", "output", "stop", 0, 256),
    Parameter("ignore_eos", "boolean", "output", "ignore_eos"),
    Parameter("top_logprobs", "integer", "output", "top_logprobs", 0, 20),
    # the prompt
    Parameter("num_keep", "integer", "prompt", "", -(2**31), MAX_TOKENS),  # negative = the whole prompt
)

PARAMETERS: Mapping[str, Parameter] = {parameter.name: parameter for parameter in _TABLE}


@dataclass(frozen=True)
class Bound:
    """An integer of a request, or how many of something it may hold. `low` and `high` are inclusive."""

    low: int
    high: int


BOUNDS: Mapping[str, Bound] = {
    # fields
    "n": Bound(1, 128),
    "best_of": Bound(1, 128),
    "dimensions": Bound(0, 65_536),  # 0 = all
    "top_n": Bound(0, 8192),  # 0 = all
    "limit_rate": Bound(0, 10**12),  # bytes per second, 0 = no limit
    "limit": Bound(1, 100),  # items of a page
    "index": Bound(0, MAX_TOKENS),  # of a tool call
    "token": Bound(0, MAX_TOKENS),  # an id; a model's vocabulary is smaller
    # how many
    "messages": Bound(0, 16_384),  # also items of a response's input
    "parts": Bound(0, 4096),  # of one message
    "tool_calls": Bound(0, 1024),  # of one message
    "tools": Bound(0, 1024),
    "images": Bound(0, 100),
    "inputs": Bound(0, 16_384),
    "embedding_numbers": Bound(0, 2**25),  # of all vectors of an answer: 128 MiB
    "documents": Bound(0, 8192),
    "prompts": Bound(1, 128),
    "completions": Bound(1, 512),  # prompts x the larger of n and best_of
    "choices": Bound(0, 4096),  # of a guided choice
    "input_extra": Bound(0, 1024),
    # images
    "image_bytes": Bound(0, 20 * 2**20),
    "image_pixels": Bound(1, 2**26),  # 8192 x 8192
}

MAX_TEXT_CHARS = 4096  # of one stop string or sequence breaker

_KIND_NAMES = {"integer": "integer", "float32": "float32", "boolean": "boolean", "array": "array", "map": "object"}


def check(name: str, value: object, *, field: str | None = None) -> Any:
    """The value as the option's type, in range.

    Args:
        name: The option's name in the table.
        field: How the caller wrote it, for the error; default `option "<name>"`.

    Raises:
        InvalidRequestError: It has another type or is out of range; the message names the field and the range.
    """
    parameter = PARAMETERS[name]
    label, path = (field, field) if field is not None else (f'option "{name}"', f"options.{name}")
    checker = _CHECKERS[parameter.kind]
    try:
        return checker(parameter, value)
    except _BadTypeError as error:
        raise InvalidRequestError(f"{label} must be of {error}", field=path) from None
    except _BadRangeError as error:
        raise InvalidRequestError(f"{label} must be {error}", field=path) from None


def check_number(name: str, value: int, *, field: str, what: str = "") -> int:
    """The value, if it is in range of the second table.

    Raises:
        InvalidRequestError: It is not; the message names the field and the range.
    """
    bound = BOUNDS[name]
    if not bound.low <= value <= bound.high:
        shown = value if abs(value) < 2**63 else f"{value:.0e}"
        raise InvalidRequestError(
            f"{field} must be between {bound.low} and {bound.high}{what}, got {shown}", field=field
        )
    return value


def check_count(name: str, n: int, *, field: str, what: str = "items") -> None:
    """Check how many of something a request holds.

    Raises:
        InvalidRequestError: More than the second table allows.
    """
    if n > BOUNDS[name].high:
        raise InvalidRequestError(f"{field} may hold at most {BOUNDS[name].high} {what}, got {n}", field=field)


class _BadTypeError(Exception):
    """The value has another type; the text says which it should have."""


class _BadRangeError(Exception):
    """The value is out of range; the text says what it should be."""


def _check_range(parameter: Parameter, value: float, what: str = "") -> None:
    low, high = parameter.low, parameter.high
    if not low <= value <= high:
        raise _BadRangeError(f"between {_plain(low)} and {_plain(high)}{what}, got {_plain(value)}")


def _plain(value: float) -> str:
    if math.isinf(value):
        return "infinity" if value > 0 else "-infinity"
    return str(int(value)) if value == int(value) else f"{value:g}"


def _check_integer(parameter: Parameter, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _BadTypeError("type integer")
    if isinstance(value, float) and not math.isfinite(value):
        raise _BadRangeError("a finite number")
    number = int(value)  # a fraction is cut off, as clients that send 1.0 expect
    _check_range(parameter, number)
    return number


def _check_float(parameter: Parameter, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _BadTypeError("type float32")
    if isinstance(value, float) and not math.isfinite(value):
        raise _BadRangeError("a finite number")
    _check_range(parameter, value)
    return float(value)


def _check_boolean(_parameter: Parameter, value: object) -> bool:
    if not isinstance(value, bool):
        raise _BadTypeError("type boolean")
    return value


def _check_string(parameter: Parameter, value: object) -> str:
    if not isinstance(value, str):
        raise _BadTypeError("type string")
    if value not in parameter.choices:
        raise _BadRangeError(f"one of {', '.join(parameter.choices)}, got {value[:40]!r}")
    return value


def _check_array(parameter: Parameter, value: object) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)):
        raise _BadTypeError("type array")
    if not all(isinstance(item, str) for item in value):
        raise _BadTypeError("an array of strings")
    if len(value) > parameter.high:
        raise _BadRangeError(f"at most {_plain(parameter.high)} strings, got {len(value)}")
    if any(len(item) > MAX_TEXT_CHARS for item in value):
        raise _BadRangeError(f"strings of at most {MAX_TEXT_CHARS} characters")
    return tuple(item for item in value if item)


def _check_map(parameter: Parameter, value: object) -> dict[int, float]:
    if not isinstance(value, dict):
        raise _BadTypeError("type object")
    if len(value) > parameter.high:
        raise _BadRangeError(f"at most {_plain(parameter.high)} entries, got {len(value)}")
    checked: dict[int, float] = {}
    for key, bias in value.items():
        if not str(key).isascii() or not str(key).isdigit():
            raise _BadTypeError(f"type object with token ids as keys, got {str(key)[:40]!r}")
        most = BOUNDS["token"].high
        if len(str(key)) > len(str(most)) or int(key) > most:
            raise _BadRangeError(f"an object with token ids between 0 and {most} as keys, got {str(key)[:40]}")
        if isinstance(bias, bool) or not isinstance(bias, (int, float)) or not -100 <= bias <= 100:
            raise _BadRangeError(f"between -100 and 100 for every token, got {bias!r} for {key}")
        checked[int(key)] = float(bias)
    return checked


_CHECKERS: Mapping[str, Any] = {
    "integer": _check_integer,
    "float32": _check_float,
    "boolean": _check_boolean,
    "string": _check_string,
    "array": _check_array,
    "map": _check_map,
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Checked options of one request, merged over the model's stored ones."""

    load: LoadOptions = field(default_factory=LoadOptions)
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    output: OutputOptions = field(default_factory=OutputOptions)
    n_keep: int = 4


def check_options(options: JsonObject) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(checked values by name, unknown names). `null` values are left out.

    Raises:
        InvalidRequestError: As `check`.
    """
    known: dict[str, Any] = {}
    unknown: list[str] = []
    for name, value in options.items():
        if name not in PARAMETERS:
            unknown.append(name)
        elif value is not None:
            known[name] = check(name, value)
    return known, tuple(unknown)


@dataclass
class _Parts:
    load: dict[str, Any] = field(default_factory=dict)
    sampling: dict[str, Any] = field(default_factory=dict)
    output: dict[str, Any] = field(default_factory=dict)
    prompt: dict[str, Any] = field(default_factory=dict)


def merge_options(
    stored: JsonObject, requested: Mapping[str, Any], *, defaults: Mapping[str, Any] | None = None
) -> Options:
    """Build the request's parts.

    Args:
        defaults: What the caller's API means by leaving an option out.
        stored: The model's stored parameters, not checked yet.
        requested: Checked options of the request.

    Raises:
        InvalidRequestError: A stored parameter has a bad value.
    """
    values: dict[str, Any] = dict(defaults or {})
    for name, value in stored.items():
        if name in PARAMETERS and value is not None:
            values[name] = check(name, _stored_value(name, value), field=f'stored parameter "{name}"')
    values.update(requested)
    parts = _Parts()
    n_keep = 4
    for name, value in values.items():
        parameter = PARAMETERS[name]
        if name == "num_keep":
            n_keep = max(-1, value)
        elif name == "num_predict":
            parts.output["max_tokens"] = value if value >= 0 else None
        elif name == "kv_cache_type":
            parts.load["type_k"] = parts.load["type_v"] = value
        else:
            getattr(parts, parameter.part)[parameter.target] = _meaning(name, value)
    return Options(
        load=LoadOptions(**parts.load),
        sampling=SamplingOptions(**parts.sampling),
        output=OutputOptions(**parts.output),
        n_keep=n_keep,
    )


def _stored_value(name: str, value: object) -> object:
    """Stored lists may have been written as a single value."""
    return [value] if PARAMETERS[name].kind == "array" and isinstance(value, str) else value


def _meaning(name: str, value: Any) -> Any:
    """Special values of the wire as the request types spell them."""
    if name == "num_ctx":
        return max(value, N_CTX_MIN) if value else None
    if name in ("num_batch", "num_thread"):
        return value or None
    if name == "num_gpu":
        return value if value >= 0 else None
    if name == "seed":
        return value % SEED_MODULUS if value >= 0 else None
    if name == "top_k":
        return max(value, 0)
    return value
