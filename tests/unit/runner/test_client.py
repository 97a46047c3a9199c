"""RunnerProcess against a scripted child: streams, deadlines, every kind of death, exactly one terminal event."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import tests.fakes.runner_child as runner_child

from donabe.errors import InvalidRequestError, LoadError, RunnerDiedError, RunnerError, RunnerStartError
from donabe.runner.client import RunnerProcess
from donabe.runner.deadlines import Deadlines
from donabe.runner.failures import is_terminal
from donabe.types import Delta, Event, Failed, Finished, GenerateRequest, LoadOptions, ModelDetails, ModelSpec

SPEC = ModelSpec(name="fake", paths=("/nowhere.gguf",), details=ModelDetails())
SCRIPT = Path(runner_child.__file__)
AUTOMATIC = LoadOptions()
ASK = GenerateRequest(prompt="one two three")
FAST = Deadlines(start_s=20.0, load_stall_s=0.2, stop_s=0.3, ping_interval_s=0.05, ping_timeout_s=0.3, step_s=5.0)

Start = Callable[..., Any]


@pytest.fixture
async def start(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(SCRIPT.parents[2]), os.environ.get("PYTHONPATH", "")]))
    started: list[RunnerProcess] = []

    async def begin(
        behaviour: str, deadlines: Deadlines | None = None, options: LoadOptions = AUTOMATIC, **more: Any
    ) -> RunnerProcess:
        command = (sys.executable, str(SCRIPT), behaviour)
        runner = await RunnerProcess.start(SPEC, options, deadlines=deadlines, command=command, **more)
        started.append(runner)
        return runner

    yield begin
    for runner in started:
        await runner.close()


async def collect(events: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in events]


async def test_stream_gives_deltas_then_one_finished(start: Start) -> None:
    runner = await start("answer")
    first, second = await asyncio.gather(collect(runner.generate(ASK)), collect(runner.generate(ASK)))
    for events in (first, second):
        assert [e.text for e in events[:-1]] == ["one", "two", "three"]
        assert isinstance(events[-1], Finished)


async def test_load_reports_progress_and_info(start: Start) -> None:
    seen: list[float] = []
    runner = await start("answer", on_progress=seen.append)
    assert seen == [0.5]
    assert (runner.info, runner.alive) == (runner_child.INFO, True)


async def test_request_error_of_a_call_is_raised_as_its_class(start: Start) -> None:
    runner = await start("answer")
    with pytest.raises(InvalidRequestError, match="text is odd") as caught:
        await runner.tokenize("x")
    assert (caught.value.field, caught.value.hint) == ("text", "send other text")


async def test_closing_the_iterator_cancels(start: Start) -> None:
    runner = await start("endless")
    events = runner.generate(ASK)
    assert await anext(events) == Delta(text="one")
    await events.aclose()
    assert (await runner.status()).n_steps == 1  # the fake counts cancels there


async def test_cancelled_task_cancels(start: Start) -> None:
    runner = await start("endless")
    task = asyncio.ensure_future(collect(runner.generate(ASK)))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await runner.status()).n_steps == 1


async def test_sigkill_gives_every_stream_one_failed_with_the_reason(start: Start) -> None:
    runner = await start("endless")
    streams = [asyncio.ensure_future(collect(runner.generate(ASK))) for _ in range(5)]
    await runner.status()
    os.kill(runner.pid, signal.SIGKILL)
    for events in await asyncio.gather(*streams):
        assert [is_terminal(event) for event in events].count(True) == 1
        failed = events[-1]
        assert isinstance(failed, Failed)
        assert failed.kind == "RunnerDiedError"
        assert "signal 9 (SIGKILL)" in failed.message
    assert not runner.alive
    with pytest.raises(RunnerDiedError):
        await runner.status()
    (after,) = await collect(runner.generate(ASK))
    assert isinstance(after, Failed)


async def test_native_log_tail_is_in_the_error(start: Start) -> None:
    runner = await start("die_in_answer")
    events = await collect(runner.generate(ASK))
    assert events[0] == Delta(text="one")
    assert isinstance(events[-1], Failed)
    assert "GGML_ASSERT(false) failed" in events[-1].message
    assert events[-1].data["exit_reason"] == "signal 9 (SIGKILL)"


async def test_lost_rpc_worker_is_named_once(start: Start) -> None:
    runner = await start("lose_worker", options=LoadOptions(rpc=("10.0.0.2:50052",)))
    events = await collect(runner.generate(ASK))
    # What the child said last may be lost with its connection, when the parent writes to it at that moment.
    assert [is_terminal(event) for event in events][-2:] in ([True], [False, True])
    failed = events[-1]
    assert isinstance(failed, Failed)
    assert (failed.kind, failed.message) == ("RunnerDiedError", "lost the RPC worker 10.0.0.2:50052")
    assert "once the worker is back" in str(failed.hint)
    assert failed.data["exit_reason"] == "signal 6 (SIGABRT)"


async def test_of_several_rpc_workers_the_unreachable_one_is_named(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as there, socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        gone = f"127.0.0.1:{unused.getsockname()[1]}"
        runner = await start("lose_worker", options=LoadOptions(rpc=(f"127.0.0.1:{there.getsockname()[1]}", gone)))
        events = await collect(runner.generate(ASK))
    assert isinstance(events[-1], Failed)
    assert events[-1].message == f"lost the RPC worker {gone}"


async def test_rpc_worker_lost_while_loading(start: Start) -> None:
    with pytest.raises(RunnerStartError, match=r"^lost the RPC worker 10\.0\.0\.2:50052 while loading the model$"):
        await start("lose_worker_at_load", options=LoadOptions(rpc=("10.0.0.2:50052",)))


async def test_abort_of_a_model_without_rpc_workers_is_told_as_it_is(start: Start) -> None:
    runner = await start("lose_worker")
    events = await collect(runner.generate(ASK))
    assert isinstance(events[-1], Failed)
    assert "signal 6 (SIGABRT)" in events[-1].message


async def test_unreadable_frame_ends_the_child(start: Start) -> None:
    runner = await start("garbage", Deadlines(stop_s=0.2))
    events = await collect(runner.generate(ASK))
    assert isinstance(events[-1], Failed)
    assert "protocol error" in events[-1].message
    assert not psutil.pid_exists(runner.pid)


async def test_exit_while_loading_names_code_and_output(start: Start) -> None:
    with pytest.raises(RunnerStartError, match=r"exit 7.*out of cheese") as caught:
        await start("exit_at_load")
    assert caught.value.exit_reason == "exit 7"


async def test_load_error_of_the_child_keeps_its_class(start: Start) -> None:
    with pytest.raises(LoadError, match="not a model") as caught:
        await start("refuse_load")
    assert caught.value.hint == "choose another file"


async def test_other_protocol_version_is_refused(start: Start) -> None:
    with pytest.raises(RunnerStartError, match="protocol 99"):
        await start("other_version")


async def test_start_deadline(start: Start) -> None:
    with pytest.raises(RunnerStartError, match="did not start within") as caught:
        await start("mute", Deadlines(start_s=0.1))
    assert caught.value.exit_reason == "deadline"


async def test_load_stall_deadline(start: Start) -> None:
    with pytest.raises(RunnerStartError, match="no progress"):
        await start("stall_at_load", FAST)


async def test_program_that_does_not_exist() -> None:
    with pytest.raises(RunnerStartError, match="can't start a runner"):
        await RunnerProcess.start(SPEC, LoadOptions(), command=("/nonexistent/program",))


async def test_silent_child_is_killed(start: Start) -> None:
    runner = await start("no_pong", FAST)
    events = await collect(runner.generate(ASK))
    assert [type(e) for e in events[:-1]] == [Delta] * 3
    (failed,) = await collect(late_generate(runner))
    assert isinstance(failed, Failed)
    assert "no answer for" in failed.message


async def late_generate(runner: RunnerProcess) -> AsyncIterator[Event]:
    await asyncio.wait_for(asyncio.shield(runner._receiver), 5)
    async for event in runner.generate(ASK):
        yield event


async def test_step_deadline(start: Start) -> None:
    runner = await start("stuck_step", FAST)
    (failed,) = await collect(late_generate(runner))
    assert isinstance(failed, Failed)
    assert "one step took over 5 s" in failed.message


async def test_close_is_idempotent_and_ends_streams(start: Start) -> None:
    runner = await start("endless")
    task = asyncio.ensure_future(collect(runner.generate(ASK)))
    await runner.status()
    await asyncio.gather(runner.close(), runner.close())
    await runner.close()
    events = await task
    assert isinstance(events[-1], Failed)
    assert events[-1].kind == "RunnerError"
    with pytest.raises(RunnerError, match="unloaded"):
        await runner.tokenize("x")
    assert not psutil.pid_exists(runner.pid)


async def test_child_that_ignores_shutdown_is_killed(start: Start) -> None:
    runner = await start("deaf", FAST)
    await runner.close()
    assert not psutil.pid_exists(runner.pid)


async def test_cancelling_start_kills_the_child(start: Start) -> None:
    before = {process.pid for process in psutil.Process().children()}
    task = asyncio.ensure_future(start("mute"))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert {process.pid for process in psutil.Process().children()} == before


async def test_child_ends_when_its_parent_dies(tmp_path: Path) -> None:
    report = tmp_path / "pid"
    program = f"""
import asyncio, os, pathlib, sys
from donabe.runner.client import RunnerProcess
from donabe.types import LoadOptions, ModelDetails, ModelSpec
async def main():
    spec = ModelSpec(name="fake", paths=("/x",), details=ModelDetails())
    runner = await RunnerProcess.start(spec, LoadOptions(), command=(sys.executable, {str(SCRIPT)!r}, "answer"))
    pathlib.Path({str(report)!r}).write_text(str(runner.pid))
    os.kill(os.getpid(), 9)
asyncio.run(main())
"""
    path = os.pathsep.join([str(SCRIPT.parents[2]), os.environ.get("PYTHONPATH", "")])
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", program, env=dict(os.environ, PYTHONPATH=path))
    await parent.wait()
    pid = int(report.read_text())
    for _ in range(200):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return
        await asyncio.sleep(0.02)
    pytest.fail("the child outlived its parent")
