"""Measuring models while nobody needs the machine: once each, ended by a request, never beside other work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fakes.runner import make_spec

from donabe.runner.tune_process import TuneOutcome
from donabe.service import idle_tuning
from donabe.service.idle_tuning import IDLE_S, MAX_ATTEMPTS, RETRY_S, IdleTuner
from donabe.store.locks import FileLock
from donabe.types import LoadOptions, ModelSpec

IDLE = LoadOptions(auto_tune="idle")
A, B = make_spec("A"), make_spec("B")


class Rig:
    """A tuner over a measurement that takes as long as the test wants."""

    def __init__(self, home: Path) -> None:
        self.now = 0.0
        self.is_quiet = True
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.outcome = TuneOutcome("measured", "3 threads (+12%)")
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.lock = FileLock(home / "tuning" / "lock")
        self.tuner = IdleTuner(self.measure, is_quiet=lambda: self.is_quiet, lock=self.lock, clock=lambda: self.now)

    async def measure(self, spec: ModelSpec, options: LoadOptions) -> TuneOutcome:
        self.begun.append(spec.name)
        try:
            await self.go_on.wait()
            return self.outcome
        finally:
            self.ended.append(spec.name)

    async def wait_and_look(self, seconds: float = IDLE_S) -> None:
        self.now += seconds
        self.tuner.look()
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.fixture
async def rig(tmp_path: Path):
    rig = Rig(tmp_path)
    yield rig
    await rig.tuner.close()


async def test_used_model_is_measured_once_after_minutes_without_a_request(rig, caplog):
    caplog.set_level(logging.INFO)
    await rig.tuner.make_way(A, IDLE)
    await rig.wait_and_look(IDLE_S - 1)
    assert rig.begun == []
    await rig.wait_and_look(1)
    assert rig.ended == ["A"]
    for _ in range(3):
        await rig.tuner.make_way(A, IDLE)
        await rig.wait_and_look()
    assert rig.begun == ["A"]
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["measured A while idle: 3 threads (+12%), from its next load on"]


async def test_request_ends_the_measurement_before_it_goes_on_and_it_is_made_up_for_later(rig):
    rig.go_on.clear()
    await rig.tuner.make_way(A, IDLE)
    await rig.wait_and_look()
    assert (rig.begun, rig.ended) == (["A"], [])
    await rig.tuner.make_way(B, LoadOptions(embedding=True))
    assert rig.ended == ["A"]
    await rig.wait_and_look(IDLE_S - 1)
    assert rig.begun == ["A"]
    rig.go_on.set()
    await rig.wait_and_look(1)
    assert rig.begun == ["A", "A"]
    await rig.wait_and_look()
    assert rig.begun == ["A", "A"]


async def test_measurement_that_a_request_ends_before_its_first_step_is_made_up_for(rig):
    await rig.tuner.make_way(A, IDLE)
    rig.now += IDLE_S
    rig.tuner.look()
    await rig.tuner.make_way(B, LoadOptions(embedding=True))
    assert rig.begun == []
    await rig.wait_and_look()
    assert rig.begun == ["A"]


async def test_every_request_waits_until_the_measurement_has_let_go_of_its_memory(rig):
    """It takes a while to end, as a child with much memory does, and can be hurried no more."""
    is_free = asyncio.Event()

    async def measure(spec: ModelSpec, options: LoadOptions) -> TuneOutcome:
        rig.begun.append(spec.name)
        try:
            await asyncio.Event().wait()
        finally:
            await is_free.wait()
        raise AssertionError("unreachable")

    rig.tuner = IdleTuner(measure, is_quiet=lambda: True, lock=rig.lock, clock=lambda: rig.now)
    for _ in range(2):  # the second time it is told anew
        is_free.clear()
        await rig.tuner.make_way(A, IDLE)
        await rig.wait_and_look()
        requests = []
        for spec in (A, B):
            requests.append(asyncio.create_task(rig.tuner.make_way(spec, IDLE)))
            for _ in range(5):
                await asyncio.sleep(0)
        assert [request.done() for request in requests] == [False, False]
        is_free.set()
        await asyncio.wait_for(asyncio.gather(*requests), 1)
    assert len(rig.begun) == 2


async def test_measurement_that_is_always_interrupted_is_given_up(rig):
    rig.go_on.clear()
    for _ in range(MAX_ATTEMPTS + 2):
        await rig.tuner.make_way(A, IDLE)
        await rig.wait_and_look()
    assert len(rig.begun) == MAX_ATTEMPTS


async def test_nothing_is_measured_while_a_model_is_loaded(rig):
    rig.is_quiet = False
    await rig.tuner.make_way(A, IDLE)
    await rig.wait_and_look(10 * IDLE_S)
    assert rig.begun == []
    rig.is_quiet = True
    await rig.wait_and_look(0)
    assert rig.begun == ["A"]


async def test_busy_machine_is_asked_again_much_later(rig):
    rig.outcome = TuneOutcome("busy")
    await rig.tuner.make_way(A, IDLE)
    await rig.wait_and_look()
    await rig.wait_and_look(RETRY_S - 1)
    assert rig.begun == ["A"]
    rig.outcome = TuneOutcome("measured")
    await rig.wait_and_look(1)
    await rig.wait_and_look(RETRY_S)
    assert rig.begun == ["A", "A"]


async def test_two_servers_on_a_folder_do_not_measure_beside_each_other(rig, tmp_path):
    other = FileLock(tmp_path / "tuning" / "lock")
    assert other.try_acquire()
    await rig.tuner.make_way(A, IDLE)
    await rig.wait_and_look()
    assert rig.begun == []
    other.release()
    await rig.wait_and_look(RETRY_S)
    assert rig.begun == ["A"]
    assert other.try_acquire()  # given back
    other.release()


async def test_models_are_measured_one_after_the_other_the_one_used_last_first(rig):
    for spec in (A, B, A, B):
        await rig.tuner.make_way(spec, IDLE)
    rig.go_on.clear()
    await rig.wait_and_look()
    await rig.wait_and_look()
    assert rig.begun == ["B"]
    rig.go_on.set()
    await asyncio.sleep(0.01)
    await rig.wait_and_look(0)
    assert rig.begun == ["B", "A"]


@pytest.mark.parametrize("outcome", [TuneOutcome("failed", "it won't load"), TuneOutcome("stored")])
async def test_what_failed_or_is_there_already_is_not_tried_again(rig, caplog, outcome):
    caplog.set_level(logging.INFO)
    rig.outcome = outcome
    await rig.tuner.make_way(A, IDLE)
    await rig.wait_and_look()
    await rig.tuner.make_way(A, IDLE)
    await rig.wait_and_look()
    assert rig.begun == ["A"]
    lines = [record.getMessage() for record in caplog.records]
    assert lines == (["A is not tuned: it won't load"] if outcome.kind == "failed" else [])


async def test_unwritable_folder_is_one_warning(rig, caplog, tmp_path):
    (tmp_path / "tuning").write_text("a file")
    await rig.tuner.make_way(A, IDLE)
    await rig.wait_and_look()
    await rig.wait_and_look()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert rig.begun == []


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        (A, LoadOptions(auto_tune="off")),
        (A, LoadOptions(auto_tune="cached")),
        (A, LoadOptions(auto_tune="on")),
        (A, LoadOptions(auto_tune="idle", embedding=True)),
        (A, LoadOptions(auto_tune="idle", rpc=("host:1",))),
        (make_spec("E", capabilities=("embedding",)), IDLE),
    ],
)
async def test_other_models_and_settings_are_left_alone(rig, spec, options):
    await rig.tuner.make_way(spec, options)
    await rig.wait_and_look()
    assert rig.begun == []


async def test_models_to_measure_are_bounded(rig, monkeypatch):
    monkeypatch.setattr(idle_tuning, "MAX_CANDIDATES", 2)
    for name in "ABC":
        await rig.tuner.make_way(make_spec(name), IDLE)
    for _ in range(4):
        await rig.wait_and_look()
    assert rig.begun == ["C", "B"]


async def test_close_ends_a_measurement_and_the_looking(rig, monkeypatch):
    monkeypatch.setattr(idle_tuning, "LOOK_EVERY_S", 0.001)
    rig.go_on.clear()
    rig.tuner.begin()
    await rig.tuner.make_way(A, IDLE)
    rig.now += IDLE_S
    await eventually(lambda: rig.begun == ["A"])
    await rig.tuner.close()
    assert rig.ended == ["A"]
    await asyncio.sleep(0.02)
    assert rig.begun == ["A"]


async def eventually(is_so: Callable[[], bool]) -> None:
    for _ in range(500):
        if is_so():
            return
        await asyncio.sleep(0.005)
    pytest.fail("it never came to it")
