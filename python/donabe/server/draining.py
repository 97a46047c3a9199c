"""The answers under way, so that a stopping server can end in-band those that take too long.

A stop cancels an answer's task; where the answer awaits, the cancellation becomes a `ServerBusyError`, which is written
like any other error: as a status while nothing is sent yet, in the dialect's own shape afterwards. Runs on the server's
event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from donabe.errors import ServerBusyError
from donabe.pool.pool import SHUTTING_DOWN

RETRY_AFTER_S = 5.0


class Draining:
    """Knows every answer under way."""

    def __init__(self) -> None:
        self._running: set[asyncio.Future[Any]] = set()
        self._is_over = False

    def add(self, answer: asyncio.Future[Any]) -> None:
        """Watch an answer until it is done."""
        self._running.add(answer)
        answer.add_done_callback(self._running.discard)
        if self._is_over:
            # After its first step: a task that is cancelled before it began could not answer.
            asyncio.get_running_loop().call_soon(answer.cancel)

    def end_all(self) -> int:
        """End every answer, those to come too; gives how many there are."""
        self._is_over = True
        for answer in self._running:
            answer.cancel()
        return len(self._running)

    @contextmanager
    def in_band(self) -> Iterator[None]:
        """Around what an answer awaits.

        Raises:
            ServerBusyError: The server stops. A cancellation for any other reason stays one.
        """
        try:
            yield
        except asyncio.CancelledError:
            if not self._is_over:
                raise
            raise ServerBusyError(SHUTTING_DOWN, retry_after_s=RETRY_AFTER_S) from None
