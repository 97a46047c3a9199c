"""A runner process kept ready: started and imported, without a model, so that a load need not wait for an interpreter.

It is an ordinary child that has not been told to load yet. It touches no device and no file, is nobody's model, and
ends with the server like every child, because its socket closes. Runs on the server's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

from donabe.errors import RunnerStartError
from donabe.runner.process import CHILD_COMMAND, ChildProcess

logger = logging.getLogger("donabe.runner")

# Starting an interpreter takes about a second of one core: running answers come first, the machine may have few cores.
REFILL_DELAY_S = 3.0


class SpareRunner:
    """At most one waiting child.

    Args:
        command: The program to run; `--fd N` is appended.
        refill_delay_s: From taking the spare until the next one is started, and until looking again when busy.
        is_busy: Whether answers are running, which the start would slow down.
    """

    def __init__(
        self,
        command: Sequence[str] = CHILD_COMMAND,
        *,
        refill_delay_s: float = REFILL_DELAY_S,
        is_busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self.is_busy = is_busy
        self._command = command
        self._refill_delay_s = refill_delay_s
        self._child: ChildProcess | None = None
        self._refill: asyncio.Task[None] | None = None
        self._disposals: set[asyncio.Task[None]] = set()

    @property
    def pid(self) -> int | None:
        """Of the waiting child; None when there is none."""
        return self._child.pid if self._child is not None and self._child.running else None

    def begin(self) -> None:
        """Start the first spare, in the background."""
        self._refill = asyncio.create_task(self._fill(0.0), name="spare runner")

    def take(self) -> ChildProcess | None:
        """The waiting child, which is now the caller's; None when none is ready. Another one is started later."""
        child, self._child = self._child, None
        if self._refill is None or self._refill.done():
            self._refill = asyncio.create_task(self._fill(self._refill_delay_s), name="spare runner")
        if child is not None and not child.running:
            logger.warning("the spare runner %d had ended: %s", child.pid, child.exit_reason)
            self._dispose(child)
            return None
        return child

    async def close(self) -> None:
        """End the waiting child. Idempotent."""
        if self._refill is not None:
            self._refill.cancel()
            await asyncio.gather(self._refill, return_exceptions=True)
        child, self._child = self._child, None
        if child is not None:
            self._dispose(child)
        await asyncio.gather(*self._disposals, return_exceptions=True)

    async def _fill(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        while self.is_busy():  # noqa: ASYNC110  a start that waits a few seconds more harms nobody; an event per lease would
            await asyncio.sleep(self._refill_delay_s)
        with contextlib.suppress(RunnerStartError):  # whoever needs a runner tries again, and says why it fails
            self._child = await ChildProcess.spawn(self._command)

    def _dispose(self, child: ChildProcess) -> None:
        task = asyncio.create_task(child.dispose(), name=f"end spare runner {child.pid}")
        self._disposals.add(task)
        task.add_done_callback(self._disposals.discard)
