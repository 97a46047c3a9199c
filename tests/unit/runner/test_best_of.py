"""BestOfAssembly: nothing before the end, then the likeliest completions in order."""

from __future__ import annotations

import numpy as np
import pytest

from donabe.chat.prompt import PreparedPrompt
from donabe.chat.sampling import best_of_count
from donabe.engine.request import SequenceOutput
from donabe.errors import InvalidRequestError, KvFullError
from donabe.runner.assembly import RequestAssembly
from donabe.runner.best_of import BestOfAssembly
from donabe.types import Delta, Event, Failed, Finished, FinishReason, Usage


def assembly(n: int, n_kept: int, *, with_logprobs: bool = False) -> BestOfAssembly:
    prepared = PreparedPrompt(tokens=np.array([7], np.int32), sampler_params={}, stops=(), max_tokens=None, n=n)
    inner = RequestAssembly(prepared, lambda token: b"%d" % token, started=0.0)
    return BestOfAssembly(inner, n=n, n_kept=n_kept, with_logprobs=with_logprobs)


def play(a: BestOfAssembly, logprobs: list[list[float]]) -> list[Event]:
    """One token a step and completion, as text its number and logprob; nothing may come before the last output."""
    events: list[Event] = []
    for index, values in enumerate(logprobs):
        for k, value in enumerate(values):
            is_end, is_last = k == len(values) - 1, index == len(logprobs) - 1 and k == len(values) - 1
            output = SequenceOutput(
                request_id="1",
                index=index,
                text=f"[{index}:{value:g}]".encode(),
                tokens=[k],
                logprobs=[(k, value, [])],
                finish_reason=FinishReason.STOP if is_end else None,
                usage=Usage(n_output_tokens=len(values)) if is_end else None,
                last=is_last,
            )
            assert not events
            events = a.add(output, 1.0)
    return events


def texts(events: list[Event], index: int) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta) and event.index == index)


def test_likeliest_come_first_by_mean_and_are_renumbered() -> None:
    events = play(assembly(3, 2), [[-3.0], [-1.0, -2.0], [-1.0]])
    assert (texts(events, 0), texts(events, 1)) == ("[2:-1]", "[1:-1][1:-2]")
    ends = [event for event in events if isinstance(event, Finished)]
    assert [(end.index, end.last) for end in ends] == [(0, False), (1, True)]
    assert events[-1] is ends[-1]


def test_dropped_completions_count_as_output() -> None:
    events = play(assembly(3, 1), [[-3.0], [-1.0, -1.0], [-2.0]])
    (end,) = (event for event in events if isinstance(event, Finished))
    assert end.usage.n_output_tokens == 4


@pytest.mark.parametrize("wanted", [True, False])
def test_logprobs_are_sent_only_when_asked_for(wanted: bool) -> None:
    events = play(assembly(2, 1, with_logprobs=wanted), [[-3.0], [-1.0]])
    deltas = [event for event in events if isinstance(event, Delta)]
    assert [bool(delta.logprobs) for delta in deltas] == [wanted]


def test_failure_ends_it_at_once() -> None:
    output = SequenceOutput(request_id="1", finish_reason=FinishReason.ERROR, error=KvFullError("full"), last=True)
    (event,) = assembly(2, 1).add(output, 1.0)
    assert isinstance(event, Failed)


def test_cancelled_request_has_one_end() -> None:
    a = assembly(2, 1)
    first = SequenceOutput(request_id="1", finish_reason=FinishReason.ABORT, usage=Usage())
    second = SequenceOutput(request_id="1", index=1, finish_reason=FinishReason.ABORT, usage=Usage(), last=True)
    assert a.add(first, 1.0) == []
    (event,) = a.add(second, 1.0)
    assert isinstance(event, Failed)


def test_best_of_below_n_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="best_of must be at least n, which is 3"):
        best_of_count(2, 3)


def test_the_callers_id_is_that_of_the_request() -> None:
    prepared = PreparedPrompt(tokens=np.array([7], np.int32), sampler_params={}, stops=(), max_tokens=None, n=2)
    inner = RequestAssembly(prepared, lambda token: b"", started=0.0, request_id="req_7")
    assert BestOfAssembly(inner, n=2, n_kept=1, with_logprobs=False).request_id == "req_7"
