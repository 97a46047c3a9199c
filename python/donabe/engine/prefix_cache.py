"""The prefix cache: keeps the cells of finished sequences, and gives new sequences the longest prefix it can.

Policy over the radix tree, one table row of `kinds.py` per memory kind. Every native memory operation of the engine
goes through here, so that the tree and the pool never disagree. Engine thread only.

A finished sequence's id stays with its cells (an idle branch); a new sequence forks from any branch, idle or running,
where the memory kind allows it. `Memory.fork` has the last word: when it refuses, the next best fork point is tried.
Where forks need a state (sliding window, recurrent), checkpoints are taken at the cuts of a prompt.
"""

from __future__ import annotations

from donabe.engine.copies import Copies
from donabe.engine.disk_exchange import DiskExchange
from donabe.engine.disk_tier import DiskTier
from donabe.engine.eviction import Eviction
from donabe.engine.fork_points import MIN_SAVE_TOKENS, ForkPoint, ForkPoints
from donabe.engine.kinds import MemoryKind
from donabe.engine.radix import Branch, Key, RadixTree
from donabe.engine.ram_tier import RamTier, Saved
from donabe.engine.seq_ids import SeqIds
from donabe.engine.tokens import Int32Array, TokenBuffer
from donabe.errors import KvFullError, StateError

UNLIMITED = 1 << 40
MIN_CHECKPOINT_TOKENS = 16  # a shorter prefix is cheaper to compute again than to keep


class PrefixCache:
    """The pool's cells and sequence ids, running and idle."""

    def __init__(
        self,
        kind: MemoryKind,
        copies: Copies,
        *,
        n_cells: int,
        n_seq_max: int,
        ram: RamTier,
        keep_idle: bool = True,
        idle_bytes: int | None = None,
        disk: DiskTier | None = None,
    ) -> None:
        self._memory = copies.memory
        self.kind = kind
        self.tree: RadixTree[Saved] = RadixTree()
        self.seq_ids = SeqIds(n_seq_max)
        self.n_cells = n_cells if kind.counts_cells else UNLIMITED
        self.ram = ram
        self.copies = copies
        self.disk = DiskExchange(disk, ram, copies, self.n_cells) if disk is not None else None
        self._points = ForkPoints(copies.memory, kind, self.tree, ram)
        self._keep_idle = keep_idle
        self.n_forks = 0
        self.eviction = Eviction(self, idle_bytes=0 if kind.keeps_blobs else idle_bytes)

    # --- accounting ---

    @property
    def n_free(self) -> int:
        return self.n_cells - self.tree.n_cells

    @property
    def n_idle(self) -> int:
        """Cells that only idle branches hold."""
        return sum(node.p1 - node.p0 for node in self.tree.nodes() if all(branch.is_idle for branch in node.branches))

    @property
    def n_idle_bytes(self) -> int:
        """What idle branches hold of the context's memory; 1 a branch where that is not known."""
        if self.kind.counts_cells and self.copies.bytes_per_cell:
            return self.n_idle * self.copies.bytes_per_cell
        return sum(branch.is_idle for branch in self.tree.branches) * max(self.copies.partial_bytes, 1)

    # --- lookup ---

    def find(self, key: Key, tokens: Int32Array, limit: int) -> list[ForkPoint]:
        """Places to start from, best first, each covering at most `limit` of the tokens. Changes nothing."""
        return self._points.find(key, tokens, limit, self.disk.guests if self.disk is not None else ())

    def find_on_disk(
        self, key: Key, tokens: Int32Array, limit: int, points: list[ForkPoint], *, token_s: float, now: float
    ) -> list[ForkPoint] | None:
        """The points, and those of a clearly longer prefix on disk; None while that is being read."""
        if self.disk is None or limit <= 0:
            return points
        k = points[0].k if points else 0
        if self.disk.fetch(key, tokens[:limit], k, token_s=token_s, now=now):
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
            forked = self.copies.fork(source.seq_id, seq_id, point.k, saved.blob if saved is not None else None)
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
        seq_id = self.seq_ids.allocate()
        try:
            self.copies.restore(seq_id, saved.blob)
        except (KvFullError, StateError) as error:
            self.seq_ids.release(seq_id)
            if self.disk is not None and isinstance(error, StateError):
                self.disk.refuse(saved)
            return None
        saved.last_used = now
        branch = self.tree.open(key, seq_id, buffer)
        self.tree.extend(branch, saved.n_tokens)
        return branch

    def checkpoint(self, branch: Branch[Saved], now: float) -> bool:
        """Keep what a fork at the branch's current end will need, for kinds whose forks need it.

        False when this step has no time left for it, but the next one may: call it again then.
        """
        k, copies = branch.n, self.copies
        if not self.kind.wants_checkpoints or k < MIN_CHECKPOINT_TOKENS or not self.ram.fits(copies.partial_bytes):
            return True
        node = branch.leaf if branch.leaf.p0 < k else branch.leaf.parent
        assert node is not None
        old = node.checkpoints.get(k)
        if old is not None and old.blob is not None:
            return True
        if copies.partial_bytes > copies.n_savable_bytes():
            return copies.partial_bytes > copies.n_savable_bytes(alone=True)
        saved = self.ram.keep(copies.save(branch.seq_id, partial=True), k, now)
        if saved is not None and node.parent is not None:
            node.checkpoints[k] = saved
        return True

    def retire(self, branch: Branch[Saved], now: float) -> None:
        """The branch's sequence is done: keep it as an idle branch if a later request can gain from it.

        Where only blobs are kept, it stays until `Eviction.trim_idle` has copied it.
        """
        branch.last_used = now
        n_least = MIN_SAVE_TOKENS if self.kind.keeps_blobs else MIN_CHECKPOINT_TOKENS
        is_kept = self._keep_idle and (self.kind.shares or self.kind.keeps_blobs)
        if not is_kept or branch.n < n_least or self._is_covered(branch):
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

    # --- the disk tier ---

    def store_idle(self, now: float) -> None:
        """Upkeep while nothing runs: idle branches are copied to the disk tier, one turn at a time."""
        self.copies.begin_step(None)
        self.eviction.trim_idle(now)
        if self.disk is not None:
            self.disk.store_idle(self.tree.branches, now)

    def close_disk(self) -> None:
        """Copy what is idle to the disk tier, last used first, and wait for the writing; both for a bounded time."""
        self.copies.begin_step(None)
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
