"""Where a new sequence could start: lookups over the pool's tree and the RAM tier. Changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from donabe.engine.kinds import MemoryKind
from donabe.engine.radix import Branch, Key, RadixTree
from donabe.engine.ram_tier import Entry, RamTier, Saved
from donabe.engine.tokens import Int32Array

if TYPE_CHECKING:
    from donabe._core import Memory

MIN_SAVE_TOKENS = 64  # shorter prefixes are cheaper to compute again than to keep outside the pool


@dataclass(frozen=True, slots=True)
class ForkPoint:
    """Where a sequence could start: after the first k tokens of a branch, or of an entry in the RAM tier."""

    k: int
    source: Branch[Saved] | None = None
    checkpoint: Saved | None = None
    entry: Entry | None = None

    @property
    def n_bytes(self) -> int:
        """What has to be copied into the pool to start here."""
        saved = (self.checkpoint, self.entry.state if self.entry is not None else None)
        return sum(s.nbytes for s in saved if s is not None)


NOWHERE = ForkPoint(0)


class ForkPoints:
    """Finds fork points by the abilities of the memory kind."""

    def __init__(self, memory: Memory | None, kind: MemoryKind, tree: RadixTree[Saved], ram: RamTier) -> None:
        self._memory = memory
        self._kind = kind
        self._tree = tree
        self._ram = ram

    def find(self, key: Key, tokens: Int32Array, limit: int, guests: tuple[Entry, ...]) -> list[ForkPoint]:
        """Best first, each covering at most `limit` of the tokens."""
        if limit <= 0:
            return []
        tokens = tokens[:limit]
        points = self._in_pool(key, tokens) if self._kind.shares else []
        points.extend(self._in_ram(key, tokens, max((p.k for p in points), default=0), guests))
        points.sort(key=lambda p: (-p.k, p.entry is not None, p.checkpoint is not None))
        return points

    def _in_pool(self, key: Key, tokens: Int32Array) -> list[ForkPoint]:
        points: list[ForkPoint] = []
        for overlap in self._tree.lookup(key, tokens):
            node, k = overlap.node, overlap.n_equal
            for branch in node.branches:
                if k > 0 and self._can_fork(branch, k):
                    points.append(ForkPoint(k, branch))
                    break
            for position, saved in node.checkpoints.items():
                if position <= k and saved.blob is not None:
                    points.append(ForkPoint(position, next(iter(node.branches)), saved))
        return points

    def _can_fork(self, branch: Branch[Saved], k: int) -> bool:
        """Whether it is worth asking the native side, which knows for sure."""
        if self._kind.any_point or k == branch.n:
            return True
        if not self._kind.window:
            return False
        assert self._memory is not None
        return self._memory.pos_min(branch.seq_id) <= max(0, k - self._kind.window + 1)

    def _in_ram(self, key: Key, tokens: Int32Array, k_pool: int, guests: tuple[Entry, ...]) -> list[ForkPoint]:
        points: list[ForkPoint] = []
        for hit in self._ram.lookup(key, tokens, guests):
            entry, reach = hit.entry, hit.n_equal
            if reach < k_pool + MIN_SAVE_TOKENS:
                break
            if reach == entry.state.n_tokens or self._kind.can_cut:
                points.append(ForkPoint(reach, entry=entry))
            fitting = [k for k, saved in entry.checkpoints.items() if k <= reach and saved.blob is not None]
            if fitting and max(fitting) >= k_pool + MIN_SAVE_TOKENS:
                points.append(ForkPoint(max(fitting), entry=entry, checkpoint=entry.checkpoints[max(fitting)]))
        return points
