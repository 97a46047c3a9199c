"""State blobs kept in RAM under one byte budget: checkpoints, preempted sequences, prefixes evicted from the pool.

Everything here may vanish when the budget is needed for something younger; every user can recompute. Runs on the engine
thread; makes no native calls (blobs are handed in).
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from donabe.engine.radix import Key
from donabe.engine.tokens import Int32Array, common_prefix

if TYPE_CHECKING:
    from donabe._core import StateBlob


@dataclass(eq=False)  # no slots: held by weak reference
class Saved:
    """A blob that its holder may lose: `blob` is None once the tier took the bytes back."""

    blob: StateBlob | None
    n_tokens: int
    last_used: float

    @property
    def nbytes(self) -> int:
        return self.blob.nbytes if self.blob is not None else 0


@dataclass(eq=False, slots=True)
class Entry:
    """A prefix that left the pool: its whole state, and partial states at earlier positions."""

    key: Key
    tokens: Int32Array  # (state.n_tokens,) int32
    state: Saved
    checkpoints: dict[int, Saved] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hit:
    """The first `n_equal` tokens of an entry equal the looked-up ones."""

    entry: Entry
    n_equal: int


class RamTier:
    """Byte accounting and least-recently-used order over all blobs."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._saved: weakref.WeakSet[Saved] = weakref.WeakSet()  # whatever nobody holds any more stops counting
        self._entries: list[Entry] = []

    @property
    def used_bytes(self) -> int:
        return sum(saved.nbytes for saved in self._saved)

    def fits(self, nbytes: int, *, is_needed: bool = False) -> bool:
        """Whether one blob of that size is worth keeping. `is_needed`: it will be used for sure.

        Any other may take more than half of the budget only while nothing has to be dropped for it.
        """
        most = self._budget_bytes if is_needed else max(self._budget_bytes // 2, self._budget_bytes - self.used_bytes)
        return nbytes <= most and self._budget_bytes > 0

    def keep(self, blob: StateBlob, n_tokens: int, now: float, *, is_needed: bool = False) -> Saved | None:
        """Account for a blob, dropping older ones for it; None when it is too large."""
        if not self.fits(blob.nbytes, is_needed=is_needed):
            return None
        self._make_room(blob.nbytes)
        saved = Saved(blob, n_tokens, now)
        self._saved.add(saved)
        return saved

    def add(self, entry: Entry, *, covers_prefixes: bool) -> None:
        """Make an entry findable. It replaces one of the same tokens, or with covers_prefixes of its first tokens."""

        def is_covered(old: Entry) -> bool:
            n = len(old.tokens)
            if old.key != entry.key or n > len(entry.tokens) or not (covers_prefixes or n == len(entry.tokens)):
                return False
            return common_prefix(old.tokens, entry.tokens) == n

        self._entries = [e for e in self._entries if e.state.blob is not None and not is_covered(e)]
        self._entries.append(entry)

    def lookup(self, key: Key, tokens: Int32Array, guests: tuple[Entry, ...] = ()) -> list[Hit]:
        """Entries with a common prefix, longest first; guests are looked at, too, but not kept."""
        self._entries = [e for e in self._entries if e.state.blob is not None]
        hits = [Hit(e, common_prefix(e.tokens, tokens)) for e in (*self._entries, *guests) if e.key == key]
        return sorted((h for h in hits if h.n_equal), key=lambda h: -h.n_equal)

    def clear(self) -> None:
        self._entries.clear()

    def _make_room(self, nbytes: int) -> None:
        excess = self.used_bytes + nbytes - self._budget_bytes
        if excess <= 0:
            return
        for saved in sorted(self._saved, key=lambda s: s.last_used):
            excess -= saved.nbytes
            saved.blob = None
            if excess <= 0:
                return
