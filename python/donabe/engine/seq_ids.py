"""Which sequence ids of the context are in use. Lowest id first, so that cells and batches stay compact."""

from __future__ import annotations

import heapq


class SeqIds:
    """Ids 0..n-1, each free or allocated."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._free = list(range(n))  # a heap
        self._used = [False] * n

    @property
    def n_free(self) -> int:
        return len(self._free)

    def allocate(self) -> int:
        """The lowest free id. Raises IndexError when there is none: look at n_free first."""
        seq_id = heapq.heappop(self._free)
        self._used[seq_id] = True
        return seq_id

    def allocate_highest(self) -> int:
        """The highest free id: for holders, where running sequences want the low ones."""
        seq_id = max(self._free)
        self._free.remove(seq_id)
        heapq.heapify(self._free)
        self._used[seq_id] = True
        return seq_id

    @property
    def lowest_free(self) -> int:
        """The id allocate() would give, or n when all are in use."""
        return self._free[0] if self._free else self.n

    def release(self, seq_id: int) -> None:
        assert self._used[seq_id], f"sequence id {seq_id} released twice"
        self._used[seq_id] = False
        heapq.heappush(self._free, seq_id)

    def used(self) -> list[int]:
        return [i for i, used in enumerate(self._used) if used]
