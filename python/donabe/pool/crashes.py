"""How long to wait before a crashed model is started again: not at all the first time, then longer each time."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from dataclasses import dataclass

from donabe.pool.contracts import Clock

STABLE_AFTER_S = 60.0  # a runner that lived this long starts the count anew
FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 16.0


@dataclass
class _Crashes:
    count: int = 0
    last_at: float = 0.0


class CrashBackoff:
    """Remembers crashes in a row, by model."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._crashes: dict[Hashable, _Crashes] = {}

    def record(self, key: Hashable, *, lived_s: float) -> None:
        crashes = self._crashes.setdefault(key, _Crashes())
        crashes.count = 1 if lived_s >= STABLE_AFTER_S else crashes.count + 1
        crashes.last_at = self._clock()

    def delay_s(self, key: Hashable) -> float:
        """Seconds from now until a start is allowed."""
        crashes = self._crashes.get(key)
        if crashes is None or crashes.count < 2:
            return 0.0
        delay = min(FIRST_DELAY_S * 2.0 ** (crashes.count - 2), LONGEST_DELAY_S)
        return max(0.0, crashes.last_at + delay - self._clock())

    async def wait(self, key: Hashable) -> None:
        delay = self.delay_s(key)
        if delay > 0:
            await asyncio.sleep(delay)
