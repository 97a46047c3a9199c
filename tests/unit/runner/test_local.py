"""LocalRunner: the same behaviour as the child's client, from asyncio and from plain threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
from tests.fakes.loaded_model import FakeLoaded

from donabe.errors import RunnerError
from donabe.runner.failures import is_terminal
from donabe.runner.local import LocalRunner
from donabe.types import (
    ClassifyRequest,
    Delta,
    EmbedRequest,
    Event,
    Failed,
    Finished,
    GenerateRequest,
    OutputOptions,
    RerankRequest,
)


@pytest.fixture
def loaded() -> FakeLoaded:
    return FakeLoaded()


@pytest.fixture
def runner(loaded: FakeLoaded) -> Iterator[LocalRunner]:
    runner = LocalRunner(loaded)
    yield runner
    runner.close_now()


def ask(prompt: str = "a", max_tokens: int = 3) -> GenerateRequest:
    return GenerateRequest(prompt=prompt, output=OutputOptions(max_tokens=max_tokens))


async def collect(events: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in events]


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


async def until_idle(loaded: FakeLoaded) -> None:
    for _ in range(500):
        if not loaded.engine.has_work():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the engine still has work")


async def until_running(loaded: FakeLoaded) -> None:
    for _ in range(500):
        if loaded.engine.running:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the request did not reach the engine")


async def test_many_streams_on_one_loop(runner: LocalRunner) -> None:
    for events in await asyncio.gather(*(collect(runner.generate(ask())) for _ in range(20))):
        assert text_of(events) == "w0 w1 w2 "
        assert isinstance(events[-1], Finished)


async def test_request_errors_arrive_in_the_stream(runner: LocalRunner) -> None:
    (failed,) = await collect(runner.generate(ask("bad")))
    assert isinstance(failed, Failed)
    assert failed.data == {"field": "prompt"}


async def test_leaving_early_cancels(runner: LocalRunner, loaded: FakeLoaded) -> None:
    events = runner.generate(ask(max_tokens=10**9))
    await anext(events)
    await events.aclose()
    await until_idle(loaded)
    assert loaded.engine.n_cancelled == 1


async def test_cancelled_task_cancels(runner: LocalRunner, loaded: FakeLoaded) -> None:
    task = asyncio.ensure_future(collect(runner.generate(ask(max_tokens=10**9))))
    await until_running(loaded)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until_idle(loaded)
    assert loaded.engine.n_cancelled == 1


async def test_single_answers(runner: LocalRunner) -> None:
    assert (await runner.embed(EmbedRequest(inputs=("a",)))).n_rows == 1
    assert (await runner.rerank(RerankRequest(query="q", documents=("d",)))).scores == (0.5,)
    assert (await runner.classify(ClassifyRequest(inputs=("d",)))).labels == ("no", "yes")
    assert await runner.tokenize("a b") == [0, 1]
    assert await runner.detokenize([3]) == "w3"
    assert await runner.pieces([3, 4]) == [b"w3", b"w4"]
    assert (await runner.status()).n_running == 0


async def test_close_ends_streams_and_refuses_later_ones(runner: LocalRunner, loaded: FakeLoaded) -> None:
    task = asyncio.ensure_future(collect(runner.generate(ask(max_tokens=10**9))))
    await until_running(loaded)
    await runner.close()
    await runner.close()
    failed = (await task)[-1]
    assert isinstance(failed, Failed)
    assert failed.message == "the model was unloaded"
    assert not runner.alive
    (late,) = await collect(runner.generate(ask()))
    assert isinstance(late, Failed)
    with pytest.raises(RunnerError):
        await runner.tokenize("x")


async def test_broken_engine_is_not_alive(runner: LocalRunner, loaded: FakeLoaded) -> None:
    loaded.engine.break_after = 0
    (failed,) = await collect(runner.generate(ask()))
    assert isinstance(failed, Failed)
    for _ in range(500):  # the event is delivered just before the failure is noted
        if not runner.alive:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("a runner with a broken engine must not look alive")


def test_threads_read_their_own_streams(runner: LocalRunner) -> None:
    texts: list[str] = []

    def read() -> None:
        with runner.open_stream(ask()) as stream:
            texts.append(text_of(list(stream)))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert texts == ["w0 w1 w2 "] * 8


def test_closed_thread_stream_cancels_and_ends(runner: LocalRunner, loaded: FakeLoaded) -> None:
    stream = runner.open_stream(ask(max_tokens=10**9))
    assert isinstance(next(stream), Delta)
    stream.close()
    stream.close()
    assert list(stream) == []
    asyncio.run(until_idle(loaded))
    assert loaded.engine.n_cancelled == 1


def test_several_loops_at_once(runner: LocalRunner) -> None:
    results: list[bool] = []

    def run() -> None:
        events = asyncio.run(collect(runner.generate(ask())))
        results.append(is_terminal(events[-1]) and text_of(events) == "w0 w1 w2 ")

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert results == [True] * 4
