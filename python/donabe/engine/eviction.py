"""Who leaves the pool, and what of it is copied first: to RAM, and to the disk tier.

Room is made for those who run now, so it is never refused because of a copy: what this step has no time to copy is
copied in part (the front, where the kind can cut), or given up. Callers that can wait are told to when a whole step's
time would save more. Engine thread only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from donabe.engine.fork_points import MIN_SAVE_TOKENS
from donabe.engine.radix import Branch
from donabe.engine.ram_tier import Entry, Saved
from donabe.errors import StateError

if TYPE_CHECKING:
    from donabe.engine.prefix_cache import PrefixCache

CUT_GRAIN = 256  # cells taken off a long idle prefix at once: each cut walks the whole pool


class Eviction:
    """Makes room in one cache's pool.

    Args:
        idle_bytes: What idle branches may hold; None = all that running ones leave.
    """

    def __init__(self, cache: PrefixCache, *, idle_bytes: int | None) -> None:
        self._cache = cache
        self._ram = cache.ram
        self._copies = cache.copies
        self._idle_bytes = idle_bytes
        self.n_evictions = 0

    def make_room(
        self, n_cells: int, n_ids: int, now: float, keep: Branch[Saved] | None = None, *, can_wait: bool = False
    ) -> bool | None:
        """Evict idle branches, least recently used first, until so many cells and ids are free.

        With can_wait None means: not in this step, because what has to go is to be copied and there is no time left.
        """
        while self._cache.n_free < n_cells or self._cache.seq_ids.n_free < n_ids:
            victim = self._victim(keep, for_cells=self._cache.seq_ids.n_free >= n_ids)
            if victim is None:
                return False
            n_wanted = n_cells - self._cache.n_free if self._cache.seq_ids.n_free >= n_ids else 0
            if not self._evict(victim, n_wanted, now, can_wait=can_wait):
                return None
        return True

    def evict_one(self, now: float) -> bool:
        """Evict the least recently used idle branch; False when there is none."""
        victim = self._victim(None, for_cells=True)
        return victim is not None and self._evict(victim, 0, now)

    def evict(self, branch: Branch[Saved], now: float) -> None:
        """Move this idle branch out of the pool."""
        self._evict(branch, 0, now)

    def trim_idle(self, now: float) -> None:
        """Evict until idle branches hold no more than they may, as far as this step has time for the copies."""
        while self._idle_bytes is not None and self._cache.n_idle_bytes > self._idle_bytes:
            victim = self._victim(None, for_cells=True)
            if victim is None or not self._evict(victim, 0, now, can_wait=True):
                return

    def _victim(self, keep: Branch[Saved] | None, *, for_cells: bool) -> Branch[Saved] | None:
        idle = [b for b in self._cache.tree.branches if b.is_idle and b is not keep]
        if for_cells:
            idle = [b for b in idle if b.n_exclusive > 0] or idle
        return min(idle, key=lambda b: b.last_used, default=None)

    def _evict(self, branch: Branch[Saved], n_wanted: int, now: float, *, can_wait: bool = False) -> bool:
        """Shorten the branch by the wanted cells if the rest is still worth an id, else move it to RAM or drop it.

        False, and nothing is changed, when it is worth waiting for a step with time for the copy.
        """
        exclusive = branch.n_exclusive
        n_cut = max(n_wanted, CUT_GRAIN)
        is_cut = self._cache.kind.can_cut and n_wanted > 0 and n_cut * 2 <= exclusive
        is_kept = exclusive >= MIN_SAVE_TOKENS or (self._cache.kind.wants_checkpoints and branch.n >= MIN_SAVE_TOKENS)
        is_spilled = not is_cut and is_kept and self._ram.fits(self._copies.whole_bytes(branch.n))
        is_stored = self._cache.disk is not None and (is_cut or is_kept) and self._cache.disk.wants(branch)
        if can_wait and (is_spilled or is_stored) and self._is_worth_waiting(branch):
            return False
        self.n_evictions += 1
        if is_cut:
            if self._cache.disk is not None and is_stored:
                self._cache.disk.store(branch)
            self._cache.cut(branch, branch.n - n_cut)
            return True
        if (is_spilled or is_stored) and self._cut_to(branch, self._copies.n_savable_bytes()):
            self._spill(branch, now)
        self._cache.drop(branch)
        return True

    def _is_worth_waiting(self, branch: Branch[Saved]) -> bool:
        """Whether a whole step's time saves more of the branch than what is left of this one's."""
        n_bytes, alone = self._copies.whole_bytes(branch.n), self._copies.n_savable_bytes(alone=True)
        if not self._cache.kind.can_cut and n_bytes > alone:
            return False
        return self._copies.n_savable_bytes() < min(n_bytes, alone)

    def _spill(self, branch: Branch[Saved], now: float) -> None:
        saved = self._copy_to_ram(branch, now)
        if self._cache.disk is not None:
            self._cache.disk.store(branch, saved.blob if saved is not None else None)
        if saved is None:
            return
        saved.last_used = branch.last_used
        entry = Entry(branch.key, branch.buffer.view(0, branch.n).copy(), saved)
        for node in branch.path():
            entry.checkpoints.update(node.checkpoints)
        self._ram.add(entry, covers_prefixes=self._cache.kind.any_point)

    def save(self, branch: Branch[Saved], now: float) -> Saved | None:
        """Copy a preempted branch's state to the RAM tier, as much of it as there is time for; the branch may be cut.

        None when it is too large, or its kind can't be cut and there is no time.
        """
        if not self._cut_to(branch, self._copies.n_savable_bytes()):
            return None
        return self._copy_to_ram(branch, now, is_needed=True)

    def _copy_to_ram(self, branch: Branch[Saved], now: float, *, is_needed: bool = False) -> Saved | None:
        n_bytes = self._copies.whole_bytes(branch.n)
        if not self._ram.fits(n_bytes, is_needed=is_needed):
            return None
        try:
            return self._ram.keep(self._copies.save(branch.seq_id), branch.n, now, is_needed=is_needed)
        except StateError:
            return None

    def _cut_to(self, branch: Branch[Saved], n_bytes: float) -> bool:
        """Shorten a branch that is about to leave the pool so that its state has at most n_bytes. False: it can't."""
        if self._copies.whole_bytes(branch.n) <= n_bytes:
            return True
        n_tokens = self._copies.n_tokens_within(n_bytes)
        if not self._cache.kind.can_cut or n_tokens < MIN_SAVE_TOKENS:
            return False
        self._cache.cut(branch, min(n_tokens, branch.n))
        return True
