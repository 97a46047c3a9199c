"""Transfers under way in this process. Two requests for one model share one pull; it ends when nobody listens any more.

All pulls run on one background thread with its own event loop, so that neither a server's loop nor a plain script has
to care, and disk writes never block a request. Listeners may be on any thread or loop; events reach them through
callbacks.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Final

from donabe.errors import CancelledError, DonabeError, SourceError
from donabe.registry.pull import pull
from donabe.registry.push import push
from donabe.registry.references import Reference, parse_reference
from donabe.registry.sources import PullOptions
from donabe.store.models import ModelStore
from donabe.store.names import ModelName
from donabe.types import PullProgress

_Item = PullProgress | BaseException | None  # None = done
_Listener = Callable[[_Item], None]
_Events = Callable[[], AsyncGenerator[PullProgress, None]]
_Key = tuple[str, str, tuple[str, ...], str]


class _Job:
    """One pull or push and its listeners. All methods run on the pull thread."""

    def __init__(self, start: _Events) -> None:
        self._listeners: list[_Listener] = []
        self.is_ending = False
        self._last: PullProgress | None = None
        self.task = asyncio.ensure_future(self._run(start()))

    def add(self, listener: _Listener) -> None:
        if self._last is not None:
            listener(self._last)
        self._listeners.append(listener)

    def remove(self, listener: _Listener) -> None:
        if listener in self._listeners:
            self._listeners.remove(listener)
        if not self._listeners:
            self.is_ending = True
            self.task.cancel()

    async def _run(self, events: AsyncGenerator[PullProgress, None]) -> None:
        try:
            async for event in events:
                self._last = event
                self._tell(event)
        except asyncio.CancelledError:
            self._tell(CancelledError("the transfer was cancelled"))
            raise
        except DonabeError as error:
            self._tell(error)
        except Exception as error:  # a bug must end the listeners' wait too
            self._tell(SourceError(f"the transfer failed: {error!r}"))
        else:
            self._tell(None)
        finally:
            await events.aclose()

    def _tell(self, item: _Item) -> None:
        self.is_ending = not isinstance(item, PullProgress)
        for listener in tuple(self._listeners):
            listener(item)


class PullJobs:
    """The pulls of this process. `shared()` is the one everybody uses."""

    _shared: PullJobs | None = None
    _shared_lock: Final = threading.Lock()

    def __init__(self) -> None:
        self._jobs: dict[_Key, _Job] = {}
        self._loop = asyncio.new_event_loop()
        self._pid = os.getpid()
        threading.Thread(target=self._loop.run_forever, name="donabe-pull", daemon=True).start()

    @classmethod
    def shared(cls) -> PullJobs:
        with cls._shared_lock:
            if cls._shared is None or cls._shared._pid != os.getpid():  # threads don't survive a fork
                cls._shared = cls()
            return cls._shared

    def listen(self, key: _Key, start: _Events, listener: _Listener) -> Callable[[], None]:
        """Start the work or join the one of this key; call the result to stop listening."""
        joined: list[_Job] = []

        def join() -> None:
            job = self._jobs.get(key)
            if job is None or job.is_ending:
                job = self._jobs[key] = _Job(start)
                job.task.add_done_callback(lambda _, done=job: self._forget(key, done))  # type: ignore[misc]
            job.add(listener)
            joined.append(job)

        def leave() -> None:
            for job in joined:
                job.remove(listener)

        self._loop.call_soon_threadsafe(join)
        return lambda: _call(self._loop, leave)

    def _forget(self, key: _Key, job: _Job) -> None:
        if self._jobs.get(key) is job:
            del self._jobs[key]


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the listener's loop is closed: nobody waits there any more
        loop.call_soon_threadsafe(function)


def _pull_job(reference: Reference, store: ModelStore, options: PullOptions | None) -> tuple[_Key, _Events]:
    name = reference.name.key if reference.name else ()
    key = ("pull", str(store.layout.root), name, str(reference.package or ""))
    return key, lambda: pull(reference, store, options or PullOptions())


async def _listen_async(key: _Key, start: _Events) -> AsyncIterator[PullProgress]:
    loop = asyncio.get_running_loop()
    items: asyncio.Queue[_Item] = asyncio.Queue()
    stop = PullJobs.shared().listen(key, start, lambda item: _call(loop, lambda: items.put_nowait(item)))
    try:
        while (item := await items.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop()


def pull_model(
    reference: Reference, store: ModelStore, options: PullOptions | None = None
) -> AsyncIterator[PullProgress]:
    """Pull a model, from a coroutine. See `donabe.registry.pull.pull`; leaving the loop early stops the pull."""
    return _listen_async(*_pull_job(reference, store, options))


def pull_model_sync(
    reference: Reference, store: ModelStore, options: PullOptions | None = None
) -> Iterator[PullProgress]:
    """Pull a model, from ordinary code (also inside somebody else's running loop). See `pull_model`."""
    items: queue.SimpleQueue[_Item] = queue.SimpleQueue()
    stop = PullJobs.shared().listen(*_pull_job(reference, store, options), items.put)
    try:
        while (item := items.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop()


class Puller:
    """Pulls by name into one store: what the server's use cases are given.

    Args:
        options: Of every pull; a call may only add to them.
    """

    def __init__(self, store: ModelStore, options: PullOptions | None = None) -> None:
        self._store = store
        self._options = options or PullOptions()

    def __call__(self, name: str, *, insecure: bool = False, limit_rate: int = 0) -> AsyncIterator[PullProgress]:
        """Pull what a request named; see `pull_model`. One that joins a pull under way gets that one's limit.

        Raises:
            InvalidNameError: It is no model name. Files can't be named.
        """
        options = self._options.for_call(insecure=insecure, limit_rate=limit_rate)
        return pull_model(parse_reference(name), self._store, options)


class Pusher:
    """Pushes by name from one store: the counterpart of `Puller`."""

    def __init__(self, store: ModelStore, options: PullOptions | None = None) -> None:
        self._store = store
        self._options = options or PullOptions()

    def __call__(self, name: str, *, insecure: bool = False, limit_rate: int = 0) -> AsyncIterator[PullProgress]:
        """Push a stored model to the registry its name says; see `donabe.registry.push.push`.

        Raises:
            InvalidNameError: It is no model name.
        """
        parsed = ModelName.parse(name)
        options = self._options.for_call(insecure=insecure, limit_rate=limit_rate)
        key = ("push", str(self._store.layout.root), parsed.key, "")
        return _listen_async(key, lambda: push(parsed, self._store, options))
