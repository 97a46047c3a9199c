"""The spare runner: one waiting child, taken once, replaced, and gone with its owner."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from tests.fakes.runner import make_spec

from donabe.errors import RunnerStartError
from donabe.runner.client import RunnerProcess
from donabe.runner.process import ChildProcess
from donabe.runner.spare import SpareRunner
from donabe.types import LoadOptions

COMMAND = (sys.executable, str(Path(__file__).parents[2] / "fakes" / "runner_child.py"), "answer")
NOT_YET_S = 3600.0


@pytest.fixture
async def spare() -> AsyncIterator[SpareRunner]:
    spare = SpareRunner(COMMAND, refill_delay_s=NOT_YET_S)
    yield spare
    await spare.close()


async def ready(spare: SpareRunner) -> int:
    for _ in range(3000):
        if spare.pid is not None:
            return spare.pid
        await asyncio.sleep(0.01)
    raise AssertionError("no spare came up")


async def test_load_takes_the_waiting_child(spare: SpareRunner) -> None:
    spare.begin()
    pid = await ready(spare)
    runner = await RunnerProcess.start(make_spec(), LoadOptions(), spare=spare, command=("/nonexistent",))
    assert runner.pid == pid
    assert runner.info.architecture == "fake"
    assert spare.pid is None
    await runner.close()


async def test_without_a_spare_the_load_starts_its_own(spare: SpareRunner) -> None:
    runner = await RunnerProcess.start(make_spec(), LoadOptions(), spare=spare, command=COMMAND)
    assert runner.alive
    await runner.close()


async def test_taken_spare_is_replaced() -> None:
    spare = SpareRunner(COMMAND, refill_delay_s=0.0)
    spare.begin()
    first = await ready(spare)
    child = spare.take()
    assert child is not None
    second = await ready(spare)
    assert first != second
    await child.dispose()
    await spare.close()
    assert not psutil.pid_exists(second)


async def test_spare_is_not_started_beside_running_answers() -> None:
    answers = [True, True, False]
    spare = SpareRunner(COMMAND, refill_delay_s=0.0, is_busy=lambda: answers.pop(0))
    spare.begin()
    await ready(spare)
    assert answers == []  # asked until nothing ran
    await spare.close()


async def test_dead_spare_is_not_handed_out(spare: SpareRunner) -> None:
    spare.begin()
    os.kill(await ready(spare), signal.SIGKILL)
    for _ in range(3000):
        if spare.pid is None:
            break
        await asyncio.sleep(0.01)
    runner = await RunnerProcess.start(make_spec(), LoadOptions(), spare=spare, command=COMMAND)
    assert runner.alive
    await runner.close()


async def test_spare_that_can_not_start_is_no_error() -> None:
    spare = SpareRunner(("/nonexistent",))
    spare.begin()
    await asyncio.sleep(0.01)
    assert spare.take() is None
    await spare.close()


async def test_process_without_file_descriptors_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("donabe.child_process.socket.socketpair", exhausted)
    with pytest.raises(RunnerStartError, match="can't start a runner process: Too many open files"):
        await ChildProcess.spawn()


@pytest.mark.parametrize("n_turns", range(1, 9))
async def test_close_while_it_starts_leaves_no_process(spare: SpareRunner, n_turns: int) -> None:
    before = {process.pid for process in psutil.Process().children()}
    spare.begin()
    for _ in range(n_turns):
        await asyncio.sleep(0)
    await spare.close()
    assert {process.pid for process in psutil.Process().children()} == before
