"""A slot for one more model where the number of resident models is bounded, for one load at a time.

The idle model used longest ago goes. Where none is idle the first to become so goes, and meanwhile the one used longest
ago yields: it takes no new requests. Without that, requests that overlap would keep it for ever.

Runs on the server's event loop; all state changes happen between awaits, so there are no locks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from donabe.pool.resident import Resident


class Room:
    """Makes room among the residents.

    Args:
        residents: The table's current entries.
        evict: Unloads an idle resident.

    Attributes:
        is_wanted: Whether the first resident to become idle is to go.
        yielding: The resident that takes no new requests until there is room.
    """

    def __init__(
        self, residents: Callable[[], Collection[Resident]], *, max_loaded: int, evict: Callable[[Resident], None]
    ) -> None:
        self._residents = residents
        self._max_loaded = max_loaded
        self._evict = evict
        self.is_wanted = False
        self.yielding: Resident | None = None
        self._has_changed = asyncio.Event()
        self._is_made = asyncio.Event()

    async def make(self) -> None:
        """Wait until one more model may be resident."""
        self._is_made.clear()
        try:
            while len(loaded := [r for r in self._residents() if r.runner is not None]) >= self._max_loaded:
                self._has_changed.clear()
                self._ask(sorted(loaded, key=lambda r: r.last_used_at))
                await self._has_changed.wait()
        finally:
            self.is_wanted, self.yielding = False, None
            self._is_made.set()

    async def until_made(self) -> None:
        """Wait until nobody yields any more."""
        await self._is_made.wait()

    def look_again(self) -> None:
        """A resident is gone, or those who waited for its load have it."""
        self._has_changed.set()

    def _ask(self, loaded: list[Resident]) -> None:
        if any(r.is_closing for r in loaded):
            return
        idle = next((r for r in loaded if r.is_idle), None)
        if idle is not None:
            self._evict(idle)
            return
        self.is_wanted = True
        if self.yielding is None and not any(r.is_retiring for r in loaded):
            # never one that has yet to serve those it was loaded for: loads would only replace each other
            self.yielding = next((r for r in loaded if not r.n_waiters), None)
