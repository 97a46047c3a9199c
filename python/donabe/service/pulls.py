"""Pulls in progress, shared: two requests for one model watch the same download.

The download belongs to no request. It goes on while anybody watches it, and a moment longer, so that a client that
reconnects finds it running; then it is stopped (what is downloaded stays, and the next pull resumes there).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from donabe.errors import DonabeError
from donabe.service.contracts import PullModel
from donabe.types import PullProgress

logger = logging.getLogger(__name__)

LINGER_S = 2.0


@dataclass
class _Pull:
    """One running download: the latest event of every layer in order, and who waits for the next."""

    seen: dict[str, PullProgress] = field(default_factory=dict)
    watchers: set[asyncio.Queue[PullProgress | None]] = field(default_factory=set)
    task: asyncio.Task[None] | None = None
    error: BaseException | None = None

    def publish(self, progress: PullProgress) -> None:
        self.seen[f"{progress.status} {progress.digest}"] = progress
        for queue in self.watchers:
            queue.put_nowait(progress)

    def finish(self) -> None:
        for queue in self.watchers:
            queue.put_nowait(None)


class Pulls:
    """The pulls of one server."""

    def __init__(self, pull: PullModel, *, linger_s: float = LINGER_S) -> None:
        self._pull = pull
        self._linger_s = linger_s
        self._running: dict[tuple[str, bool], _Pull] = {}

    async def watch(self, name: str, *, insecure: bool = False) -> AsyncIterator[PullProgress]:
        """Progress of the pull of this model, from its beginning; starts it when it is not running.

        Raises:
            DonabeError: Whatever made the pull fail.
        """
        key = (name, insecure)
        pull = self._running.get(key)
        if pull is None:
            pull = self._running[key] = _Pull()
            pull.task = asyncio.create_task(self._run(key, pull), name=f"pull {name}")
        queue: asyncio.Queue[PullProgress | None] = asyncio.Queue()
        for progress in pull.seen.values():
            queue.put_nowait(progress)
        pull.watchers.add(queue)
        try:
            while (progress_or_end := await queue.get()) is not None:
                yield progress_or_end
            if pull.error is not None:
                raise pull.error
        finally:
            pull.watchers.discard(queue)
            if not pull.watchers and not _is_done(pull):
                asyncio.get_running_loop().call_later(self._linger_s, self._stop_unwatched, pull)

    async def _run(self, key: tuple[str, bool], pull: _Pull) -> None:
        name, insecure = key
        events = self._pull(name, insecure=insecure)
        try:
            async for progress in events:
                pull.publish(progress)
        except asyncio.CancelledError:
            pull.error = DonabeError("the pull was stopped")
            raise
        except Exception as error:
            if not isinstance(error, DonabeError):
                logger.exception("pulling %s failed", name)
            pull.error = error
        finally:
            close = getattr(events, "aclose", None)
            if close is not None:
                await close()
            del self._running[key]
            pull.finish()

    def _stop_unwatched(self, pull: _Pull) -> None:
        if not pull.watchers and pull.task is not None:
            pull.task.cancel()

    async def close(self) -> None:
        """Stop all downloads."""
        tasks = [pull.task for pull in self._running.values() if pull.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _is_done(pull: _Pull) -> bool:
    return pull.task is None or pull.task.done()
