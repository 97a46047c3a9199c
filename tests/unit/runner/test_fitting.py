"""Loading in the own process: what a plan decides, and plans that fail."""

from __future__ import annotations

import logging

import pytest
from tests.fakes.machine import FakeMachine
from tests.fakes.runner import RunnerFactory, make_spec

from donabe.errors import LoadError
from donabe.runner import fitting
from donabe.runner.plans import MemoryPlan
from donabe.runner.smaller import AS_ASKED, Smaller
from donabe.runner.smaller import fitting as fitting_way
from donabe.types import LoadOptions, ModelSpec


class FakePlanner:
    """Plans of a fake machine's memory."""

    has_plenty = False
    ram = 0
    error: BaseException | None = None

    def __init__(self, spec: ModelSpec, options: LoadOptions) -> None:
        self.name, self.asked = spec.name, options
        self._machine = FakeMachine(RunnerFactory(), ram=self.ram)

    def plan(self, smaller: Smaller = AS_ASKED) -> MemoryPlan:
        if self.error is not None:
            raise self.error
        return self._machine.plan(self.asked, smaller)

    def fit(self, plan: MemoryPlan) -> tuple[Smaller, MemoryPlan]:
        return fitting_way(self.asked, plan, self.plan)


def loads(monkeypatch: pytest.MonkeyPatch, ram: int, error: BaseException | None = None) -> list[LoadOptions]:
    tried: list[LoadOptions] = []
    monkeypatch.setattr(FakePlanner, "ram", ram)
    monkeypatch.setattr(FakePlanner, "error", error)
    monkeypatch.setattr(fitting, "Planner", FakePlanner)
    monkeypatch.setattr(fitting, "load_model", lambda spec, options, report: tried.append(options))
    fitting.load_fitting(make_spec("m"), LoadOptions())
    return tried


@pytest.mark.parametrize("error", [MemoryError(), LoadError("no")])
def test_what_can_not_be_planned_is_left_to_the_load(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    assert loads(monkeypatch, 1, error) == [LoadOptions()]


def test_caches_shrink_into_memory_where_the_weights_do_not_fit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    assert loads(monkeypatch, 100) == [LoadOptions(n_ctx=8192)]
    assert "not enough memory for m: its context is only 8192 tokens" in caplog.text


def test_caches_that_exceed_memory_in_every_way_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LoadError, match="would take"):
        loads(monkeypatch, 5)
