"""What the runner knows of the engine: one small Protocol, so that the runner's tests can pass a fake.

`donabe.engine.engine.Engine` implements it; `donabe.engine.build.build_engine` makes one of a model and LoadOptions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from donabe.engine.request import EngineRequest, SequenceOutput
from donabe.errors import DonabeError
from donabe.types import RunnerStatus

Publish = Callable[[list[SequenceOutput]], None]


class EngineApi(Protocol):
    """Generation over one context.

    Threads: `submit`, `cancel`, `status`, `has_work` and `wake` from any thread; everything else from the one engine
    thread. The `publish` callable given at construction is called on the engine thread, at most once a step, with all
    outputs of that step (never with an empty list); it must not block.

        while not stopping:
            if engine.has_work():
                engine.step()
            else:
                engine.idle()
                engine.wait_for_work(timeout_s=1.0)
    """

    @property
    def n_ctx_per_request(self) -> int: ...

    def submit(self, request: EngineRequest) -> None:
        """Queue a request. From here on it gets exactly one output with `last=True`, whatever happens.

        Raises (and then publishes nothing for it): ContextLengthError, InvalidRequestError, GrammarError,
        ServerBusyError when the waiting queue is full, RunnerError after `fail_all`.
        """

    def cancel(self, request_id: str) -> None:
        """Stop a request at the next step boundary (finish_reason ABORT). Unknown or finished ids are ignored."""

    def has_work(self) -> bool: ...

    def wait_for_work(self, timeout_s: float | None = None) -> bool:
        """Block until there is work or wake() is called, at most timeout_s; returns has_work()."""

    def wake(self) -> None:
        """Make wait_for_work return."""

    def step(self) -> bool:
        """Drain the inbox, schedule, run the native step, update, publish. Returns whether tokens were computed.

        When the native call fails for good, every request gets its terminal output with that error, and the error is
        raised: the engine is then closed for new requests.
        """

    def idle(self) -> None:
        """Upkeep of the cache, worth doing when has_work() is False. Milliseconds; does nothing most of the time."""

    def close(self) -> None:
        """After fail_all, while the native context still works: write what is worth keeping. A few seconds at most."""

    def fail_all(self, error: DonabeError) -> None:
        """End every request with `error` and refuse new ones. Idempotent."""

    def status(self) -> RunnerStatus: ...
