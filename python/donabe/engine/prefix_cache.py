"""The prefix cache: keeps the cells of finished sequences, and gives new sequences the longest prefix it can.

Policy over the radix tree, one table row of `kinds.py` per memory kind. Every native memory operation of the engine
goes through here, so that the tree and the pool never disagree. Engine thread only.

A finished sequence's id stays with its cells (an idle branch); a new sequence forks from any branch, idle or running,
where the memory kind allows it. `Memory.fork` has the last word: when it refuses, the next best fork point is tried.
Where forks need a state (sliding window, recurrent), checkpoints are taken at the cuts of a prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from donabe.engine.disk_exchange import DiskExchange
from donabe.engine.disk_tier import DiskTier
from donabe.engine.kinds import MemoryKind
from donabe.engine.radix import Branch, Key, RadixTree
from donabe.engine.ram_tier import Entry, RamTier, Saved
from donabe.engine.seq_ids import SeqIds
from donabe.engine.tokens import Int32Array, TokenBuffer
from donabe.errors import KvFullError, StateError

if TYPE_CHECKING:
    from donabe._core import Memory

UNLIMITED = 1 << 40
MIN_CHECKPOINT_TOKENS = 16  # a shorter prefix is cheaper to compute again than to keep
MIN_SAVE_TOKENS = 64  # likewise for whole states that leave the pool
CUT_GRAIN = 256  # cells taken off a long idle prefix at once: each cut walks the whole pool


@dataclass(frozen=True, slots=True)
class ForkPoint:
    """Where a sequence could start: after the first k tokens of a branch, or of an entry in the RAM tier."""

    k: int
    source: Branch[Saved] | None = None
    checkpoint: Saved | None = None
    entry: Entry | None = None


NOWHERE = ForkPoint(0)


class PrefixCache:
    """The pool's cells and sequence ids, running and idle."""

    def __init__(
        self,
        memory: Memory | None,
        kind: MemoryKind,
        *,
        n_cells: int,
        n_seq_max: int,
        ram: RamTier,
        keep_idle: bool = True,
        disk: DiskTier | None = None,
    ) -> None:
        self._memory = memory
        self.kind = kind
        self.tree: RadixTree[Saved] = RadixTree()
        self.seq_ids = SeqIds(n_seq_max)
        self.n_cells = n_cells if kind.counts_cells else UNLIMITED
        self.ram = ram
        self.disk = DiskExchange(disk, ram, memory, self.n_cells) if disk is not None else None
        self._keep_idle = keep_idle
        self.n_forks = 0
        self.n_evictions = 0

    # --- accounting ---

    @property
    def n_free(self) -> int:
        return self.n_cells - self.tree.n_cells

    @property
    def n_idle(self) -> int:
        """Cells that only idle branches hold."""
        return sum(node.p1 - node.p0 for node in self.tree.nodes() if all(branch.is_idle for branch in node.branches))

    # --- lookup ---

    def find(self, key: Key, tokens: Int32Array, limit: int) -> list[ForkPoint]:
        """Places to start from, best first, each covering at most `limit` of the tokens. Changes nothing."""
        if limit <= 0:
            return []
        tokens = tokens[:limit]
        points = self._in_pool(key, tokens) if self.kind.shares else []
        points.extend(self._in_ram(key, tokens, max((p.k for p in points), default=0)))
        points.sort(key=lambda p: (-p.k, p.entry is not None, p.checkpoint is not None))
        return points

    def _in_pool(self, key: Key, tokens: Int32Array) -> list[ForkPoint]:
        points: list[ForkPoint] = []
        for overlap in self.tree.lookup(key, tokens):
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
        if self.kind.any_point or k == branch.n:
            return True
        if not self.kind.window:
            return False
        assert self._memory is not None
        return self._memory.pos_min(branch.seq_id) <= max(0, k - self.kind.window + 1)

    def _in_ram(self, key: Key, tokens: Int32Array, k_pool: int) -> list[ForkPoint]:
        points: list[ForkPoint] = []
        for hit in self.ram.lookup(key, tokens, self.disk.guests if self.disk is not None else ()):
            entry, reach = hit.entry, hit.n_equal
            if reach < k_pool + MIN_SAVE_TOKENS:
                break
            if reach == entry.state.n_tokens or self.kind.can_cut:
                points.append(ForkPoint(reach, entry=entry))
            fitting = [k for k, saved in entry.checkpoints.items() if k <= reach and saved.blob is not None]
            if fitting and max(fitting) >= k_pool + MIN_SAVE_TOKENS:
                points.append(ForkPoint(max(fitting), entry=entry, checkpoint=entry.checkpoints[max(fitting)]))
        return points

    def find_on_disk(
        self,
        key: Key,
        tokens: Int32Array,
        limit: int,
        points: list[ForkPoint],
        *,
        token_s: float,
        wait: bool,
        now: float,
    ) -> list[ForkPoint] | None:
        """The points, and those of a clearly longer prefix on disk; None while that is being read."""
        if self.disk is None or limit <= 0:
            return points
        k = points[0].k if points else 0
        if self.disk.fetch(key, tokens[:limit], k, token_s=token_s, wait=wait, now=now):
            return None
        return self.find(key, tokens, limit) if self.disk.guests else points

    # --- sequences come and go ---

    def start(self, key: Key, buffer: TokenBuffer, point: ForkPoint, now: float) -> Branch[Saved] | None:
        """A branch with the point's k tokens computed; None when it can't start there. Needs a free sequence id."""
        if point.entry is not None:
            branch = self._start_from_ram(key, buffer, point, now)
            if self.disk is not None:
                self.disk.release(point.entry)
            return branch
        if point.source is None:
            return self.tree.open(key, self.seq_ids.allocate(), buffer)
        return self._fork(point, buffer, now)

    def _fork(self, point: ForkPoint, buffer: TokenBuffer, now: float) -> Branch[Saved] | None:
        source, saved = point.source, point.checkpoint
        assert self._memory is not None and source is not None
        seq_id = self.seq_ids.allocate()
        try:
            forked = self._memory.fork(source.seq_id, seq_id, point.k, saved.blob if saved is not None else None)
        except (KvFullError, StateError):  # a checkpoint whose cells don't fit now
            forked = False
        if not forked:
            self._memory.seq_rm(seq_id)
            self.seq_ids.release(seq_id)
            return None
        self.n_forks += 1
        source.last_used = now
        if saved is not None:
            saved.last_used = now
        return self.tree.fork(source, point.k, seq_id, buffer)

    def _start_from_ram(self, key: Key, buffer: TokenBuffer, point: ForkPoint, now: float) -> Branch[Saved] | None:
        entry = point.entry
        assert entry is not None
        branch = self.restore(key, TokenBuffer(entry.tokens), entry.state, now)
        if branch is None:
            return None
        branch.leaf.checkpoints.update(entry.checkpoints)
        if point.k == branch.n:
            branch.buffer = branch.leaf.buffer = buffer
            return branch
        if self.kind.can_cut:
            self.cut(branch, point.k)
            branch.buffer = branch.leaf.buffer = buffer
            return branch
        if not self.seq_ids.n_free:
            self.drop(branch)
            return None
        branch.is_idle = True
        branch.last_used = now
        return self._fork(ForkPoint(point.k, branch, point.checkpoint), buffer, now)

    def restore(self, key: Key, buffer: TokenBuffer, saved: Saved, now: float) -> Branch[Saved] | None:
        """A branch of a saved state's tokens, with cells of its own; None when the blob is gone or does not fit."""
        if saved.blob is None or not self.seq_ids.n_free or self.n_free < saved.n_tokens:
            return None
        assert self._memory is not None
        seq_id = self.seq_ids.allocate()
        try:
            self._memory.set_state(seq_id, saved.blob)
        except (KvFullError, StateError) as error:
            self.seq_ids.release(seq_id)
            if self.disk is not None and isinstance(error, StateError):
                self.disk.refuse(saved)
            return None
        saved.last_used = now
        branch = self.tree.open(key, seq_id, buffer)
        self.tree.extend(branch, saved.n_tokens)
        return branch

    def save(self, branch: Branch[Saved], now: float) -> Saved | None:
        """Copy a branch's whole state to the RAM tier; None when it is too large for it."""
        if self._memory is None:
            return None
        try:
            return self.ram.keep(self._memory.get_state(branch.seq_id), branch.n, now)
        except StateError:
            return None

    def checkpoint(self, branch: Branch[Saved], now: float) -> None:
        """Keep what a fork at the branch's current end will need, for kinds whose forks need it."""
        k = branch.n
        if not self.kind.wants_checkpoints or k < MIN_CHECKPOINT_TOKENS:
            return
        node = branch.leaf if branch.leaf.p0 < k else branch.leaf.parent
        assert node is not None and self._memory is not None
        old = node.checkpoints.get(k)
        if old is not None and old.blob is not None:
            return
        saved = self.ram.keep(self._memory.get_state(branch.seq_id, partial=True), k, now)
        if saved is not None and node.parent is not None:
            node.checkpoints[k] = saved

    def retire(self, branch: Branch[Saved], now: float) -> None:
        """The branch's sequence is done: keep it as an idle branch if a later request can gain from it."""
        branch.last_used = now
        if self._keep_idle and self.kind.keeps_blobs and branch.n >= MIN_SAVE_TOKENS:
            self._spill(branch, now)
        if not self._keep_idle or not self.kind.shares or branch.n < MIN_CHECKPOINT_TOKENS or self._is_covered(branch):
            self.drop(branch)
            return
        branch.is_idle = True
        self._drop_redundant(branch)
        if self.kind.needs_consecutive:
            self._move_up(branch)

    def drop(self, branch: Branch[Saved]) -> None:
        """Free the branch's sequence id and the cells only it had."""
        if self._memory is not None:
            self._memory.seq_rm(branch.seq_id)
        self.seq_ids.release(branch.seq_id)
        self.tree.close(branch)

    def cut(self, branch: Branch[Saved], k: int) -> None:
        """Drop the branch's tokens from k on (kinds with can_cut only)."""
        assert self._memory is not None and self.kind.can_cut
        self._memory.seq_rm(branch.seq_id, k, -1)
        self.tree.cut(branch, k)

    def _is_covered(self, branch: Branch[Saved]) -> bool:
        """Another branch has the same tokens, and a fork of it anywhere does as well."""
        n = branch.n
        for overlap in self.tree.lookup(branch.key, branch.buffer.view(0, n)):
            if overlap.n_equal < n:
                continue
            for other in overlap.node.branches:
                if other is not branch and (self.kind.any_point or (other.n == n and other.is_idle)):
                    other.last_used = max(other.last_used, branch.last_used)
                    return True
        return False

    def _drop_redundant(self, branch: Branch[Saved]) -> None:
        """Idle branches that are a mere prefix of this one only take up a sequence id, where forks work anywhere."""
        if not self.kind.any_point:
            return
        for node in branch.path():
            for child in list(node.children):
                other = next(iter(child.branches))
                if child.p0 == child.p1 and other.is_idle and other is not branch:
                    self.drop(other)

    def _move_up(self, branch: Branch[Saved]) -> None:
        """Give an idle branch the highest free id, so that running sequences have the low, consecutive ones."""
        assert self._memory is not None
        if not self.seq_ids.n_free:
            return
        target = self.seq_ids.allocate_highest()
        if target > branch.seq_id and self._memory.fork(branch.seq_id, target, branch.n):
            self._memory.seq_rm(branch.seq_id)
            branch.seq_id, target = target, branch.seq_id
        self.seq_ids.release(target)

    def move_down(self, branch: Branch[Saved]) -> bool:
        """Give a running branch the lowest free id, if that is lower than its own."""
        if self.seq_ids.lowest_free >= branch.seq_id:
            return False
        assert self._memory is not None
        target = self.seq_ids.allocate()
        moved = self._memory.fork(branch.seq_id, target, branch.n)
        if moved:
            self._memory.seq_rm(branch.seq_id)
            branch.seq_id, target = target, branch.seq_id
        self.seq_ids.release(target)
        return moved

    # --- room ---

    def make_room(self, n_cells: int, n_ids: int, now: float, keep: Branch[Saved] | None = None) -> bool:
        """Evict idle branches, least recently used first, until so many cells and ids are free."""
        while self.n_free < n_cells or self.seq_ids.n_free < n_ids:
            victim = self._victim(keep, for_cells=self.seq_ids.n_free >= n_ids)
            if victim is None:
                return False
            self._evict(victim, n_cells - self.n_free if self.seq_ids.n_free >= n_ids else 0, now)
        return True

    def evict_one(self, now: float) -> bool:
        """Evict the least recently used idle branch; False when there is none."""
        victim = self._victim(None, for_cells=True)
        if victim is None:
            return False
        self._evict(victim, 0, now)
        return True

    def trim_idle(self, n_cells: int, now: float) -> None:
        """Evict until idle branches hold at most n_cells."""
        while self.n_idle > n_cells:
            victim = self._victim(None, for_cells=True)
            if victim is None:
                return
            self._evict(victim, 0, now)

    def _victim(self, keep: Branch[Saved] | None, *, for_cells: bool) -> Branch[Saved] | None:
        idle = [b for b in self.tree.branches if b.is_idle and b is not keep]
        if for_cells:
            idle = [b for b in idle if b.n_exclusive > 0] or idle
        return min(idle, key=lambda b: b.last_used, default=None)

    def _evict(self, branch: Branch[Saved], n_wanted: int, now: float) -> None:
        """Shorten the branch by the wanted cells if the rest is still worth an id, else move it to RAM or drop it."""
        self.n_evictions += 1
        exclusive = branch.n_exclusive
        n_cut = max(n_wanted, CUT_GRAIN)
        if self.kind.can_cut and n_wanted > 0 and n_cut * 2 <= exclusive:
            if self.disk is not None:
                self.disk.store(branch)
            self.cut(branch, branch.n - n_cut)
            return
        if exclusive >= MIN_SAVE_TOKENS or (self.kind.wants_checkpoints and branch.n >= MIN_SAVE_TOKENS):
            self._spill(branch, now)
        self.drop(branch)

    def _spill(self, branch: Branch[Saved], now: float) -> None:
        saved = self.save(branch, now)
        if self.disk is not None:
            self.disk.store(branch, saved.blob if saved is not None else None)
        if saved is None:
            return
        saved.last_used = branch.last_used
        entry = Entry(branch.key, branch.buffer.view(0, branch.n).copy(), saved)
        for node in branch.path():
            entry.checkpoints.update(node.checkpoints)
        self.ram.add(entry, covers_prefixes=self.kind.any_point)

    # --- the disk tier ---

    def store_idle(self, now: float) -> None:
        """Upkeep while nothing runs: idle branches are copied to the disk tier, one turn at a time."""
        if self.disk is not None:
            self.disk.store_idle(self.tree.branches, now)

    def close_disk(self) -> None:
        """Copy what is idle to the disk tier, last used first, and wait for the writing; both for a bounded time."""
        if self.disk is not None:
            self.disk.close(self.tree.branches)

    # --- checks ---

    def check(self) -> None:
        """Assert that the tree, the sequence ids and the native memory agree."""
        self.tree.check()
        ids = sorted(branch.seq_id for branch in self.tree.branches)
        assert ids == self.seq_ids.used(), f"branches hold ids {ids}, allocated are {self.seq_ids.used()}"
        assert self.tree.n_cells <= self.n_cells
        if self._memory is not None:
            for branch in self.tree.branches:
                last = self._memory.pos_max(branch.seq_id)
                assert last == branch.n - 1, f"sequence {branch.seq_id}: {last + 1} cells in memory, {branch.n} known"
            for seq_id in set(range(self.seq_ids.n)) - set(ids):
                assert self._memory.pos_max(seq_id) == -1, f"sequence {seq_id} is free but not empty"
