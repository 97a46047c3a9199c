"""Pulls under way in this process. Two requests for one model share one pull; it ends when nobody listens any more.

All pulls run on one background thread with its own event loop, so that neither a server's loop nor a plain script has
to care, and disk writes never block a request. Listeners may be on any thread or loop; events reach them through
callbacks.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Final

from donabe.errors import CancelledError, DonabeError, SourceError
from donabe.registry.pull import pull
from donabe.registry.references import Reference, parse_reference
from donabe.registry.sources import PullOptions
from donabe.store.models import ModelStore
from donabe.types import PullProgress

_Item = PullProgress | BaseException | None  # None = done
_Listener = Callable[[_Item], None]
_Key = tuple[str, tuple[str, ...], str]


class _Job:
    """One pull and its listeners. All methods run on the pull thread."""

    def __init__(self, reference: Reference, store: ModelStore, options: PullOptions) -> None:
        self._listeners: list[_Listener] = []
        self.is_ending = False
        self._last: PullProgress | None = None
        self.task = asyncio.ensure_future(self._run(reference, store, options))

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

    async def _run(self, reference: Reference, store: ModelStore, options: PullOptions) -> None:
        events = pull(reference, store, options)
        try:
            async for event in events:
                self._last = event
                self._tell(event)
        except asyncio.CancelledError:
            self._tell(CancelledError("the pull was cancelled"))
            raise
        except DonabeError as error:
            self._tell(error)
        except Exception as error:  # a bug must end the listeners' wait too
            self._tell(SourceError(f"the pull failed: {error!r}"))
        else:
            self._tell(None)
        finally:
            await events.aclose()  # type: ignore[attr-defined]

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

    def listen(
        self, reference: Reference, store: ModelStore, options: PullOptions, listener: _Listener
    ) -> Callable[[], None]:
        """Start the pull or join the one under way; call the result to stop listening."""
        name = reference.name.key if reference.name else ()
        key = (str(store.layout.root), name, str(reference.package or ""))

        def join() -> None:
            job = self._jobs.get(key)
            if job is None or job.is_ending:
                job = self._jobs[key] = _Job(reference, store, options)
                job.task.add_done_callback(lambda _, done=job: self._forget(key, done))  # type: ignore[misc]
            job.add(listener)

        def leave() -> None:
            job = self._jobs.get(key)
            if job is not None:
                job.remove(listener)

        self._loop.call_soon_threadsafe(join)
        return lambda: _call(self._loop, leave)

    def _forget(self, key: _Key, job: _Job) -> None:
        if self._jobs.get(key) is job:
            del self._jobs[key]


def _call(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(function)


async def pull_model(
    reference: Reference, store: ModelStore, options: PullOptions | None = None
) -> AsyncIterator[PullProgress]:
    """Pull a model, from a coroutine. See `donabe.registry.pull.pull`; leaving the loop early stops the pull."""
    loop = asyncio.get_running_loop()
    items: asyncio.Queue[_Item] = asyncio.Queue()
    stop = PullJobs.shared().listen(
        reference, store, options or PullOptions(), lambda item: _call(loop, lambda: items.put_nowait(item))
    )
    try:
        while (item := await items.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop()


def pull_model_sync(
    reference: Reference, store: ModelStore, options: PullOptions | None = None
) -> Iterator[PullProgress]:
    """Pull a model, from ordinary code (also inside somebody else's running loop). See `pull_model`."""
    items: queue.SimpleQueue[_Item] = queue.SimpleQueue()
    stop = PullJobs.shared().listen(reference, store, options or PullOptions(), items.put)
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

    def __call__(self, name: str, *, insecure: bool = False) -> AsyncIterator[PullProgress]:
        """Pull what a request named; see `pull_model`.

        Raises:
            InvalidNameError: It is no model name. Files can't be named.
        """
        options = replace(self._options, insecure=True) if insecure else self._options
        return pull_model(parse_reference(name), self._store, options)
