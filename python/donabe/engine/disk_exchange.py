"""The engine thread's side of the disk tier: copies branches to it, reads at most one file at a time.

What was read is a guest: found like an entry of the RAM tier, but not under its budget, and gone as soon as a sequence
has started from it. While a file is read everything goes on but the requests that want one, and for them there is a
deadline. The engine thread never waits for a disk.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from donabe.engine.copies import Copies
from donabe.engine.disk_tier import MOMENT_S, DiskTier, Loaded
from donabe.engine.radix import Branch, Key
from donabe.engine.ram_tier import Entry, RamTier, Saved
from donabe.engine.tokens import Int32Array
from donabe.errors import NativeError

if TYPE_CHECKING:
    from donabe._core import StateBlob

IDLE_S = 2.0  # a conversation that goes on at once would only be written again
CLOSE_S = 4.0  # for what is still to be written when the model is unloaded
INDEX_WAIT_S = 0.25  # requests wait so long for the index after a load; it takes milliseconds
READ_S = 1.0  # a file may take this ...
READ_FACTOR = 4.0  # ... and so many times what files of its size took before


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """A file on its way, for requests of this key."""

    key: Key
    future: Future[Loaded | None]
    until: float


class DiskExchange:
    """Between the prefix cache and the files."""

    def __init__(self, disk: DiskTier, ram: RamTier, copies: Copies, n_cells: int) -> None:
        self.tier = disk
        self._ram = ram
        self._copies = copies
        self._n_cells = n_cells
        self._reading: Reading | None = None
        self._asked_at: float | None = None  # when somebody first looked, before there was an index
        self._guest: tuple[Entry, Loaded] | None = None
        self._stored_until = float("-inf")  # idle branches used up to then have had their turn

    @property
    def guests(self) -> tuple[Entry, ...]:
        return () if self._guest is None else (self._guest[0],)

    def fetch(self, key: Key, tokens: Int32Array, k_have: int, *, token_s: float, now: float) -> bool:
        """Get a prefix clearly longer than k_have among the guests, if there is one. True while that takes time."""
        self._collect(now)
        if not self.tier.is_indexed:
            self._asked_at = now if self._asked_at is None else self._asked_at
            return self.tier.is_worth_reading(len(tokens), k_have) and now < self._asked_at + INDEX_WAIT_S
        stored = self.tier.find(key, tokens, k_have, n_cells_max=self._n_cells, token_s=token_s)
        if stored is None or (self._guest is not None and self._guest[1].stored is stored):
            return False
        if self._reading is None:
            self._reading = Reading(key, self.tier.read(stored), now + READ_S + READ_FACTOR * self.tier.read_s(stored))
        return True

    def wait(self) -> None:
        """Nothing else is to be done: give whoever reads the processor for a moment."""
        if self._reading is not None:
            self.tier.wait_a_moment(self._reading.future)
        elif not self.tier.is_indexed:
            self.tier.wait_for_index(MOMENT_S)

    def _collect(self, now: float) -> None:
        """Take what was read; give up what takes too long: computing the prompt has an end."""
        reading = self._reading
        if reading is None:
            return
        if reading.future.done():
            self._reading = None
            self._take(reading, now)
        elif now >= reading.until:
            self._reading = None
            self.tier.stop_reading_until(reading.future)

    def _take(self, reading: Reading, now: float) -> None:
        loaded = reading.future.result()
        if loaded is None:
            return
        n_tokens = len(loaded.stored.tokens)
        entry = Entry(reading.key, loaded.stored.tokens, Saved(loaded.state, n_tokens, now))
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

    def wants(self, branch: Branch[Saved]) -> bool:
        """Whether the branch is worth a file that it does not have yet."""
        return self.tier.wants(branch.key, branch.buffer.view(0, branch.n))

    def store(self, branch: Branch[Saved], blob: StateBlob | None = None) -> None:
        """Copy a branch to the tier, if that wants it and there is time.

        `blob`: its whole state, where the caller has that already.
        """
        if not self.wants(branch):
            return
        tokens = branch.buffer.view(0, branch.n)
        if blob is None:
            if self._copies.whole_bytes(branch.n) > self._copies.n_savable_bytes():
                return
            try:
                blob = self._copies.save(branch.seq_id)
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
        self.tier.wait_for_index(CLOSE_S / 4)
        for branch in sorted(branches, key=lambda b: -b.last_used):
            if branch.is_idle and time.monotonic() < deadline:
                self.store(branch)
        self.tier.close(max(deadline - time.monotonic(), 1.0))
