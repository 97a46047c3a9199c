"""Several replies as one: none that has begun stays open when another one can't, or when nobody waits any more."""

from __future__ import annotations

import asyncio

import pytest
from tests.fakes.runner import make_spec

from donabe.errors import ServerBusyError
from donabe.service.inference import Reply
from donabe.service.merging import MergedReply, begin_all


class FakeLease:
    def __init__(self):
        self.n_releases = 0

    def release(self):
        self.n_releases += 1


class Events:
    """Of a reply that is never read."""

    def __init__(self, error=None, delay_s=0.0):
        self.error, self.delay_s, self.is_closed = error, delay_s, False

    def __aiter__(self):
        return self

    async def __anext__(self):
        await asyncio.sleep(60)
        raise StopAsyncIteration

    async def aclose(self):
        await asyncio.sleep(self.delay_s)
        self.is_closed = True
        if self.error is not None:
            raise self.error


def reply(**kwargs):
    return Reply(
        spec=make_spec("C:latest"), events=Events(**kwargs), load_s=0, started_at=0, warnings=(), lease=FakeLease()
    )


def is_closed(reply):
    return reply.events.is_closed and reply.lease.n_releases > 0


async def begin(reply, wait_s=0.0, error=None):
    await asyncio.sleep(wait_s)
    if error is not None:
        raise error
    return reply


async def test_replies_come_in_order():
    replies = [reply(), reply()]
    assert await begin_all([begin(replies[0], 0.01), begin(replies[1])]) == replies
    assert not any(map(is_closed, replies))


async def test_replies_that_have_begun_are_closed_when_the_caller_is_cancelled():
    first, second = reply(), reply()
    work = asyncio.create_task(begin_all([begin(first), begin(second), begin(reply(), 60)]))
    await asyncio.sleep(0.01)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert is_closed(first) and is_closed(second)


async def test_closing_goes_on_when_the_caller_is_cancelled_twice():
    first = reply(delay_s=0.05)
    work = asyncio.create_task(begin_all([begin(first), begin(reply(), 60)]))
    for _ in range(2):
        await asyncio.sleep(0.01)
        work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    await asyncio.sleep(0.2)
    assert is_closed(first)


async def test_replies_that_have_begun_are_closed_when_another_one_can_not_begin():
    first = reply()
    with pytest.raises(ServerBusyError):
        begins = [begin(first), begin(reply(), 60), begin(None, 0.01, ServerBusyError("full"))]
        await asyncio.wait_for(begin_all(begins), 5)
    assert is_closed(first)


async def test_all_replies_are_closed_also_when_one_can_not_be():
    replies = [reply(error=RuntimeError("broken")), reply()]
    with pytest.raises(RuntimeError, match="broken"):
        await MergedReply(replies, 1).aclose()
    assert all(map(is_closed, replies))
