"""Delays before a crashed model is started again."""

from __future__ import annotations

from donabe.pool.crashes import LONGEST_DELAY_S, STABLE_AFTER_S, CrashBackoff


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_delays_double_up_to_a_limit() -> None:
    backoff = CrashBackoff(Clock())
    delays = []
    for _ in range(9):
        backoff.record("a", lived_s=1.0)
        delays.append(backoff.delay_s("a"))
    assert delays == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 16.0, 16.0]
    assert delays[-1] == LONGEST_DELAY_S


def test_delay_runs_from_the_crash() -> None:
    clock = Clock()
    backoff = CrashBackoff(clock)
    for _ in range(4):
        backoff.record("a", lived_s=1.0)
    clock.now += 1.5
    assert backoff.delay_s("a") == 0.5
    clock.now += 10.0
    assert backoff.delay_s("a") == 0.0


def test_a_runner_that_lived_long_starts_the_count_anew() -> None:
    backoff = CrashBackoff(Clock())
    for _ in range(5):
        backoff.record("a", lived_s=1.0)
    backoff.record("a", lived_s=STABLE_AFTER_S)
    assert backoff.delay_s("a") == 0.0
    backoff.record("a", lived_s=1.0)
    assert backoff.delay_s("a") == 0.5


def test_models_are_counted_apart() -> None:
    backoff = CrashBackoff(Clock())
    for _ in range(3):
        backoff.record("a", lived_s=1.0)
    assert backoff.delay_s("b") == 0.0
