"""The names a PARAMETER line may set, with type and range, and their values as stored.

The ranges are those of request options; a value that a request could not use is refused here already.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from donabe.modelfile.parser import modelfile_error
from donabe.settings import KV_CACHE_TYPES
from donabe.types import JsonObject

Kind = Literal["int", "float", "bool", "string"]


@dataclass(frozen=True, slots=True)
class ParameterType:
    """Type and inclusive range of one parameter. `is_list`: every line adds an item; otherwise the last line wins.
    `choices`: what a text may be, where that is limited."""

    kind: Kind
    low: float = -math.inf
    high: float = math.inf
    is_list: bool = False
    choices: tuple[str, ...] = ()


_MAX = 2**31 - 1
PARAMETERS = {
    "draft_num_predict": ParameterType("int", 0, 64),
    "dry_allowed_length": ParameterType("int", 0, _MAX),
    "dry_base": ParameterType("float", 0, 100),
    "dry_multiplier": ParameterType("float", 0, 100),
    "dry_penalty_last_n": ParameterType("int", -1, _MAX),
    "dry_sequence_breakers": ParameterType("string", is_list=True),
    "frequency_penalty": ParameterType("float", -100, 100),
    "kv_cache_type": ParameterType("string", choices=KV_CACHE_TYPES),
    "main_gpu": ParameterType("int", 0, 255),
    "min_p": ParameterType("float", 0, 1),
    "num_batch": ParameterType("int", 0, 65_536),
    "num_ctx": ParameterType("int", 0, 16_777_216),
    "num_gpu": ParameterType("int", -1, 10_000),
    "num_keep": ParameterType("int", -(2**31), _MAX),
    "num_predict": ParameterType("int", -2, _MAX),
    "num_thread": ParameterType("int", 0, 1024),
    "presence_penalty": ParameterType("float", -100, 100),
    "repeat_last_n": ParameterType("int", -1, _MAX),
    "repeat_penalty": ParameterType("float", 0, 100),
    "seed": ParameterType("int", -(2**63), 2**63 - 1),
    "stop": ParameterType("string", is_list=True),
    "temperature": ParameterType("float", 0, 100),
    "top_k": ParameterType("int", -1, 1_000_000),
    "top_p": ParameterType("float", 0, 1),
    "typical_p": ParameterType("float", 0, 1),
    "use_mmap": ParameterType("bool"),
    "xtc_probability": ParameterType("float", 0, 1),
    "xtc_threshold": ParameterType("float", 0, 1),
}
DEPRECATED = frozenset(
    {
        "f16_kv",
        "logits_all",
        "low_vram",
        "mirostat",
        "mirostat_eta",
        "mirostat_tau",
        "penalize_newline",
        "use_mlock",
        "vocab_only",
    }
)
MAX_LIST_ITEMS = 256

_BOOLS = dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True) | dict.fromkeys(
    ("0", "f", "F", "false", "FALSE", "False"), False
)
_INT = re.compile(r"[+-]?[0-9]+")
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def parse_parameters(lines: Iterable[tuple[str, str]]) -> tuple[JsonObject, tuple[str, ...]]:
    """Values of PARAMETER lines.

    Args:
        lines: (name, value) in order.

    Returns:
        Values by name, typed; and a warning for each deprecated name, which is left out.

    Raises:
        InvalidRequestError: an unknown name, or a value of the wrong type or out of range.
    """
    values: JsonObject = {}
    warnings: dict[str, None] = {}
    for name, text in lines:
        if name in DEPRECATED:
            warnings[f"parameter {name} is deprecated"] = None
            continue
        value = parse_parameter(name, text)
        if PARAMETERS[name].is_list:
            items = values.setdefault(name, [])
            items.append(value)
            if len(items) > MAX_LIST_ITEMS:
                raise modelfile_error(f"parameter '{name}' has more than {MAX_LIST_ITEMS} values")
        else:
            values[name] = value
    return values, tuple(warnings)


def parse_parameter(name: str, text: str) -> int | float | bool | str:
    """One value, typed; for a list parameter one item of it.

    Raises:
        InvalidRequestError: an unknown name, or a value of the wrong type or out of range.
    """
    known = PARAMETERS.get(name)
    if known is None:
        raise modelfile_error(f"unknown parameter '{name}'", hint=f"known are {', '.join(sorted(PARAMETERS))}")
    if known.kind == "string":
        if known.choices and text not in known.choices:
            raise modelfile_error(f"parameter '{name}' must be one of {', '.join(known.choices)}, got {text[:40]}")
        return text
    value = _number_or_bool(known.kind, text)
    if value is None:
        raise modelfile_error(f"invalid {known.kind} value [{text}]")
    if not known.low <= value <= known.high:
        raise modelfile_error(
            f"parameter '{name}' must be between {known.low:.10g} and {known.high:.10g}, got {text}",
        )
    return value


def _number_or_bool(kind: Kind, text: str) -> int | float | bool | None:
    """None when the text is no value of that kind."""
    if kind == "bool":
        return _BOOLS.get(text)
    if kind == "int":
        return int(text) if _INT.fullmatch(text) and len(text) <= 20 and -(2**63) <= int(text) < 2**63 else None
    value = float(text) if _FLOAT.fullmatch(text) else math.inf
    return float32(value) if abs(value) < 3.4e38 else None


def float32(value: float) -> float:
    """The value as its shortest decimal that names the same 32-bit float; parameters are stored that way."""
    exact: float = struct.unpack("<f", struct.pack("<f", value))[0]
    for digits in range(1, 10):
        short = float(f"{exact:.{digits}g}")
        if struct.unpack("<f", struct.pack("<f", short))[0] == exact:
            return short
    return exact
