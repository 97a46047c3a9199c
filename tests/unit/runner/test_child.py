"""Plans in the child: what they log, and what they answer when they fail."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fakes.machine import FakeMachine
from tests.fakes.runner import RunnerFactory, make_spec

from donabe.errors import LoadError
from donabe.runner import child, messages
from donabe.runner.child import Child
from donabe.runner.plans import MemoryPlan
from donabe.runner.smaller import AS_ASKED, Smaller
from donabe.types import LoadOptions

ERROR, WARNING, INFO, DEBUG = 4, 3, 2, 1
PLAN = FakeMachine(RunnerFactory(), ram=1).plan(LoadOptions())


class FakeChannel:
    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, message: Any) -> None:
        self.sent.append(message)


class FakePlanner:
    has_plenty = False

    def __init__(self, logs: list[tuple[int, str]], error: BaseException | None = None) -> None:
        self._logs, self._error = logs, error

    def plan(self, smaller: Smaller) -> MemoryPlan:
        self._logs += [(ERROR, "failed to allocate buffer"), (WARNING, "w"), (DEBUG, "d")]
        if self._error is not None:
            raise self._error
        return PLAN

    def fit(self, plan: MemoryPlan) -> tuple[Smaller, MemoryPlan]:
        return Smaller(n_ctx=2048), plan


def planned(monkeypatch: pytest.MonkeyPatch, error: BaseException | None = None, **asked: bool) -> list[Any]:
    logs = [(ERROR, "before")]

    def drain() -> list[tuple[int, str]]:
        lines = logs[:]
        logs.clear()
        return lines

    monkeypatch.setattr(child, "drain_native_logs", drain)
    channel = FakeChannel()
    process = Child(channel)  # type: ignore[arg-type]
    process._planner = FakePlanner(logs, error)  # type: ignore[assignment]
    process._plan(messages.Plan(spec=make_spec("m"), options=LoadOptions(), **asked))
    return channel.sent


def test_lines_of_a_plan_are_no_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later end of the process would be taken for one of memory."""
    before, during, answer = planned(monkeypatch)
    assert before.lines == ((ERROR, "before"),)
    assert during.lines == ((INFO, "failed to allocate buffer"), (INFO, "w"), (DEBUG, "d"))
    assert answer == messages.Planned(plan=PLAN)


@pytest.mark.parametrize("error", [MemoryError("bad_alloc"), LoadError("can't allocate")])
def test_plan_that_fails_is_told_as_information_only(
    monkeypatch: pytest.MonkeyPatch, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """The tail of what the process prints is searched as well."""
    _, during, answer = planned(monkeypatch, error, may_shrink=True)
    assert during.lines[-1] == (INFO, f"m can't be planned: {error}")
    assert answer == messages.Planned(smaller=AS_ASKED, plan=None)
    assert not caplog.records


def test_smaller_way_is_looked_for_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert planned(monkeypatch, may_shrink=True)[-1] == messages.Planned(smaller=Smaller(n_ctx=2048), plan=PLAN)
    assert planned(monkeypatch)[-1].smaller == AS_ASKED
