from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

pytest.importorskip("ray", reason="Ray is not installed; see ci/ray")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own, about how it uses pydantic
    from ray.exceptions import RayActorError
    from ray.serve.exceptions import DeploymentUnavailableError

    from donabe.replicas.runner import Deployment, Patience, ReplicaRunner, together

from donabe.errors import RunnerDiedError, RunnerError
from donabe.runner import messages
from donabe.types import (
    Delta,
    Event,
    Failed,
    Finished,
    FinishReason,
    GenerateRequest,
    ModelInfo,
    RunnerStatus,
    Usage,
)

INFO = ModelInfo(
    architecture="llama",
    description="",
    n_params=1,
    n_ctx=1024,
    n_ctx_train=512,
    n_ctx_per_request=512,
    n_embd=8,
    n_vocab=9,
    n_parallel=4,
    memory_kind="dense",
    size_bytes=100,
    size_vram_bytes=10,
)
DONE = Finished(reason=FinishReason.STOP, usage=Usage())


class FakeAnswer:
    """A response of Ray Serve: a stream of what `script` gives, or its first item when awaited. Errors are raised."""

    def __init__(self, script: list[Any]) -> None:
        self.script = list(script)
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True

    async def __anext__(self) -> Any:
        await asyncio.sleep(0)
        if not self.script:
            raise StopAsyncIteration
        item = self.script.pop(0)
        if item is asyncio.Event:
            await asyncio.Event().wait()
        if isinstance(item, Exception):
            raise item
        return messages.encode_body(item) if not isinstance(item, bytes) else item

    def __await__(self) -> Any:
        return self.__anext__().__await__()


class FakeHandle:
    def __init__(self, *script: Any, statuses: list[Any] | None = None) -> None:
        self.script = script
        self.is_called = asyncio.Event()
        self.statuses = statuses or []
        self.answers: list[FakeAnswer] = []
        self.calls: list[dict[str, Any]] = []

    def options(self, **_options: Any) -> FakeHandle:
        return self

    def remote(self, message: bytes, **keywords: Any) -> FakeAnswer:
        self.calls.append({"message": messages.parent_message_decoder.decode(message), **keywords})
        self.answers.append(FakeAnswer(list(self.script)))
        self.is_called.set()
        return self.answers[-1]

    def broadcast(self, _method: str, _message: bytes) -> FakeHandle:
        return self

    async def results_async(self, **_options: Any) -> list[Any]:
        return self.statuses


def frame(event: Event) -> messages.Events:
    return messages.Events(items=((1, event),))


def runner_over(handle: FakeHandle, n_running: Callable[[], int] = lambda: 2) -> ReplicaRunner:
    async def count() -> int:
        return n_running()

    async def delete() -> None:
        handle.script = ()

    deployment = Deployment(handle=handle, count_running=count, delete=delete)
    return ReplicaRunner(deployment, [INFO, INFO], Patience(look_every_s=0.01, none_running_s=0.05))


async def events_of(runner: ReplicaRunner) -> list[Event]:
    stream: AsyncIterator[Event] = runner.generate(GenerateRequest(prompt="word " * 100))
    return [event async for event in stream]


async def test_stream_passes_events_on_and_tells_the_router_the_prompt() -> None:
    handle = FakeHandle(frame(Delta(text="a")), frame(DONE))
    assert await events_of(runner_over(handle)) == [Delta(text="a"), DONE]
    assert len(handle.calls[0]["prefix_keys"]) > 0
    assert handle.answers[0].is_cancelled is False


async def test_left_stream_is_cancelled() -> None:
    handle = FakeHandle(frame(Delta(text="a")), asyncio.Event)
    stream: Any = runner_over(handle).generate(GenerateRequest(prompt="x"))
    await anext(stream)
    await stream.aclose()
    assert handle.answers[0].is_cancelled is True


async def test_cancelled_task_cancels_the_request() -> None:
    handle = FakeHandle(asyncio.Event)
    task = asyncio.create_task(runner_over(handle).tokenize("x"))
    await handle.is_called.wait()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert handle.answers[0].is_cancelled is True


async def test_dead_replica_is_one_error_and_the_runner_lives() -> None:
    runner = runner_over(FakeHandle(frame(Delta(text="a")), RayActorError()))
    first, last = await events_of(runner)
    assert first == Delta(text="a")
    assert isinstance(last, Failed)
    assert last.kind == "RunnerDiedError"
    assert runner.alive


async def test_answer_that_just_ends_is_an_error() -> None:
    [_, last] = await events_of(runner_over(FakeHandle(frame(Delta(text="a")))))
    assert isinstance(last, Failed)
    assert "too early" in last.message


async def test_deleted_deployment_ends_the_runner() -> None:
    runner = runner_over(FakeHandle(DeploymentUnavailableError("replica")))
    with pytest.raises(RunnerDiedError, match="gone"):
        await runner.tokenize("x")
    assert not runner.alive
    [failed] = await events_of(runner)
    assert isinstance(failed, Failed)


async def test_waiting_for_a_replica_has_an_end() -> None:
    handle = FakeHandle(asyncio.Event)
    runner = runner_over(handle, n_running=lambda: 0)
    [failed] = await events_of(runner)
    assert isinstance(failed, Failed)
    assert "no replica of the model has been running" in failed.message
    assert not runner.alive


async def test_waiting_in_the_queue_of_a_living_replica_has_none() -> None:
    looks = 0
    has_looked = asyncio.Event()

    def n_running() -> int:
        nonlocal looks
        looks += 1
        if looks == 12:
            has_looked.set()
        return 1 if looks % 3 else 0  # one comes back before it is too late

    handle = FakeHandle(asyncio.Event)
    runner = runner_over(handle, n_running)
    task = asyncio.create_task(events_of(runner))
    await has_looked.wait()
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert handle.answers[0].is_cancelled
    assert runner.alive


async def test_status_is_the_sum_of_those_that_answer() -> None:
    statuses = [
        RunnerStatus(n_running=1, n_cells=10, kv_bytes_per_cell=7),
        RunnerStatus(n_running=2, kv_bytes_per_cell=7),
    ]
    bodies = [messages.encode_body(messages.Reply.of(1, status)) for status in statuses]
    runner = runner_over(FakeHandle(statuses=[*bodies, RayActorError()]))
    assert await runner.status() == RunnerStatus(n_running=3, n_cells=10, kv_bytes_per_cell=7)
    with pytest.raises(RunnerError, match="no replica answers"):
        await runner_over(FakeHandle(statuses=[RayActorError()])).status()


async def test_closed_runner_takes_nothing() -> None:
    runner = runner_over(FakeHandle(frame(DONE)))
    await runner.close()
    await runner.close()
    assert not runner.alive
    [failed] = await events_of(runner)
    assert isinstance(failed, Failed)
    assert failed.kind == "RunnerError"


def test_replicas_together_have_their_sum() -> None:
    info = together([INFO, INFO, INFO])
    assert (info.n_parallel, info.n_ctx, info.size_bytes, info.size_vram_bytes) == (12, 3072, 300, 30)
    assert info.n_ctx_per_request == 512


def test_bytes_of_replicas_are_told_together_and_their_notes_once() -> None:
    one = msgspec.structs.replace(INFO, device_bytes={"CPU": 5}, cache_bytes={"attention": 7}, notes=("on the CPU",))
    other = msgspec.structs.replace(one, device_bytes={"CPU": 1, "CUDA0": 2})
    info = together([one, other])
    assert info.device_bytes == {"CPU": 6, "CUDA0": 2}
    assert info.cache_bytes == {"attention": 14}
    assert info.notes == ("on the CPU",)
