"""Moves idle cells down in a dense pool. Attention costs time up to the highest cell in use, so one idle prefix at the
top of the pool slows every step; llama.cpp does not defragment. Runs on the engine thread while nothing else does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from donabe.engine.prefix_cache import PrefixCache
from donabe.engine.radix import Node
from donabe.engine.ram_tier import Saved
from donabe.errors import KvFullError, StateError

if TYPE_CHECKING:
    from donabe._core import Memory

MIN_PEAK_CELLS = 2048  # below, the gain is not measurable
PEAK_RATIO = 1.5  # compact when the high-water mark may be this much above the cells in use
CELLS_PER_RUN = 2048  # bounds the time of one run


class Compactor:
    """Copies tree nodes one by one: out to a blob, and back into the lowest free cells."""

    def __init__(self, cache: PrefixCache, memory: Memory) -> None:
        self._cache = cache
        self._memory = memory
        self._todo: list[Node[Saved]] | None = None  # None = no pass under way

    def run(self) -> bool:
        """One bounded piece of work; False when there is nothing to do."""
        tree = self._cache.tree
        if self._todo is None:
            if tree.n_cells_peak < max(MIN_PEAK_CELLS, PEAK_RATIO * tree.n_cells):
                return False
            self._todo = list(tree.nodes())
        n_moved = 0
        while self._todo and n_moved < CELLS_PER_RUN and self._cache.seq_ids.n_free:
            node = self._todo.pop()
            if node.branches and node.p1 > node.p0 and node.parent is not None:
                self._move(node)
                n_moved += node.p1 - node.p0
        if not self._todo or not self._cache.seq_ids.n_free:
            self._todo = None
            tree.n_cells_peak = tree.n_cells
        return True

    def _move(self, node: Node[Saved]) -> None:
        memory, p0, p1 = self._memory, node.p0, node.p1
        owners = [branch.seq_id for branch in node.branches]
        scratch = self._cache.seq_ids.allocate()
        try:
            memory.seq_cp(owners[0], scratch, p0, p1)
            blob = memory.get_state(scratch)
            for seq_id in (*owners, scratch):
                memory.seq_rm(seq_id, p0, p1)
            memory.set_state(scratch, blob)
            for seq_id in owners:
                memory.seq_cp(scratch, seq_id, p0, p1)
            memory.seq_rm(scratch)
        except (KvFullError, StateError):  # the cells are gone: so are all branches through them
            memory.seq_rm(scratch)
            for branch in list(node.branches):
                self._cache.drop(branch)
        finally:
            self._cache.seq_ids.release(scratch)
