"""The deadlines of a runner's process."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Deadlines:
    """How long the parent waits before it calls the child stuck and kills it."""

    start_s: float = 60.0  # until the interpreter answers
    load_stall_s: float = 300.0  # without any progress while loading
    step_s: float = 600.0  # inside one native step
    stop_s: float = 10.0  # from Shutdown to exit
    ping_interval_s: float = 5.0
    ping_timeout_s: float = 60.0
