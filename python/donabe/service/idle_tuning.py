"""Finds out which settings are fastest for the models in use, once each, while nobody needs the machine.

A model that has been used is measured after some minutes without a request and with no model loaded: in a child
process, which a request that arrives ends at once. Its next load uses the result. Runs on the server's event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from donabe.runner.tune_process import TuneOutcome
from donabe.store.locks import FileLock
from donabe.types import LoadOptions, ModelSpec

logger = logging.getLogger(__name__)

IDLE_S = 300.0  # since the last request
RETRY_S = 1800.0  # after the machine, or another server on the folder, was busy
LOOK_EVERY_S = 15.0
MAX_ATTEMPTS = 3  # a measurement that requests interrupt so often is given up
MAX_CANDIDATES = 64
_CANCEL_S = 5.0


class Measure(Protocol):
    """Measures a model and stores the result; ends at once when cancelled."""

    async def __call__(self, spec: ModelSpec, options: LoadOptions) -> TuneOutcome: ...


@dataclass
class _Candidate:
    spec: ModelSpec
    options: LoadOptions
    n_attempts: int = 0
    not_before: float = 0.0


class IdleTuner:
    """One server's tuning.

    Args:
        is_quiet: Whether no model is loaded, or being loaded.
        lock: Shared by all servers with this home folder: they must not measure beside each other.
    """

    def __init__(
        self,
        measure: Measure,
        *,
        is_quiet: Callable[[], bool],
        lock: FileLock,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._measure = measure
        self._is_quiet = is_quiet
        self._lock = lock
        self._clock = clock
        self._last_request_at = clock()
        self._candidates: dict[tuple[str, ...], _Candidate] = {}  # the one used last comes last
        self._done: set[tuple[str, ...]] = set()
        self._looking: asyncio.Task[None] | None = None
        self._measuring: asyncio.Task[None] | None = None  # the last one, perhaps done
        self._is_ending = False  # it was told to end

    def begin(self) -> None:
        """Look for something to measure from now on."""
        self._looking = asyncio.create_task(self._look_often(), name="idle tuning")

    async def close(self) -> None:
        """Stop; idempotent."""
        if self._looking is not None:
            self._looking.cancel()
        await self._stop_measuring()

    async def make_way(self, spec: ModelSpec, options: LoadOptions) -> None:
        """A request needs this model, loaded so: end what is measured, and remember the model for later."""
        self._last_request_at = self._clock()
        if _is_worth_it(spec, options) and spec.paths not in self._done:
            known = self._candidates.pop(spec.paths, None)
            self._candidates[spec.paths] = known or _Candidate(spec, options)
            if len(self._candidates) > MAX_CANDIDATES:
                del self._candidates[next(iter(self._candidates))]
        await self._stop_measuring()

    def look(self) -> None:
        """Begin to measure if the time has come."""
        now = self._clock()
        if self._is_measuring() or now - self._last_request_at < IDLE_S or not self._is_quiet():
            return
        due = [candidate for candidate in self._candidates.values() if candidate.not_before <= now]
        if due:
            self._is_ending = False
            self._measuring = asyncio.create_task(self._run(due[-1]), name=f"tune {due[-1].spec.name}")

    async def _look_often(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self.look()

    async def _stop_measuring(self) -> None:
        """Once it has ended its memory is free. Told once: told again it would not wait for its child's end."""
        if self._measuring is None or self._measuring.done():
            return
        if not self._is_ending:
            self._is_ending = True
            self._measuring.cancel()
        await asyncio.wait({self._measuring}, timeout=_CANCEL_S)

    def _is_measuring(self) -> bool:
        return self._measuring is not None and not self._measuring.done()

    async def _run(self, candidate: _Candidate) -> None:
        candidate.n_attempts += 1
        try:
            outcome = await self._measure_alone(candidate)
        except asyncio.CancelledError:
            if candidate.n_attempts >= MAX_ATTEMPTS:
                self._finish(candidate)
            raise
        except Exception as error:  # of the lock's folder, or ours: tuning is never worth more than a line
            outcome = TuneOutcome("failed", str(error))
        if outcome.kind == "busy":
            candidate.n_attempts -= 1
            candidate.not_before = self._clock() + RETRY_S
            return
        self._finish(candidate)
        if outcome.kind == "measured":
            logger.info("measured %s while idle: %s, from its next load on", candidate.spec.name, outcome.text)
        elif outcome.kind == "failed":
            logger.warning("%s is not tuned: %s", candidate.spec.name, outcome.text)

    async def _measure_alone(self, candidate: _Candidate) -> TuneOutcome:
        if not self._lock.try_acquire():
            return TuneOutcome("busy")
        try:
            return await self._measure(candidate.spec, candidate.options)
        finally:
            self._lock.release()

    def _finish(self, candidate: _Candidate) -> None:
        self._candidates.pop(candidate.spec.paths, None)
        self._done.add(candidate.spec.paths)


def _is_worth_it(spec: ModelSpec, options: LoadOptions) -> bool:
    """Models that generate, on this machine alone: over a network the figures would be the network's."""
    return (
        options.auto_tune == "idle" and not options.embedding and not options.rpc and "completion" in spec.capabilities
    )
