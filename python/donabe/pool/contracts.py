"""What the pool needs from below: a way to start a runner, and a clock it can be tested with.

`start_runner` is `donabe.runner.client.RunnerProcess.start` in the server and a scripted fake in tests. It returns a
runner whose model is loaded, or raises (`RunnerStartError`, `LoadError`, `ModelFileError`, ...); the pool tries again
only where memory was short, and only if `admission` was asked.
"""

from __future__ import annotations

from typing import Protocol

from donabe.runner.admission import Admission
from donabe.runner.api import ModelRunner
from donabe.types import LoadOptions, ModelSpec


class StartRunner(Protocol):
    """Starts a runner process for a model and waits until the model is loaded.

    Args:
        admission: Makes room for the load, and says how it is done, once it is planned.
    """

    async def __call__(
        self, spec: ModelSpec, options: LoadOptions, *, admission: Admission | None = None
    ) -> ModelRunner: ...


class Clock(Protocol):
    """Seconds that only grow (`time.monotonic` in the server)."""

    def __call__(self) -> float: ...
