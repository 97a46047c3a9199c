"""Which settings are fastest for one model on one machine: measured, one setting after the other, in bounded time.

A candidate replaces the default only when it is clearly faster: small differences are the machine's mood, and defaults
are what everything else is tested with. Policy and a stopwatch over `Bench`; `tuning_bench` does the native work.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

CLEARLY = 0.04  # a candidate must be so much faster
N_ROUNDS = 3  # each candidate is measured so often, in turns, and its best counts
DECODE_WEIGHT, BATCH_WEIGHT, PREFILL_WEIGHT = 0.4, 0.3, 0.3
DEFAULT_BUDGET_S = 60.0
LEAST_BUDGET_S = 2.0
MOST_BUDGET_S = 3600.0


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What is chosen. The defaults are what a load without tuning uses, but for n_threads."""

    n_threads: int
    n_ubatch: int = 512
    flash_attention: bool | None = None  # None = as the native side chooses
    repack: bool = True  # weights in an order that suits the CPU's matrix kernels

    def describe(self) -> str:
        words = [f"{self.n_threads} thread{'s' * (self.n_threads != 1)}", f"ubatch {self.n_ubatch}"]
        words.append(f"flash attention {({None: 'auto', True: 'on', False: 'off'})[self.flash_attention]}")
        return ", ".join([*words, "repacked weights" if self.repack else "weights as in the file"])


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens per second: one stream, several streams together, and a prompt."""

    decode: float
    batch: float
    prefill: float

    def score(self) -> float:
        logs = (math.log(max(value, 1e-9)) for value in (self.decode, self.batch, self.prefill))
        return math.exp(sum(w * v for w, v in zip((DECODE_WEIGHT, BATCH_WEIGHT, PREFILL_WEIGHT), logs, strict=True)))


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    setup: Setup
    speed: Speed


class Tuned(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome: what was chosen, what the default reached, and everything that was tried."""

    model: str
    chosen: Measurement
    default: Measurement
    tried: tuple[Measurement, ...]
    measured_at: float  # Unix seconds
    was_cut_short: bool = False

    @property
    def gain(self) -> float:
        """How much faster the choice is than the default; 0 when the default stays."""
        return self.chosen.speed.score() / self.default.speed.score() - 1


class Bench(Protocol):
    """Measures one setup once. `supports` is False for what this model or machine can't do."""

    def supports(self, setup: Setup) -> bool: ...

    def measure(self, setup: Setup) -> Speed: ...


@dataclass(frozen=True, slots=True)
class Progress:
    fraction: float  # 0..1 of the time or of the work, whichever is further
    measurement: Measurement


class Tuner:
    """One run.

    Args:
        budget_s: Nothing new is begun after this time; what was measured until then decides.
        report: Called after each measurement.
    """

    def __init__(
        self,
        bench: Bench,
        *,
        n_cores: int,
        n_logical: int,
        budget_s: float = DEFAULT_BUDGET_S,
        clock: Callable[[], float] = time.monotonic,
        report: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        self._bench = bench
        self._n_cores = n_cores
        self._n_logical = n_logical
        self._budget_s = budget_s
        self._clock = clock
        self._report = report
        self._best: dict[Setup, Speed] = {}
        self._started = 0.0
        self._stage = 0
        self.was_cut_short = False

    def run(self, model: str) -> Tuned:
        self._started = self._clock()
        default = Setup(n_threads=self._n_cores)
        self._measure(default)
        chosen = default
        for stage, variants in enumerate(self._stages()):
            self._stage = stage
            candidates = [c for c in variants(chosen) if c != chosen and self._bench.supports(c)]
            chosen = self._contest(chosen, candidates)
        return Tuned(
            model=model,
            chosen=Measurement(setup=chosen, speed=self._best[chosen]),
            default=Measurement(setup=default, speed=self._best[default]),
            tried=tuple(Measurement(setup=setup, speed=speed) for setup, speed in self._best.items()),
            measured_at=time.time(),
            was_cut_short=self.was_cut_short,
        )

    def _stages(self) -> Sequence[Callable[[Setup], Iterator[Setup]]]:
        counts = thread_counts(self._n_cores, self._n_logical)
        return (
            lambda now: (replace_setup(now, n_threads=n) for n in counts),
            lambda now: (replace_setup(now, flash_attention=value) for value in (True, False)),
            lambda now: (replace_setup(now, n_ubatch=n) for n in (256, 1024)),
            lambda now: (replace_setup(now, repack=value) for value in (False,)),
        )

    def _contest(self, holder: Setup, candidates: list[Setup]) -> Setup:
        """Measure the holder and its rivals in turns. Only rivals that were measured as often as it may win."""
        if not candidates:
            return holder
        complete: list[Setup] = []
        for n in range(N_ROUNDS):
            for setup in (holder, *candidates):
                if not self._has_time():
                    break
                self._measure(setup)
            else:
                complete = candidates
                if n and self._is_decided(holder, candidates):
                    break
                continue
            self.was_cut_short = True
            break
        rivals = [c for c in complete if self._best[c].score() > self._best[holder].score() * (1 + CLEARLY)]
        return max(rivals, key=lambda setup: self._best[setup].score(), default=holder)

    def _is_decided(self, holder: Setup, candidates: list[Setup]) -> bool:
        """No rival comes near: another round would change nothing."""
        limit = self._best[holder].score() * (1 - 3 * CLEARLY)
        return all(self._best[setup].score() < limit for setup in candidates)

    def _has_time(self) -> bool:
        return self._clock() - self._started < self._budget_s

    def _measure(self, setup: Setup) -> None:
        new = self._bench.measure(setup)
        old = self._best.get(setup, new)
        self._best[setup] = Speed(
            decode=max(old.decode, new.decode), batch=max(old.batch, new.batch), prefill=max(old.prefill, new.prefill)
        )
        spent = (self._clock() - self._started) / self._budget_s
        fraction = min(max(spent, self._stage / len(self._stages())), 1.0)
        self._report(Progress(fraction, Measurement(setup=setup, speed=new)))


def thread_counts(n_cores: int, n_logical: int) -> list[int]:
    """Worth trying besides all physical cores: one less (for everything else), fewer, and all hardware threads."""
    counts = {n_cores - 1, n_cores // 2, n_cores * 3 // 4, n_logical}
    return sorted(n for n in counts if 1 <= n != n_cores)


def replace_setup(setup: Setup, **changes: int | bool | None) -> Setup:
    return msgspec.structs.replace(setup, **changes)
