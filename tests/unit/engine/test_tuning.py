"""Choosing among measured setups, the stored results, and what a load takes from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from donabe.engine.tuned import TunedFiles, apply_tuned
from donabe.engine.tuning import N_ROUNDS, Measurement, Progress, Setup, Speed, Tuned, Tuner, thread_counts
from donabe.types import LoadOptions

DEFAULT = Setup(n_threads=4)


class PaperBench:
    """Speeds by formula; every measurement takes a second."""

    def __init__(self, speed: Callable[[Setup, int], float], unsupported: Callable[[Setup], bool]) -> None:
        self.now = 0.0
        self.measured: list[Setup] = []
        self._speed = speed
        self._unsupported = unsupported

    def supports(self, setup: Setup) -> bool:
        return not self._unsupported(setup)

    def measure(self, setup: Setup) -> Speed:
        self.now += 1.0
        self.measured.append(setup)
        value = self._speed(setup, len(self.measured))
        return Speed(decode=value, batch=value, prefill=value)


def tune(
    speed: Callable[[Setup, int], float],
    *,
    budget_s: float = 1000.0,
    unsupported: Callable[[Setup], bool] = lambda _: False,
    report: Callable[[Progress], None] = lambda _: None,
) -> tuple[Tuned, PaperBench]:
    bench = PaperBench(speed, unsupported)
    tuner = Tuner(bench, n_cores=4, n_logical=8, budget_s=budget_s, clock=lambda: bench.now, report=report)
    return tuner.run("m"), bench


def test_clearly_faster_setups_win_stage_by_stage():
    def speed(setup: Setup, _n: int) -> float:
        return 100 + 20 * (setup.n_threads == 3) + 30 * (setup.flash_attention is False) + 15 * (not setup.repack)

    tuned, _ = tune(speed)
    assert tuned.chosen.setup == Setup(n_threads=3, flash_attention=False, repack=False)
    assert tuned.default.setup == DEFAULT
    assert tuned.gain == pytest.approx(0.65)
    assert not tuned.was_cut_short


def test_a_little_faster_is_not_enough():
    tuned, _ = tune(lambda setup, _n: 100 + 3 * (setup != DEFAULT))
    assert tuned.chosen.setup == DEFAULT
    assert tuned.gain == 0


def test_one_disturbed_measurement_decides_nothing():
    tuned, _ = tune(lambda setup, n: 10.0 if n in (1, 2) else 100.0)
    assert tuned.chosen.setup == DEFAULT


def test_rivals_are_measured_in_turns_and_as_often():
    _, bench = tune(lambda setup, _n: 100.0)
    turn = [DEFAULT, Setup(n_threads=2), Setup(n_threads=3), Setup(n_threads=8)]
    assert bench.measured[1 : 1 + 4 * N_ROUNDS] == turn * N_ROUNDS


def test_hopeless_rivals_get_two_rounds_only():
    _, bench = tune(lambda setup, _n: 100.0 if setup == DEFAULT else 10.0)
    assert max(bench.measured.count(setup) for setup in set(bench.measured) - {DEFAULT}) == 2


def test_time_ends_the_measuring_and_an_incomplete_round_has_no_winner():
    tuned, bench = tune(lambda setup, _n: 100.0 + setup.n_threads, budget_s=3.0)
    assert tuned.was_cut_short
    assert tuned.chosen.setup == DEFAULT
    assert len(bench.measured) == 3


def test_what_the_machine_can_not_do_is_never_measured():
    _, bench = tune(lambda _s, _n: 1.0, unsupported=lambda setup: not setup.repack or setup.n_ubatch != 512)
    assert all(setup.repack and setup.n_ubatch == 512 for setup in bench.measured)


def test_a_stage_without_rivals_takes_no_time():
    tuned, bench = tune(lambda _s, _n: 1.0, unsupported=lambda _: True)
    assert bench.measured == [DEFAULT]
    assert not tuned.was_cut_short


def test_progress_never_falls_and_ends_below_or_at_one():
    fractions: list[float] = []
    tune(lambda _s, _n: 1.0, budget_s=60.0, report=lambda progress: fractions.append(progress.fraction))
    assert fractions == sorted(fractions)
    assert 0 < fractions[0] < fractions[-1] <= 1


@pytest.mark.parametrize(
    ("n_cores", "n_logical", "expected"), [(1, 1, []), (1, 2, [2]), (2, 2, [1]), (8, 16, [4, 6, 7, 16]), (4, 4, [2, 3])]
)
def test_thread_counts_worth_trying(n_cores: int, n_logical: int, expected: list[int]) -> None:
    assert thread_counts(n_cores, n_logical) == expected


# --- stored results --------------------------------------------------------------------------------------------------


def result(model: str = "m", **changes: object) -> Tuned:
    speed = Speed(decode=1, batch=2, prefill=3)
    chosen = Measurement(setup=msgspec.structs.replace(DEFAULT, **changes), speed=speed)
    default = Measurement(setup=DEFAULT, speed=speed)
    return Tuned(model=model, chosen=chosen, default=default, tried=(default, chosen), measured_at=1.0)


def test_result_survives_and_can_be_forgotten(tmp_path: Path) -> None:
    files = TunedFiles(tmp_path)
    assert files.read("a") is None
    files.write("a", result("one", n_threads=2))
    files.write("b", result("two"))
    assert files.read("a") == result("one", n_threads=2)
    assert files.forget("one") == 1
    assert files.read("a") is None
    assert files.read("b") is not None
    assert files.forget() == 1
    assert list((tmp_path / "tuning").iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"model": 3}', b"\xff\xfe"])
def test_damaged_file_is_as_good_as_none(tmp_path: Path, content: bytes) -> None:
    files = TunedFiles(tmp_path)
    files.write("a", result())
    (tmp_path / "tuning" / "a.json").write_bytes(content)
    assert files.read("a") is None
    assert files.forget() == 1


def test_what_the_user_chose_stays():
    setup = Setup(n_threads=3, n_ubatch=256, flash_attention=False, repack=False)
    options, repack = apply_tuned(LoadOptions(), setup)
    assert (options.n_threads, options.n_ubatch, options.flash_attention, repack) == (3, 256, False, False)
    given = LoadOptions(n_threads=7, n_ubatch=64, flash_attention=True)
    assert apply_tuned(given, setup)[0] == given
    assert apply_tuned(LoadOptions(n_batch=128), setup)[0].n_ubatch is None
    assert apply_tuned(LoadOptions(type_v="q8_0"), setup)[0].flash_attention is None
