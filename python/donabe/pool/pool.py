"""Which models are resident: loads one at a time, lends runners, keeps idle ones warm, evicts the least recently used.

A request calls `lease`, which waits for the model to be loaded under suitable options, and releases it when its stream
ends. The pool knows nothing of tokens, names or HTTP. It runs on the server's event loop.

A resident is in one of four states:

    loading   its task runs or waits for its turn; requests for it wait on the task
    ready     leased, or idle until `expires_at`. New requests wait while it yields (`pool.room`)
    retiring  no new leases; closes with the last one. Requests for it wait for `gone`, then load anew
    gone      out of the table
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from donabe.errors import DonabeError, ServerBusyError
from donabe.pool.admission import LoadAdmission
from donabe.pool.contracts import Clock, StartRunner
from donabe.pool.crashes import CrashBackoff
from donabe.pool.resident import Identity, Resident, ResidentInfo, identity_of, satisfies
from donabe.pool.room import Room
from donabe.runner.api import ModelRunner
from donabe.types import LoadOptions, ModelSpec

logger = logging.getLogger(__name__)

SHUTTING_DOWN = "the server is shutting down"
QUEUE_FULL = "server busy, please try again.  maximum pending requests exceeded"


@dataclass(frozen=True, kw_only=True)
class PoolLimits:
    """Bounds of the pool. `max_queue` bounds requests waiting for a load, and those queued in one model's runner."""

    max_loaded: int = 3
    max_queue: int = 512
    keep_alive_s: float = 300.0
    default_parallel: int = 1  # requests a runner works on at once, when it does not say


class Lease:
    """The right to use a runner. Release it exactly when the request's last event was read or given up; idempotent."""

    __slots__ = ("_pool", "_resident", "load_s", "notes", "runner")

    def __init__(self, pool: ModelPool, resident: Resident, runner: ModelRunner, load_s: float) -> None:
        self._pool = pool
        self._resident: Resident | None = resident
        self.runner = runner
        self.load_s = load_s
        self.notes = tuple(note for note in (resident.note, *runner.info.notes) if note)  # for whoever asked

    def release(self) -> None:
        resident, self._resident = self._resident, None
        if resident is not None:
            self._pool._release(resident)


class ModelPool:
    """The resident models of one server."""

    def __init__(
        self,
        start_runner: StartRunner,
        *,
        limits: PoolLimits,
        clock: Clock = time.monotonic,
    ) -> None:
        self._start_runner = start_runner
        self._limits = limits
        self._clock = clock
        self._residents: dict[Identity, Resident] = {}
        self._load_turn = asyncio.Lock()
        self._room = Room(self._residents.values, max_loaded=limits.max_loaded, evict=self._make_go)
        self._n_waiting = 0
        self._crashes = CrashBackoff(clock)
        self._closers: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_closing = False
        self.n_loads = 0
        self.n_load_failures = 0
        self.n_evictions = 0

    # --- lending ---------------------------------------------------------------------------------------------------

    async def lease(self, spec: ModelSpec, options: LoadOptions, *, keep_alive_s: float | None = None) -> Lease:
        """Wait until the model is loaded under options that fit, and take a share of its runner.

        Args:
            keep_alive_s: New keep-alive of the model; None keeps its current one.

        Raises:
            ServerBusyError: Too many requests wait already, or the server is stopping.
            DonabeError: The load failed; every request that waited for it gets the same error.
        """
        started = self._clock()
        identity = identity_of(spec, options)
        resident = self._usable(identity, options)
        if resident is None:
            with self._queued():
                resident = await self._wait_for(identity, spec, options)
        return self._take(resident, keep_alive_s, self._clock() - started)

    def _usable(self, identity: Identity, options: LoadOptions) -> Resident | None:
        if self._is_closing:
            raise ServerBusyError(SHUTTING_DOWN, retry_after_s=5.0)
        resident = self._residents.get(identity)
        if resident is None or not self._can_serve(resident, options) or resident is self._room.yielding:
            return None
        return resident

    @staticmethod
    def _can_serve(resident: Resident, options: LoadOptions) -> bool:
        return resident.is_ready and not resident.has_crashed and satisfies(resident, options)

    async def _wait_for(self, identity: Identity, spec: ModelSpec, options: LoadOptions) -> Resident:
        while (resident := self._usable(identity, options)) is None:
            current = self._residents.get(identity)
            if current is None:
                await self._crashes.wait(identity)
                if identity not in self._residents:
                    self._begin_load(identity, spec, options)
            elif current.runner is None and current.loading is not None:
                await self._wait_for_load(current, current.loading)
            elif current is self._room.yielding and self._can_serve(current, options):
                await self._room.until_made()
            else:  # crashed, loaded with other options, or on its way out
                self._retire(current)
                await current.gone.wait()
        return resident

    async def _wait_for_load(self, resident: Resident, loading: asyncio.Task[None]) -> None:
        """Once the load is done, the resident stays until all that waited so have a lease, or gave up."""
        resident.n_waiters += 1
        try:
            await asyncio.shield(loading)
        finally:
            resident.n_waiters -= 1
            if resident.n_waiters == 0:  # in use from now on, or idle
                self._room.look_again()
                self._arm_timer()

    def _take(self, resident: Resident, keep_alive_s: float | None, load_s: float) -> Lease:
        runner = resident.runner
        assert runner is not None  # _usable gave it
        n_allowed = self._limits.max_queue + (runner.info.n_parallel or self._limits.default_parallel)
        if resident.n_leases >= n_allowed:
            raise ServerBusyError(QUEUE_FULL, retry_after_s=1.0)
        resident.n_leases += 1
        resident.last_used_at = self._clock()
        if keep_alive_s is not None:
            resident.keep_alive_s = keep_alive_s
        return Lease(self, resident, runner, load_s)

    def _release(self, resident: Resident) -> None:
        resident.n_leases -= 1
        resident.last_used_at = self._clock()
        if resident.n_leases > 0:
            return
        if resident.is_retiring:
            self._close(resident)
        elif resident.is_idle and self._room.is_wanted:
            self._make_go(resident)
        elif resident.is_idle and (resident.keep_alive_s <= 0 or resident.has_crashed):
            self._retire(resident)
        else:
            resident.expires_at = self._clock() + resident.keep_alive_s
            self._arm_timer()

    @contextmanager
    def _queued(self) -> Iterator[None]:
        if self._n_waiting > self._limits.max_queue:  # the one that is being loaded for does not count
            raise ServerBusyError(QUEUE_FULL, retry_after_s=2.0)
        self._n_waiting += 1
        try:
            yield
        finally:
            self._n_waiting -= 1

    # --- loading ---------------------------------------------------------------------------------------------------

    def _begin_load(self, identity: Identity, spec: ModelSpec, options: LoadOptions) -> None:
        resident = Resident(identity, spec, options, keep_alive_s=self._limits.keep_alive_s)
        self._residents[identity] = resident
        # A task of its own: a client that gives up during a long load must not undo it for those after it.
        resident.loading = asyncio.create_task(self._load(resident), name=f"load {spec.name}")
        resident.loading.add_done_callback(_retrieve)

    async def _load(self, resident: Resident) -> None:
        try:
            async with self._load_turn:
                await self._room.make()
                started = self._clock()
                resident.runner = await self._start(resident)
                self.n_loads += 1
        except asyncio.CancelledError:  # only close() cancels loads; the waiters were not cancelled
            self._forget(resident)
            raise ServerBusyError(SHUTTING_DOWN, retry_after_s=5.0) from None
        except Exception as error:
            self.n_load_failures += 1
            logger.warning("loading %s failed: %s", resident.spec.name, error)
            self._forget(resident)
            _hide_folders(error, resident.spec)
            raise
        now = resident.loaded_at = resident.last_used_at = self._clock()
        logger.info("loaded %s in %.2f s", resident.spec.name, now - started)
        if self._is_closing:
            self._retire(resident)
            return
        resident.expires_at = now + resident.keep_alive_s
        self._arm_timer()

    async def _start(self, resident: Resident) -> ModelRunner:
        """Load as asked; where memory is short, without idle models, then smaller where the user left it open."""
        admission = LoadAdmission(resident.spec.name, self._evict)
        while True:
            try:
                runner = await self._start_runner(resident.spec, resident.options, admission=admission)
            except DonabeError as error:
                if not await admission.goes_on(error):
                    raise admission.first_error from None
            else:
                resident.note = admission.note
                return runner

    async def _evict(self, devices: Collection[str] | None) -> bool:
        """Unload the idle model used longest ago that takes memory of these devices, or with None every idle one, and
        wait for it. Whether memory was freed, also by one that was on its way out."""
        going = [r for r in self._residents.values() if r.is_closing]
        idle = sorted((r for r in self._residents.values() if r.is_idle), key=lambda r: r.last_used_at)
        if devices is not None and not going:
            idle = [r for r in idle if r.is_on(devices)][:1]
        for resident in idle if devices is None or not going else ():
            logger.info("unloading %s to make memory", resident.spec.name)
            self._make_go(resident)
            going.append(resident)
        for resident in going:
            await resident.gone.wait()
        return bool(going)

    def _make_go(self, resident: Resident) -> None:
        self.n_evictions += 1
        self._retire(resident)

    # --- unloading -------------------------------------------------------------------------------------------------

    def unload(self, spec: ModelSpec) -> None:
        """Let go of every runner of this model as soon as it is idle."""
        wanted = identity_of(spec, LoadOptions())[:-1]
        for resident in list(self._residents.values()):
            if resident.identity[:-1] != wanted:
                continue
            resident.keep_alive_s = 0.0
            if resident.is_idle:
                self._retire(resident)

    def expire_idle(self) -> None:
        """Let go of the idle models whose time has come. Called by the timer."""
        now = self._clock()
        for resident in list(self._residents.values()):
            if resident.is_idle and (resident.expires_at <= now or resident.has_crashed):
                self._retire(resident)
        self._arm_timer()

    def _arm_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        ends = [r.expires_at for r in self._residents.values() if r.is_idle and math.isfinite(r.expires_at)]
        if ends and not self._is_closing:
            # call_later takes at most a day or so on some platforms; the callback arms the timer again
            delay = min(max(0.0, min(ends) - self._clock()), 3600.0)
            self._timer = asyncio.get_running_loop().call_later(delay, self.expire_idle)

    def _retire(self, resident: Resident) -> None:
        if not resident.is_retiring:
            if resident.has_crashed:
                self._crashes.record(resident.identity, lived_s=self._clock() - resident.loaded_at)
            resident.is_retiring = True
            if resident.n_leases == 0 or resident.has_crashed:
                self._close(resident)

    def _close(self, resident: Resident) -> None:
        if resident.is_closing or resident.runner is None:
            return
        resident.is_closing = True
        self._room.is_wanted = False
        task = asyncio.create_task(self._close_runner(resident, resident.runner), name=f"unload {resident.spec.name}")
        self._closers.add(task)
        task.add_done_callback(self._closers.discard)

    async def _close_runner(self, resident: Resident, runner: ModelRunner) -> None:
        try:
            await runner.close()
        except Exception:
            logger.exception("stopping the runner of %s failed", resident.spec.name)
        finally:
            self._forget(resident)
            logger.info("unloaded %s", resident.spec.name)

    def _forget(self, resident: Resident) -> None:
        if self._residents.get(resident.identity) is resident:
            del self._residents[resident.identity]
        resident.gone.set()
        self._room.look_again()

    # --- looking and stopping --------------------------------------------------------------------------------------

    def residents(self) -> list[ResidentInfo]:
        """The loaded models, the one used last first; crashed and retiring ones left out."""
        now = self._clock()
        return [
            ResidentInfo(
                spec=r.spec,
                options=r.options,
                info=r.runner.info if r.runner is not None else None,
                expires_in_s=r.keep_alive_s if r.n_leases else max(0.0, r.expires_at - now),
                n_leases=r.n_leases,
                runner=r.runner,
            )
            for r in sorted(self._residents.values(), key=lambda r: -r.last_used_at)
            if r.is_ready and not r.has_crashed
        ]

    @property
    def is_busy(self) -> bool:
        """Whether a request holds a model or waits for one."""
        return self._n_waiting > 0 or any(resident.n_leases for resident in self._residents.values())

    @property
    def is_empty(self) -> bool:
        """Whether no model takes memory, be it loading or on its way out."""
        return not self._residents

    @property
    def n_waiting(self) -> int:
        return self._n_waiting

    async def close(self, *, drain_s: float = 0.0) -> None:
        """Refuse new leases, give running ones `drain_s` to end, stop every runner. Idempotent."""
        self._is_closing = True
        if self._timer is not None:
            self._timer.cancel()
        for resident in list(self._residents.values()):
            if resident.runner is None and resident.loading is not None:
                resident.loading.cancel()
            else:
                self._retire(resident)
        waits = [asyncio.ensure_future(r.gone.wait()) for r in self._residents.values()]
        if waits:
            _, late = await asyncio.wait(waits, timeout=drain_s)
            for wait in late:
                wait.cancel()
        for resident in list(self._residents.values()):
            self._close(resident)
        if self._closers:
            await asyncio.gather(*list(self._closers), return_exceptions=True)


def _hide_folders(error: Exception, spec: ModelSpec) -> None:
    """Callers elsewhere see a load error; where the server keeps its files is none of their business."""
    if not error.args or not isinstance(error.args[0], str):
        return
    text = error.args[0]
    for path in (*spec.paths, spec.projector, spec.draft, *(adapter.path for adapter in spec.adapters)):
        if path:
            text = text.replace(path, os.path.basename(path))
    error.args = (text, *error.args[1:])


def _retrieve(task: asyncio.Task[None]) -> None:
    """Mark a load's error as seen: its waiters get it, and there may be none left."""
    if not task.cancelled():
        task.exception()
