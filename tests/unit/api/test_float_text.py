"""Numbers of vectors as the shortest text that reads back as the same float32."""

from __future__ import annotations

import time

import msgspec
import numpy as np
import pytest

from donabe.api.float_text import float_rows, row_texts, shortest_floats
from donabe.errors import InvalidRequestError
from donabe.types import EmbedResult


def one_by_one(values):
    """What each number should be: the first of 7, 8 and 9 digits that reads back."""
    texts = ([f"{float(value):.{digits}g}" for digits in (7, 8, 9)] for value in values)
    return [next(float(t) for t in tries if np.float32(float(t)) == v) for tries, v in zip(texts, values, strict=True)]


def unit_vectors(n_rows, n_columns):
    rows = np.random.default_rng(3).standard_normal((n_rows, n_columns)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def every_magnitude():
    bits = np.random.default_rng(4).integers(0, 2**32, 40_000, dtype=np.uint32)
    values = bits.view(np.float32)
    tiny, largest = np.finfo(np.float32).smallest_subnormal, np.finfo(np.float32).max
    edges = [0.0, -0.0, 1.0, 0.1, 1e-14, 9.9999e-15, 1e-16, 1e21, 1e22, 16777216.0, tiny, -tiny, largest, -largest]
    powers = np.float32(10.0) ** np.arange(-45, 39)
    return np.concatenate([values[np.isfinite(values)], np.array(edges, np.float32), powers.astype(np.float32)])


@pytest.mark.parametrize("values", [unit_vectors(100, 384).ravel(), every_magnitude()], ids=["unit", "all"])
def test_digits_are_the_fewest_that_read_back(values):
    found = shortest_floats(values)
    assert found.tolist() == one_by_one(values)
    assert (found.astype(np.float32).view(np.uint32) == values.view(np.uint32)).all()  # also the sign of zero


@pytest.mark.parametrize("shape", [(0, 4), (1, 1), (3, 5), (200, 1000), (2, 70_000)])
def test_rows(shape):
    rows = unit_vectors(*shape)
    result = EmbedResult(n_rows=shape[0], n_embd=shape[1], data=rows.astype("<f4").tobytes(), n_prompt_tokens=1)
    texts = list(row_texts(float_rows(result)))
    assert len(texts) == shape[0]
    assert [np.array(msgspec.json.decode(text), np.float32).tolist() for text in texts] == rows.tolist()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_json_can_not_say_is_refused(value):
    rows = np.array([[1.0], [value]], np.float32)
    with pytest.raises(InvalidRequestError, match="NaN or Inf"):
        list(row_texts(rows))


def test_numbers_are_rounded_together_and_not_one_by_one():
    values = unit_vectors(100, 1000).ravel()

    def fastest_s(work):
        times = []
        for _ in range(3):
            start = time.perf_counter()
            work(values)
            times.append(time.perf_counter() - start)
        return min(times)

    assert fastest_s(shortest_floats) < fastest_s(one_by_one) / 4
