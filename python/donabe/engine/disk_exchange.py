"""The engine thread's side of the disk tier: copies branches to it, reads at most one file at a time.

What was read is a guest: found like an entry of the RAM tier, but not under its budget, and gone as soon as a sequence
has started from it. While a file is read, running sequences go on; admission waits for it.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import TYPE_CHECKING

from donabe.engine.disk_tier import DiskTier, Loaded
from donabe.engine.radix import Branch, Key
from donabe.engine.ram_tier import Entry, RamTier, Saved
from donabe.engine.tokens import Int32Array
from donabe.errors import NativeError

if TYPE_CHECKING:
    from donabe._core import Memory, StateBlob

IDLE_S = 2.0  # a conversation that goes on at once would only be written again
CLOSE_S = 4.0  # for what is still to be written when the model is unloaded


class DiskExchange:
    """Between the prefix cache and the files."""

    def __init__(self, disk: DiskTier, ram: RamTier, memory: Memory | None, n_cells: int) -> None:
        self.tier = disk
        self._ram = ram
        self._memory = memory
        self._n_cells = n_cells
        self._reading: tuple[Key, Future[Loaded | None]] | None = None
        self._guest: tuple[Entry, Loaded] | None = None
        self._stored_until = float("-inf")  # idle branches used up to then have had their turn

    @property
    def guests(self) -> tuple[Entry, ...]:
        return () if self._guest is None else (self._guest[0],)

    def fetch(self, key: Key, tokens: Int32Array, k_have: int, *, token_s: float, wait: bool, now: float) -> bool:
        """Get a prefix clearly longer than k_have among the guests, if there is one. True while it is being read."""
        while True:
            if self._reading is None:
                stored = self.tier.find(key, tokens, k_have, n_cells_max=self._n_cells, token_s=token_s)
                if stored is None or (self._guest is not None and self._guest[1].stored is stored):
                    return False
                self._reading = key, self.tier.read(stored)
            if not wait and not self._reading[1].done():
                return True
            self._take(now)

    def _take(self, now: float) -> None:
        assert self._reading is not None
        key, reading = self._reading
        self._reading = None
        loaded = reading.result()
        if loaded is None:
            return
        n_tokens = len(loaded.stored.tokens)
        entry = Entry(key, loaded.stored.tokens, Saved(loaded.state, n_tokens, now))
        for k, blob in loaded.checkpoints.items():
            saved = self._ram.keep(blob, k, now)
            if saved is not None:
                entry.checkpoints[k] = saved
        self._guest = entry, loaded

    def release(self, entry: Entry | None = None) -> None:
        """The guest was used, or None: nobody waits for it."""
        if self._guest is not None and entry in (None, self._guest[0]):
            self._guest = None

    def refuse(self, saved: Saved) -> None:
        """The context did not take this state."""
        if self._guest is not None and self._guest[0].state is saved:
            self.tier.refuse(self._guest[1].stored, "the context does not take its state")

    def store(self, branch: Branch[Saved], blob: StateBlob | None = None) -> None:
        """Copy a branch to the tier, if that wants it. `blob`: its whole state, where the caller has that already."""
        tokens = branch.buffer.view(0, branch.n)
        if not self.tier.wants(branch.key, tokens):
            return
        assert self._memory is not None
        if blob is None:
            try:
                blob = self._memory.get_state(branch.seq_id)
            except NativeError:
                return
        checkpoints = {
            k: saved.blob for node in branch.path() for k, saved in node.checkpoints.items() if saved.blob is not None
        }
        self.tier.store(branch.key, tokens, blob, checkpoints)

    def store_idle(self, branches: set[Branch[Saved]], now: float) -> None:
        """Copy the idle branches whose turn it is; each has one turn after each use."""
        self.release()
        ready = [b for b in branches if b.is_idle and self._stored_until < b.last_used <= now - IDLE_S]
        if not ready:
            return
        self._stored_until = min(b.last_used for b in ready)
        for branch in ready:
            if branch.last_used == self._stored_until:
                self.store(branch)

    def close(self, branches: set[Branch[Saved]]) -> None:
        """Copy what is idle, last used first, and wait for the writing; both for a bounded time."""
        deadline = time.monotonic() + CLOSE_S
        for branch in sorted(branches, key=lambda b: -b.last_used):
            if branch.is_idle and time.monotonic() < deadline:
                self.store(branch)
        self.tier.close(max(deadline - time.monotonic(), 1.0))
