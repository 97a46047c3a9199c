"""Why a runner's process ended, as an error."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from donabe.devices.rpc import LOST_TEXT, lost_workers
from donabe.errors import RunnerDiedError, RunnerError, RunnerStartError
from donabe.runner.out_of_memory import says_out_of_memory
from donabe.types import Failed

_N_ERROR_LINES = 3  # of the log tail, quoted in the message itself


@dataclass(frozen=True, slots=True)
class Ending:
    """What is known of it.

    Attributes:
        exit_reason: How the process ended, as the system tells.
        kill_reason: Why we killed it, or "".
        reported: The error it reported before, if it did.
        is_loading: No model was loaded yet.
    """

    exit_reason: str
    kill_reason: str
    reported: Failed | None
    log_tail: tuple[str, ...]
    is_loading: bool

    async def lost_worker(self, workers: Sequence[str]) -> RunnerError | None:
        """The end of a child that lost its connection to one of these RPC workers: ggml aborts then."""
        if not workers or not any(LOST_TEXT in line for line in self.log_tail):
            return None
        if len(workers) > 1:  # ggml does not say which
            workers = await asyncio.to_thread(lost_workers, workers) or workers
        text = f"lost the RPC worker {' or '.join(workers)}"
        kind: type[RunnerError] = RunnerDiedError
        if self.is_loading:
            text, kind = f"{text} while loading the model", RunnerStartError
        return kind(
            text,
            exit_reason=self.exit_reason,
            log_tail=self.log_tail,
            hint="the next request loads the model again, once the worker is back",
        )

    def error(self) -> RunnerError:
        reason = self.kill_reason or self.exit_reason
        # nobody else kills it so: the system does when memory is short
        was_killed_for_memory = "SIGKILL" in reason and not self.kill_reason
        hint = "the system may be out of memory" if was_killed_for_memory else None
        if self.reported is not None:
            text = self.reported.message
        else:
            quoted = "; ".join(self.log_tail[-_N_ERROR_LINES:])
            doing = "while loading the model" if self.is_loading else "while running the model"
            text = f"the runner process ended unexpectedly {doing}: {reason}" + (f" ({quoted})" if quoted else "")
        if not self.is_loading:
            return RunnerDiedError(text, exit_reason=reason, log_tail=self.log_tail, hint=hint)
        aborted_for_memory = not self.kill_reason and says_out_of_memory(self.log_tail)
        return RunnerStartError(
            text,
            exit_reason=reason,
            log_tail=self.log_tail,
            hint=hint,
            is_out_of_memory=was_killed_for_memory or aborted_for_memory,
        )
