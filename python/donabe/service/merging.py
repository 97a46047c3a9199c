"""Several answers as one: the events of all, as they come, with choice numbers that continue from one to the next."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from typing import Any

import msgspec

from donabe.service.inference import Reply
from donabe.types import Event, Failed, Finished


async def begin_all(begins: Iterable[Coroutine[Any, Any, Reply]]) -> list[Reply]:
    """All replies, begun at the same time. When one can't begin, or the caller is cancelled, none stays open."""
    tasks = [asyncio.ensure_future(begin) for begin in begins]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        await asyncio.shield(asyncio.ensure_future(_give_up(tasks)))  # to the end, also when cancelled once more
        raise


async def _give_up(tasks: Sequence[asyncio.Task[Reply]]) -> None:
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    await close_all(result for result in results if isinstance(result, Reply))


async def close_all(replies: Iterable[Reply]) -> None:
    """Close each of them, also when one can't be; the first error is raised then."""
    results = await asyncio.gather(*(reply.aclose() for reply in replies), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


class MergedReply(Reply):
    """Replies of one request with several prompts. `events` ends with the last `Finished`, or the first `Failed`."""

    def __init__(self, replies: Sequence[Reply], n_per_reply: int) -> None:
        first = replies[0]
        super().__init__(
            spec=first.spec,
            events=_merge(replies, n_per_reply),
            load_s=first.load_s,
            started_at=first.started_at,
            warnings=first.warnings,
            lease=first.lease,
        )
        self._replies = replies

    async def aclose(self) -> None:
        try:
            await super().aclose()
        finally:
            await close_all(self._replies)


async def _merge(replies: Sequence[Reply], n_per_reply: int) -> AsyncIterator[Event]:
    queue: asyncio.Queue[Event] = asyncio.Queue(maxsize=64)
    tasks = [asyncio.create_task(_pump(reply, i * n_per_reply, queue)) for i, reply in enumerate(replies)]
    n_ended = 0
    try:
        while n_ended < len(replies):
            event = await queue.get()
            if isinstance(event, Finished) and event.last:
                n_ended += 1
                yield msgspec.structs.replace(event, last=n_ended == len(replies))
            else:
                yield event
                if isinstance(event, Failed):
                    return
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(reply: Reply, offset: int, queue: asyncio.Queue[Event]) -> None:
    is_ended = False
    try:
        async for event in reply.events:
            is_ended = isinstance(event, Failed) or (isinstance(event, Finished) and event.last)
            await queue.put(event if isinstance(event, Failed) else _shifted(event, offset))
    except Exception as error:  # the merged stream must end in any case
        is_ended = True
        await queue.put(Failed(kind=type(error).__name__, message=str(error)))
    if not is_ended:
        await queue.put(Failed(kind="RunnerError", message="the model's process ended the answer without saying why"))


def _shifted(event: Event, offset: int) -> Event:
    assert not isinstance(event, Failed)
    return msgspec.structs.replace(event, index=event.index + offset) if offset else event
