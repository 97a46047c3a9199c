"""Turning work under way into progress events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from donabe.types import PullProgress

T = TypeVar("T")
_INTERVAL_S = 0.1


class Outcome(list[T]):
    """Receives the result of `follow`, which can only yield."""

    @property
    def value(self) -> T:
        return self[0]


async def follow(
    work: Coroutine[Any, Any, T], snapshot: Callable[[], PullProgress], outcome: Outcome[T] | None = None
) -> AsyncIterator[PullProgress]:
    """Run the work, yielding a snapshot whenever it changed, and a last one when the work is done.

    Cancels the work when the caller stops listening. Errors of the work are raised here.
    """
    task = asyncio.ensure_future(work)
    last: PullProgress | None = None
    try:
        await asyncio.sleep(0)  # let the work begin: a resumed download knows by then where it stands
        while not task.done():
            current = snapshot()
            if current != last:
                yield current
                last = current
            await asyncio.wait({task}, timeout=_INTERVAL_S)
        result = task.result()
        if outcome is not None:
            outcome.append(result)
        if (current := snapshot()) != last:
            yield current
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
