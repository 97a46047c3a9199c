"""Copies of states between the pool and RAM: how large the next one will be, how long it takes, and whether this step
has that time.

Every copy of the engine thread goes through here and is timed. While streams run, a step's copies may only take what
the latency bound leaves beside the decode rows; whoever wants more waits for the next step, takes less or goes without.
Sizes and rates are learnt from the copies made, so the first one of a large state may be a surprise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from donabe._core import Memory, StateBlob

FIRST_RATE = 1e9  # bytes a second, before anything is measured
_KEPT = 0.8  # of what earlier copies say of the rate, at each new one: large copies count more than small ones


class Rate:
    """Bytes per second of what was copied lately; before that, of `other`."""

    def __init__(self, other: Rate | None = None) -> None:
        self._other = other
        self._n_bytes = 0.0
        self._seconds = 0.0

    def observe(self, n_bytes: int, seconds: float) -> None:
        self._n_bytes = _KEPT * self._n_bytes + n_bytes
        self._seconds = _KEPT * self._seconds + max(seconds, 0.0)

    def __call__(self) -> float:
        if self._seconds > 0 and self._n_bytes > 0:
            return self._n_bytes / self._seconds
        return FIRST_RATE if self._other is None else self._other()


class Copies:
    """Makes copies and keeps the account of one step's time.

    Args:
        memory: None for models without one: then nothing is ever copied.
        bytes_per_cell: Of the pool; and of a whole state and token, until a copy has told better. 0 = not known.
        has_cells: Whole states grow with their tokens; else every state has one size.
    """

    def __init__(
        self, memory: Memory | None, clock: Callable[[], float], *, bytes_per_cell: int = 0, has_cells: bool = True
    ) -> None:
        self.memory = memory
        self.bytes_per_cell = bytes_per_cell
        self._clock = clock
        self._has_cells = has_cells
        self._bytes_per_token = float(bytes_per_cell)
        self._fixed_bytes = 0  # of a window or recurrent state: what a partial state holds
        self._saving = Rate()
        self._restoring = Rate(self._saving)
        self._step_s = math.inf
        self.spent_s = 0.0  # of this step

    # --- the time of a step ---

    def begin_step(self, step_s: float | None) -> None:
        """A new step has so many seconds for copies; None = nobody waits for it."""
        self._step_s = math.inf if step_s is None else step_s
        self.spent_s = 0.0

    def spend(self, seconds: float) -> None:
        """Something else takes so much of the step's time."""
        self.spent_s += seconds

    def n_savable_bytes(self, *, alone: bool = False) -> float:
        """What can still be saved in this step; `alone`: in a step of which nothing was spent."""
        return self._left_s(alone) * self._saving()

    def n_restorable_bytes(self, *, alone: bool = False) -> float:
        """Likewise, put back into the pool."""
        return self._left_s(alone) * self._restoring()

    def _left_s(self, alone: bool) -> float:
        return max(self._step_s - (0.0 if alone else self.spent_s), 0.0)

    # --- sizes ---

    @property
    def partial_bytes(self) -> int:
        """About the size of a partial state; 0 = not known."""
        return self._fixed_bytes

    def whole_bytes(self, n_tokens: int) -> int:
        """About the size of a whole state; 0 = not known."""
        return self._fixed_bytes + int(n_tokens * self._bytes_per_token) * self._has_cells

    def n_tokens_within(self, n_bytes: float) -> int:
        """Tokens of a state of at most so many bytes, for kinds whose states can be cut."""
        return int(min((n_bytes - self._fixed_bytes) / max(self._bytes_per_token, 1.0), 1 << 40))

    # --- copies ---

    def save(self, seq_id: int, *, partial: bool = False) -> StateBlob:
        """Raises StateError."""
        assert self.memory is not None
        started = self._clock()
        blob = self.memory.get_state(seq_id, partial=partial)
        self._count(self._saving, blob.nbytes, started)
        if partial or not self._has_cells:
            self._fixed_bytes = blob.nbytes
        else:
            self._bytes_per_token = max(blob.nbytes - self._fixed_bytes, 1) / max(blob.n_tokens, 1)
        return blob

    def restore(self, seq_id: int, blob: StateBlob) -> None:
        """Raises KvFullError, StateError."""
        assert self.memory is not None
        started = self._clock()
        self.memory.set_state(seq_id, blob)
        self._count(self._restoring, blob.nbytes, started)

    def fork(self, src: int, dst: int, n_tokens: int, checkpoint: StateBlob | None) -> bool:
        """`Memory.fork`: without a checkpoint nothing is copied. Raises KvFullError, StateError."""
        assert self.memory is not None
        started = self._clock()
        forked = self.memory.fork(src, dst, n_tokens, checkpoint)
        if forked and checkpoint is not None:
            self._count(self._restoring, checkpoint.nbytes, started)
        return forked

    def _count(self, rate: Rate, n_bytes: int, started: float) -> None:
        seconds = self._clock() - started
        rate.observe(n_bytes, seconds)
        self.spent_s += seconds
