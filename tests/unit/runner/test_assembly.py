"""RequestAssembly: when text is parsed, what a finished request reports."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from donabe.chat.output import Parsed
from donabe.chat.prompt import PreparedPrompt
from donabe.engine.request import SequenceOutput
from donabe.errors import KvFullError
from donabe.runner.assembly import PARSE_INTERVAL_S, RequestAssembly
from donabe.types import Delta, Event, Failed, Finished, FinishReason, ToolCall, Usage


class Costly:
    """Counts how often it is fed; text in <> is thinking."""

    is_costly = True

    def __init__(self) -> None:
        self.fed: list[bytes] = []

    def feed(self, text: bytes) -> Parsed:
        self.fed.append(text)
        decoded = text.decode()
        return Parsed(thinking=decoded) if decoded.startswith("<") else Parsed(text=decoded)

    def finish(self) -> Parsed:
        return Parsed(text="!", warning="odd")


def prepare(**changes: object) -> PreparedPrompt:
    values: dict[str, object] = {"sampler_params": {}, "stops": (b"stop",), "max_tokens": None, "n": 1}
    return PreparedPrompt(tokens=np.array([7, 8], np.int32), **{**values, **changes})


def assembly(prepared: PreparedPrompt, **options: Any) -> RequestAssembly:
    return RequestAssembly(prepared, lambda token: b"%d" % token, started=10.0, **options)


def out(text: bytes = b"", *tokens: int, **changes: object) -> SequenceOutput:
    return SequenceOutput(request_id="1", text=text, tokens=list(tokens), **changes)


def end(**changes: object) -> SequenceOutput:
    values: dict[str, object] = {"finish_reason": FinishReason.STOP, "usage": Usage(n_output_tokens=2), "last": True}
    return out(**{**values, **changes})


def texts(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Delta)]


def test_plain_text_is_passed_on_at_once() -> None:
    a = assembly(prepare())
    assert a.add(out("é".encode(), 1), 11.0) == [Delta(text="é", tokens=(1,))]
    assert a.due is None


def test_costly_parser_is_fed_at_intervals() -> None:
    parser = Costly()
    a = assembly(prepare(make_output=lambda: parser))
    assert texts(a.add(out(b"a", 1), 11.0)) == ["a"]  # the first token is never held back
    assert a.add(out(b"b", 2), 11.001) == []
    assert a.add(out(b"c", 3), 11.002) == []
    assert a.due == 11.0 + PARSE_INTERVAL_S
    assert a.flush(11.003) == []
    assert a.flush(11.0 + PARSE_INTERVAL_S) == [Delta(text="bc", tokens=(2, 3))]
    assert parser.fed == [b"a", b"bc"]


class Tagged:
    """Text in <> is thinking, text in [] a tool call; both come in one piece."""

    is_costly = False

    def feed(self, text: bytes) -> Parsed:
        decoded = text.decode()
        if decoded.startswith("["):
            return Parsed(tool_calls=(ToolCall(name=decoded, arguments={}),))
        return Parsed(thinking=decoded) if decoded.startswith("<") else Parsed(text=decoded)

    def finish(self) -> Parsed:
        return Parsed()


def test_tokens_within_the_interval_are_sent_together() -> None:
    a = assembly(prepare(), interval_s=0.02)
    assert texts(a.add(out(b"a", 1), 11.0)) == ["a"]  # the first one never waits
    assert a.add(out(b"b", 2), 11.007) == []
    assert a.add(out(b"c", 3), 11.014) == []
    assert a.due == 11.04  # the next token is expected before
    assert a.add(out(b"d", 4), 11.021) == [Delta(text="bcd", tokens=(2, 3, 4))]
    assert a.due is None
    assert a.add(out(b"e", 5), 11.028) == []
    assert texts(a.add(end(), 11.03)) == ["e"]


def test_token_without_successor_is_sent_when_due() -> None:
    a = assembly(prepare(), interval_s=0.02)
    a.add(out(b"a", 1), 11.0)
    assert a.add(out(b"b", 2), 11.01) == []
    assert a.flush(11.04) == [Delta(text="b", tokens=(2,))]


def test_slow_tokens_are_not_held_back() -> None:
    a = assembly(prepare(), interval_s=0.02)
    assert [texts(a.add(out(b"x", i), 11.0 + i / 10)) for i in range(4)] == [["x"]] * 4


def test_endless_interval_leaves_the_first_token_and_the_rest() -> None:
    a = assembly(prepare(), interval_s=math.inf)
    assert texts(a.add(out(b"a", 1), 11.0)) == ["a"]
    assert [a.add(out(b"b", 2), 11.0 + i) for i in range(3)] == [[]] * 3
    assert a.due is None
    assert texts(a.add(end(), 15.0)) == ["bbb"]


def test_thinking_content_and_tool_calls_stay_apart_and_in_order() -> None:
    a = assembly(prepare(make_output=Tagged), interval_s=1.0)
    events = [event for token in (b"<1", b"<2", b"a", b"b", b"<3", b"[t", b"c") for event in a.add(out(token, 5), 11.0)]
    events += a.add(end(), 11.1)
    found = [(d.thinking, d.text, len(d.tool_calls)) for d in events if isinstance(d, Delta)]
    assert found == [("<1", "", 0), ("<2", "", 0), ("", "ab", 0), ("<3", "", 1), ("", "c", 0)]
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.usage.n_thinking_tokens == 3
    assert sum(len(d.tokens) for d in events if isinstance(d, Delta)) == 7


def test_log_probabilities_wait_with_their_tokens() -> None:
    a = assembly(prepare(), interval_s=1.0)
    a.add(out(b"5", 5, logprobs=[(5, -0.1, [])]), 11.0)
    assert a.add(out(b"6", 6, logprobs=[(6, -0.2, [])]), 11.1) == []
    (delta, _) = a.add(end(), 11.2)
    assert isinstance(delta, Delta)
    assert [(entry.token_id, entry.logprob) for entry in delta.logprobs] == [(6, -0.2)]


def test_finish_flushes_and_reports() -> None:
    a = assembly(prepare(make_output=Costly, n_truncated_tokens=4, n_dropped_messages=2), return_context=True)
    a.add(out(b"<think", 1, 2), 11.0)
    events = a.add(end(stop_index=0), 12.5)
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert texts(events) == ["!"]
    assert (finished.stop_sequence, finished.warnings) == ("stop", ("odd",))
    usage = finished.usage
    assert (usage.n_thinking_tokens, usage.n_truncated_tokens, usage.n_dropped_messages) == (2, 4, 2)
    assert usage.total_s == 2.5
    assert finished.context == (7, 8, 1, 2)


def test_echo_comes_first_in_every_completion() -> None:
    a = assembly(prepare(echo="prompt ", n=2))
    assert texts(a.add(out(b"x", 1), 11.0)) == ["prompt x"]
    assert texts(a.add(out(b"y", 1, index=1), 11.0)) == ["prompt y"]
    assert texts(a.add(end(last=False), 11.0)) == []


def test_logprobs_carry_text_and_bytes() -> None:
    a = assembly(prepare())
    (delta,) = a.add(out(b"5", 5, logprobs=[(5, -0.1, [(5, -0.1), (6, -2.0)])]), 11.0)
    assert isinstance(delta, Delta)
    (entry,) = delta.logprobs
    assert (entry.token, entry.bytes_, entry.logprob) == ("5", b"5", -0.1)
    assert [(other.token, other.logprob) for other in entry.top] == [("5", -0.1), ("6", -2.0)]


def test_error_and_abort_are_failures() -> None:
    (failed,) = assembly(prepare()).add(out(error=KvFullError("full"), last=True), 11.0)
    assert isinstance(failed, Failed)
    assert failed.kind == "KvFullError"
    (failed,) = assembly(prepare()).add(end(finish_reason=FinishReason.ABORT), 11.0)
    assert isinstance(failed, Failed)
    assert failed.kind == "CancelledError"
