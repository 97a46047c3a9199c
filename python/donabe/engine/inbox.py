"""What other threads hand to the engine thread: new calls and cancels, in the order they came.

Guards which request ids are in use and whether the engine has stopped. Any thread may call; `take` and `close` are the
engine thread's.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from donabe.engine.sequence import Call
from donabe.errors import DonabeError, InvalidRequestError, RunnerError, ServerBusyError


class Inbox:
    """A bounded queue with a bell. Cancels are never refused.

    Args:
        on_ring: Called whenever the bell rings, by the thread that rings it: ends what the engine thread is busy with.
    """

    def __init__(self, n_waiting_max: int, on_ring: Callable[[], None]) -> None:
        self._n_waiting_max = n_waiting_max
        self._on_ring = on_ring
        self._items: deque[Call | str] = deque()  # new calls, and ids to cancel
        self._n_calls = 0  # of the items; a request counts as one, whatever it asks for
        self._lock = threading.Lock()  # guards _known_ids, _n_calls, _closed and their order with _items
        self._known_ids: set[str] = set()
        self._closed: DonabeError | None = None
        self._bell = threading.Event()

    def __len__(self) -> int:
        return len(self._items)

    @property
    def is_closed(self) -> bool:
        return self._closed is not None

    def submit(self, call: Call, n_waiting: int) -> None:
        """Queue a call behind the `n_waiting` ones that the scheduler holds.

        Raises:
            RunnerError: The engine has stopped.
            InvalidRequestError: Its id is in use.
            ServerBusyError: Too many are waiting.
        """
        request_id = call.request.request_id
        with self._lock:
            if self._closed is not None:
                raise RunnerError(f"the engine has stopped: {self._closed}")
            if request_id in self._known_ids:
                raise InvalidRequestError(f"request id {request_id!r} is in use", field="request_id")
            n_waiting += self._n_calls
            if n_waiting >= self._n_waiting_max:
                raise ServerBusyError(
                    f"{n_waiting} requests are waiting for this model already",
                    hint="retry later, or raise the queue limit",
                )
            self._known_ids.add(request_id)
            self._items.append(call)
            self._n_calls += 1
        self.ring()

    def cancel(self, request_id: str) -> None:
        self._items.append(request_id)
        self.ring()

    def ring(self) -> None:
        self._bell.set()
        self._on_ring()

    def wait(self, timeout_s: float | None) -> None:
        """Until something came or `ring` was called since the last `silence`."""
        self._bell.wait(timeout_s)

    def silence(self) -> None:
        self._bell.clear()

    def take(self) -> Call | str | None:
        """The oldest item; None when there is none."""
        if not self._items:
            return None
        item = self._items.popleft()
        if isinstance(item, Call):
            with self._lock:
                self._n_calls -= 1
        return item

    def forget(self, request_id: str) -> None:
        """The request is over; its id may be used again."""
        with self._lock:
            self._known_ids.discard(request_id)

    def close(self, error: DonabeError) -> list[Call]:
        """Refuse what comes from now on; returns the calls nobody has taken. The first error stays the reason."""
        with self._lock:
            self._closed = self._closed or error
            self._n_calls = 0
        calls = [item for item in list(self._items) if isinstance(item, Call)]
        self._items.clear()
        return calls
