"""Rows of float32 as JSON, each number with the fewest digits that read back as the same float32.

The rows of one answer may hold millions of numbers, so they are rounded as arrays.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from donabe.errors import InvalidRequestError
from donabe.types import EmbedResult

if TYPE_CHECKING:
    from numpy.typing import NDArray

_encode = msgspec.json.Encoder().encode

_CHUNK = 1 << 16  # numbers that are worked on at once: they fit a cache, and other threads get their turn in between
_DIGITS = (7, 8, 9)  # nine tell any two float32 apart
# Powers of ten up to this one are exact float64s. Decimal exponents of numbers that need no other one to be rounded.
_MAX_POWER = 22
_EXPONENT_MIN, _EXPONENT_MAX = max(_DIGITS) - 1 - _MAX_POWER, _MAX_POWER - 1
_POWERS = 10.0 ** np.arange(_MAX_POWER + 1)


def float_rows(result: EmbedResult) -> NDArray[np.float32]:
    """The rows of an embedding result."""
    return np.frombuffer(result.data, "<f4").reshape(result.n_rows, result.n_embd)


def check_finite(rows: NDArray[np.float32]) -> None:
    """Check that JSON can carry the numbers.

    Raises:
        InvalidRequestError: One is infinite or none.
    """
    if not np.isfinite(rows).all():
        raise InvalidRequestError("embedding contains NaN or Inf values")


def row_texts(rows: NDArray[np.float32]) -> Iterator[bytes]:
    """The JSON array of each row.

    Raises:
        InvalidRequestError: As `check_finite`.
    """
    check_finite(rows)
    n_at_once = max(1, _CHUNK // max(1, rows.shape[1]))
    for start in range(0, len(rows), n_at_once):
        part = rows[start : start + n_at_once]
        lists: list[list[float]] = shortest_floats(part.ravel()).reshape(part.shape).tolist()  # type: ignore[assignment]
        yield from map(_encode, lists)


def shortest_floats(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Finite float32s as the float64s whose shortest decimals are theirs."""
    exact = values.astype(np.float64)
    size = np.abs(exact)
    exponents = np.floor(np.log10(np.where(size == 0, 1, size))).astype(np.int64)
    is_usual = (exponents >= _EXPONENT_MIN) & (exponents <= _EXPONENT_MAX)
    rounded: NDArray[np.float64] = exact.copy()
    open_ = np.flatnonzero(is_usual)
    for digits in _DIGITS:
        places = digits - 1 - exponents[open_]
        up, down = _POWERS[np.maximum(places, 0)], _POWERS[np.maximum(-places, 0)]
        # An integer of so few digits, times or by an exact power: the float64 next to the decimal.
        rounded[open_] = np.rint(exact[open_] * up / down) * down / up
        open_ = open_[rounded[open_].astype(np.float32) != values[open_]]
    for i in np.flatnonzero(~is_usual):
        rounded[i] = _shortest_float(exact[i])
    return rounded


def _shortest_float(value: float) -> float:
    texts = (f"{value:.{digits}g}" for digits in _DIGITS)
    return next(number for number in map(float, texts) if np.float32(number) == value)
