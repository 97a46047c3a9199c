"""The runner's two own threads: the engine's, the only one inside the native context, and the output thread, which
turns each step's outputs into one batch of events. They meet only in a queue, so a slow reader never delays a step.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

from donabe.engine.api import EngineApi
from donabe.engine.request import SequenceOutput
from donabe.errors import DonabeError, RunnerError
from donabe.runner.assembly import RequestAssembly
from donabe.runner.best_of import BestOfAssembly
from donabe.runner.failures import failed_from, is_terminal
from donabe.types import Event

logger = logging.getLogger("donabe.runner")

EventItem = tuple[int, Event]
PublishEvents = Callable[[list[EventItem]], None]

_IDLE_S = 1.0
_MAX_BATCHES = 64  # step outputs merged into one publication when the output thread lags behind


class EngineThread:
    """Steps the engine while it has work.

    Args:
        on_failure: Called on the engine thread when the engine can't go on; every request has been answered by then.
    """

    def __init__(self, engine: EngineApi, on_failure: Callable[[BaseException], None]) -> None:
        self._engine = engine
        self._on_failure = on_failure
        self._stopping = False
        self._end: DonabeError = RunnerError("the engine was stopped")
        self._step_began: float | None = None
        self._thread = threading.Thread(target=self._run, name="donabe-engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def step_age_s(self) -> float:
        """Seconds the current step has taken; 0 between steps."""
        began = self._step_began
        return 0.0 if began is None else time.monotonic() - began

    def stop(self, error: DonabeError) -> None:
        """Finish the current step, end what is running with `error`, and join."""
        self._end = error
        self._stopping = True
        self._engine.wake()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        engine = self._engine
        try:
            while not self._stopping:
                if engine.has_work():
                    self._step_began = time.monotonic()
                    engine.step()
                    self._step_began = None
                else:
                    engine.idle()
                    engine.wait_for_work(_IDLE_S)
            engine.fail_all(self._end)
            engine.close()
        except BaseException as error:  # nothing above this frame would report it
            self._step_began = None
            logger.exception("the engine failed")
            engine.fail_all(error if isinstance(error, DonabeError) else RunnerError(f"the engine failed: {error}"))
            self._on_failure(error)


class OutputThread:
    """Keeps the assembly of every running request and publishes events; the one place that knows who was answered.

    Args:
        publish: Called on the output thread with the events of one step or more, never with none.
        cancel: Stops a request whose output could not be parsed.
        on_terminal: Called after the terminal event of a request was published.
    """

    def __init__(
        self, publish: PublishEvents, cancel: Callable[[int], None], on_terminal: Callable[[int], None]
    ) -> None:
        self._publish = publish
        self._cancel = cancel
        self._on_terminal = on_terminal
        self._open: set[int] = set()  # requests without a terminal event yet
        self._assemblies: dict[int, RequestAssembly | BestOfAssembly] = {}
        self._queue: queue.SimpleQueue[list[SequenceOutput] | list[EventItem] | None] = queue.SimpleQueue()
        self._pending_flush: set[int] = set()
        self._thread = threading.Thread(target=self._run, name="donabe-output", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def open(self, id: int) -> None:
        """Before anything else about this request. Events of requests that are not open are dropped."""
        self._open.add(id)

    def register(self, id: int, assembly: RequestAssembly | BestOfAssembly) -> None:
        """Before the request is submitted to the engine."""
        self._assemblies[id] = assembly

    def put_outputs(self, outputs: list[SequenceOutput]) -> None:
        """What one step produced. Never blocks."""
        self._queue.put(outputs)

    def put_events(self, items: list[EventItem]) -> None:
        """Events made elsewhere, for requests that never reached the engine."""
        self._queue.put(items)

    def stop(self) -> None:
        """Publish what is queued, then end."""
        self._queue.put(None)
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            batches, stopping = self._next_batches()
            now = time.monotonic()
            items: list[EventItem] = []
            for batch in batches:
                for entry in batch:
                    if isinstance(entry, SequenceOutput):
                        self._assemble(entry, now, items)
                    else:
                        self._append(entry[0], [entry[1]], items)
            self._flush_due(now, items)
            if items:
                self._publish_items(items)
            if stopping:
                return

    def _publish_items(self, items: list[EventItem]) -> None:
        try:
            self._publish(items)
        except Exception:  # a publisher's fault must not end all other requests
            logger.exception("events were not delivered")
        for id, event in items:
            if is_terminal(event):
                self._on_terminal(id)

    def _next_batches(self) -> tuple[list[list[SequenceOutput] | list[EventItem]], bool]:
        """Wait for outputs or until a flush is due; takes everything that is there."""
        batches: list[list[SequenceOutput] | list[EventItem]] = []
        try:
            batch = self._queue.get(timeout=self._seconds_to_flush())
            while batch is not None:
                batches.append(batch)
                if len(batches) == _MAX_BATCHES:
                    return batches, False
                batch = self._queue.get_nowait()
        except queue.Empty:
            return batches, False
        return batches, True

    def _seconds_to_flush(self) -> float | None:
        times = [due for id in self._pending_flush if (due := self._assemblies[id].due) is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _flush_due(self, now: float, items: list[EventItem]) -> None:
        for id in list(self._pending_flush):
            assembly = self._assemblies[id]
            self._guarded(id, lambda a=assembly: a.flush(now), items)  # type: ignore[misc]

    def _assemble(self, output: SequenceOutput, now: float, items: list[EventItem]) -> None:
        id = int(output.request_id)
        assembly = self._assemblies.get(id)
        if assembly is not None:
            self._guarded(id, lambda: assembly.add(output, now), items)

    def _guarded(self, id: int, make: Callable[[], list[Event]], items: list[EventItem]) -> None:
        try:
            events = make()
        except Exception as error:  # this request's output can't be read: fail it alone
            request_id = self._assemblies[id].request_id if id in self._assemblies else ""
            logger.exception("reading the output of request %d failed", id, extra={"request_id": request_id})
            events = [failed_from(error)]
            self._cancel(id)
        self._append(id, events, items)
        assembly = self._assemblies.get(id)
        if assembly is not None and assembly.due is not None:
            self._pending_flush.add(id)
        else:
            self._pending_flush.discard(id)

    def _append(self, id: int, events: list[Event], items: list[EventItem]) -> None:
        for event in events:
            if id not in self._open:
                return
            items.append((id, event))
            if is_terminal(event):
                self._open.discard(id)
                self._assemblies.pop(id, None)
                self._pending_flush.discard(id)


def terminal_failure(id: int, error: BaseException) -> list[EventItem]:
    """The events of a request that ends with this error."""
    return [(id, failed_from(error))]
