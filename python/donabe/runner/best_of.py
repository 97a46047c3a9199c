"""The likeliest of a request's completions: holds all events back until every completion has ended, then sends the n
with the best mean log probability. Owned by the output thread; same interface as `RequestAssembly`, which it wraps.
"""

from __future__ import annotations

import msgspec

from donabe.engine.request import SequenceOutput
from donabe.runner.assembly import RequestAssembly
from donabe.types import Event, Failed, Finished, Usage


class _Held:
    """One completion: its events, and the log probabilities they are judged by."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.sum = 0.0
        self.n_tokens = 0

    @property
    def mean(self) -> float:
        return self.sum / self.n_tokens if self.n_tokens else float("-inf")


class BestOfAssembly:
    """Events of the best `n_kept` of `n` completions, the best one first.

    Args:
        with_logprobs: The caller wants log probabilities, too.
    """

    def __init__(self, inner: RequestAssembly, *, n: int, n_kept: int, with_logprobs: bool) -> None:
        self._inner = inner
        self._n_kept = n_kept
        self._with_logprobs = with_logprobs
        self._held = [_Held() for _ in range(n)]

    @property
    def request_id(self) -> str:
        return self._inner.request_id

    @property
    def due(self) -> float | None:
        return self._inner.due

    def add(self, output: SequenceOutput, now: float) -> list[Event]:
        held = self._held[output.index]
        if output.logprobs:
            held.sum += sum(logprob for _, logprob, _ in output.logprobs)
            held.n_tokens += len(output.logprobs)
            if not self._with_logprobs:
                output.logprobs = None
        return self._hold(self._inner.add(output, now), is_last=output.last)

    def flush(self, now: float) -> list[Event]:
        return self._hold(self._inner.flush(now), is_last=False)

    def _hold(self, events: list[Event], *, is_last: bool) -> list[Event]:
        for event in events:
            if isinstance(event, Failed):
                return [event]
            self._held[event.index].events.append(event)
        return self._best() if is_last else []

    def _best(self) -> list[Event]:
        ranked = sorted(self._held, key=lambda held: held.mean, reverse=True)
        kept, dropped = ranked[: self._n_kept], ranked[self._n_kept :]
        events: list[Event] = []
        for index, held in enumerate(kept):
            is_last = index == len(kept) - 1
            for event in held.events:
                if isinstance(event, Finished):
                    usage = _with_dropped(event.usage, dropped) if is_last else event.usage
                    events.append(msgspec.structs.replace(event, index=index, last=is_last, usage=usage))
                else:
                    events.append(msgspec.structs.replace(event, index=index))
        return events


def _with_dropped(usage: Usage, dropped: list[_Held]) -> Usage:
    """What was generated and not sent counts as output, too."""
    lost = [event.usage for held in dropped for event in held.events if isinstance(event, Finished)]
    fields = ("n_output_tokens", "n_thinking_tokens", "n_draft_tokens", "n_draft_accepted")
    return msgspec.structs.replace(
        usage, **{name: getattr(usage, name) + sum(getattr(one, name) for one in lost) for name in fields}
    )
