"""Moves idle cells down in a pool. Attention costs time up to the highest cell in use, so one idle prefix at the top of
the pool slows every step; llama.cpp does not defragment. Runs on the engine thread while nothing else does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from donabe.engine.prefix_cache import PrefixCache
from donabe.engine.radix import Branch, Node, RadixTree
from donabe.engine.ram_tier import Saved
from donabe.errors import KvFullError, StateError

if TYPE_CHECKING:
    from donabe._core import Memory

MIN_PEAK_CELLS = 2048  # below, the gain is not measurable
PEAK_RATIO = 1.5  # compact when the high-water mark may be this much above the cells in use
CELLS_PER_RUN = 2048  # bounds the time of one run
N_SCRATCH_IDS = 2


def compactor_for(cache: PrefixCache, memory: Memory) -> NodeCompactor | BranchCompactor | None:
    """What the memory kind can do; None where there are no cells to move, or nothing stays in them."""
    if cache.kind.any_point:
        return NodeCompactor(cache, memory)
    return BranchCompactor(cache) if cache.kind.counts_cells and cache.kind.shares else None


def is_worthwhile(tree: RadixTree[Saved]) -> bool:
    return tree.n_cells_peak >= max(MIN_PEAK_CELLS, PEAK_RATIO * tree.n_cells)


class BranchCompactor:
    """Copies branches whole, for kinds whose states can't be taken apart: windows and recurrent states.

    A restored state has cells of its own. So of branches that share some, the one used last is moved, and the others
    wait in the RAM tier; where that has no room for all of them, they stay where they are.
    """

    def __init__(self, cache: PrefixCache) -> None:
        self._cache = cache
        self._todo: list[Node[Saved]] | None = None  # families: nodes below a root; None = no pass under way

    def run(self, now: float) -> bool:
        """One bounded piece of work; False when there is nothing to do."""
        tree = self._cache.tree
        if self._todo is None:
            if not is_worthwhile(tree):
                return False
            self._todo = list(tree.tops())
        self._cache.copies.begin_step(None)
        n_moved = 0
        while self._todo and n_moved < CELLS_PER_RUN:
            family = sorted(self._todo.pop().branches, key=lambda branch: branch.last_used)
            if family and all(branch.is_idle for branch in family):
                n_moved += self._move(family, now)
        if not self._todo:
            self._todo = None
            tree.n_cells_peak = tree.n_cells
        return True

    def _move(self, family: list[Branch[Saved]], now: float) -> int:
        cache = self._cache
        *others, newest = family
        if not cache.ram.fits(sum(cache.copies.whole_bytes(branch.n) for branch in others)):
            return 0
        for branch in others:
            cache.eviction.evict(branch, now)
        key, buffer, n, last_used = newest.key, newest.buffer, newest.n, newest.last_used
        checkpoints = {k: saved for node in newest.path() for k, saved in node.checkpoints.items()}
        try:
            saved = Saved(cache.copies.save(newest.seq_id), n, last_used)
        except StateError:
            return 0
        cache.drop(newest)
        moved = cache.restore(key, buffer, saved, last_used)
        if moved is not None:
            moved.is_idle, moved.last_used = True, last_used
            moved.leaf.checkpoints.update(checkpoints)
        return n


class NodeCompactor:
    """Copies tree nodes one by one: out to a blob, and back into the lowest free cells."""

    def __init__(self, cache: PrefixCache, memory: Memory) -> None:
        self._cache = cache
        self._memory = memory
        self._todo: list[Node[Saved]] | None = None  # None = no pass under way

    def run(self, now: float) -> bool:
        """One bounded piece of work; False when there is nothing to do."""
        tree = self._cache.tree
        if self._todo is None:
            if not is_worthwhile(tree):
                return False
            self._todo = list(tree.nodes())
        n_moved = 0
        while self._todo and n_moved < CELLS_PER_RUN and self._has_ids():
            node = self._todo.pop()
            if self._can_move(node):
                self._move(node)
                n_moved += node.p1 - node.p0
        if not self._todo or not self._has_ids():
            self._todo = None
            tree.n_cells_peak = tree.n_cells
        return True

    def _has_ids(self) -> bool:
        return self._cache.seq_ids.n_free >= N_SCRATCH_IDS

    def _can_move(self, node: Node[Saved]) -> bool:
        """Whether it is still there. A state is only taken where as many cells are free as its last position says."""
        n_free = self._cache.n_free + node.p1 - node.p0
        return bool(node.branches) and node.parent is not None and node.p0 < node.p1 <= n_free

    def _move(self, node: Node[Saved]) -> None:
        memory, p0, p1 = self._memory, node.p0, node.p1
        owners = list(node.branches)
        scratch, tail = self._cache.seq_ids.allocate(), self._cache.seq_ids.allocate()
        try:
            memory.seq_cp(owners[0].seq_id, scratch, p0, p1)
            blob = memory.get_state(scratch)
            for seq_id in (*(branch.seq_id for branch in owners), scratch):
                memory.seq_rm(seq_id, p0, p1)
            memory.set_state(scratch, blob)
            for branch in owners:
                self._put_back(branch, scratch, tail, p0, p1)
            memory.seq_rm(scratch)
        except (KvFullError, StateError):  # the cells are gone: so are all branches through them
            memory.seq_rm(scratch)
            for branch in owners:
                self._cache.drop(branch)
        finally:
            self._cache.seq_ids.release(tail)
            self._cache.seq_ids.release(scratch)

    def _put_back(self, branch: Branch[Saved], scratch: int, tail: int, p0: int, p1: int) -> None:
        """Give the branch the cells [p0, p1) of scratch. Cells can only be appended: what comes after waits in tail."""
        memory, seq_id = self._memory, branch.seq_id
        has_hole = p0 > 0 and branch.n > p1
        if has_hole:
            memory.seq_cp(seq_id, tail, p1, branch.n)
            memory.seq_rm(seq_id, p1, branch.n)
        memory.seq_cp(scratch, seq_id, p0, p1)
        if has_hole:
            memory.seq_cp(tail, seq_id, p1, branch.n)
            memory.seq_rm(tail)
