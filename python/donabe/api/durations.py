"""Keep-alive values and timestamps as the native API writes them. Pure functions."""

from __future__ import annotations

import math
import re
import time

from donabe.errors import InvalidRequestError

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)([a-zµμ]*)")


def parse_keep_alive(value: object) -> float | None:
    """Seconds to keep a model; `math.inf` for any negative value, None for the model's current value.

    Numbers are seconds; strings are durations such as `1h30m`.
    """
    if value is None:
        return None
    if isinstance(value, bool):
        raise InvalidRequestError("Unsupported type: 'bool'", field="keep_alive")
    if isinstance(value, (int, float)):
        seconds = float(value)
    elif isinstance(value, str):
        seconds = parse_duration(value)
    else:
        kind = "[]interface {}" if isinstance(value, list) else "map[string]interface {}"
        raise InvalidRequestError(f"Unsupported type: '{kind}'", field="keep_alive")
    return math.inf if seconds < 0 else seconds


def parse_duration(text: str) -> float:
    """Seconds of a duration of one or more `<decimal><unit>`, with an optional sign; `0` needs no unit."""
    sign, rest = (-1.0, text[1:]) if text.startswith("-") else (1.0, text.removeprefix("+"))
    if rest == "0":
        return 0.0
    total, position = 0.0, 0
    while rest and position < len(rest):
        part = _PART.match(rest, position)
        if part is None:
            raise InvalidRequestError(f'time: invalid duration "{text}"', field="keep_alive")
        number, unit = part.groups()
        if not unit:
            raise InvalidRequestError(
                f'time: missing unit in duration "{text}"', field="keep_alive", hint='write "5s" or "5m"'
            )
        if unit not in _UNITS:
            raise InvalidRequestError(f'time: unknown unit "{unit}" in duration "{text}"', field="keep_alive")
        total += float(number) * _UNITS[unit]
        position = part.end()
    if not rest:
        raise InvalidRequestError(f'time: invalid duration "{text}"', field="keep_alive")
    return sign * total


class TimestampWriter:
    """UTC timestamps with nanoseconds; formats the date once a second, because every streamed event has one."""

    __slots__ = ("_prefix", "_second")

    def __init__(self) -> None:
        self._second = -1
        self._prefix = ""

    def now(self) -> str:
        second, fraction = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        if not fraction:
            return self._prefix + "Z"
        return f"{self._prefix}.{fraction:09d}".rstrip("0") + "Z"


def local_timestamp(unix_s: float) -> str:
    """RFC 3339 in the server's zone, up to microseconds (a float holds no more), `Z` when that is UTC."""
    second = math.floor(unix_s)
    micros = round((unix_s - second) * 1e6)
    if micros == 1_000_000:
        second, micros = second + 1, 0
    local = time.localtime(second)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", local)
    if micros:
        text += f".{micros:06d}".rstrip("0")
    offset = local.tm_gmtoff
    if not offset:
        return text + "Z"
    sign, minutes = ("-" if offset < 0 else "+"), abs(offset) // 60
    return f"{text}{sign}{minutes // 60:02d}:{minutes % 60:02d}"


def unix_seconds() -> int:
    return int(time.time())
