from __future__ import annotations

import numpy as np
import pytest

from donabe import _core
from donabe.errors import InvalidArgumentError, InvalidBatchError


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def test_counts_follow_what_was_added() -> None:
    batch = _core.Batch(16)
    batch.add_tokens(0, ints(5, 6, 7), 0)
    batch.add_tokens(1, ints(5, 6, 7), 0, "last")
    batch.add_tokens(2, ints(5, 6), 4, "all")
    batch.add_decode(ints(3, 4), ints(9, 9), ints(7, 8))
    batch.add_draft(5, ints(1, 2, 3), 10)
    assert (batch.capacity, batch.n_tokens, batch.n_outputs) == (16, 13, 0 + 1 + 2 + 2 + 3)
    batch.clear()
    assert (batch.n_tokens, batch.n_outputs) == (0, 0)


@pytest.mark.parametrize("capacity", [0, -1, 2**20 + 1])
def test_capacity_is_range_checked(capacity: int) -> None:
    with pytest.raises(InvalidArgumentError, match="capacity"):
        _core.Batch(capacity)


@pytest.mark.parametrize(
    ("seq_id", "tokens", "pos0", "message"),
    [
        (-1, ints(1), 0, "seq_id"),
        (256, ints(1), 0, "seq_id"),
        (0, ints(), 0, "no tokens"),
        (0, ints(1, 2, 3, 4, 5), 0, "room for 4"),
        (0, ints(-7), 0, "negative"),
        (0, ints(1), -1, "positions"),
        (0, ints(1, 2), 2**30 - 1, "positions"),
        (9, ints(1), 0, "already"),
    ],
)
def test_refused_tokens_leave_the_batch_as_it_was(seq_id: int, tokens: np.ndarray, pos0: int, message: str) -> None:
    batch = _core.Batch(5)
    batch.add_tokens(9, ints(1), 0)
    with pytest.raises(InvalidBatchError, match=message):
        batch.add_tokens(seq_id, tokens, pos0)
    with pytest.raises(InvalidBatchError, match=message):
        batch.add_draft(seq_id, tokens, pos0)
    assert batch.n_tokens == 1


def test_decode_rows_are_all_or_nothing() -> None:
    batch = _core.Batch(5)
    with pytest.raises(InvalidBatchError, match="twice"):
        batch.add_decode(ints(0, 1, 0), ints(1, 1, 1), ints(0, 0, 1))
    with pytest.raises(InvalidBatchError, match="room for 5"):
        batch.add_decode(ints(*range(6)), ints(*range(6)), ints(*range(6)))
    with pytest.raises(InvalidArgumentError, match="one length"):
        batch.add_decode(ints(0, 1), ints(1), ints(0, 0))
    assert batch.n_tokens == 0


def test_unknown_outputs_word_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="outputs"):
        _core.Batch(5).add_tokens(0, ints(1), 0, "first")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "tokens",
    [np.array([1, 2]), np.array([1.5], np.float32), np.arange(6, dtype=np.int32)[::2], np.zeros((2, 2), np.int32)],
)
def test_other_arrays_are_refused_not_converted(tokens: np.ndarray) -> None:
    with pytest.raises(InvalidArgumentError, match="tokens must be a 1-d C-contiguous int32 array"):
        _core.Batch(5).add_tokens(0, tokens, 0)


def test_a_list_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        _core.Batch(5).add_tokens(0, [1, 2], 0)  # type: ignore[arg-type]
