"""RunnerCore with a fake engine: events in order, cancellation anywhere, exactly one terminal event in any case."""

from __future__ import annotations

import queue
import random
import threading
from collections import defaultdict
from collections.abc import Iterator

import msgspec
import pytest
from tests.fakes.loaded_model import FakeEngine, FakeLoaded

from donabe.chat.output import Parsed
from donabe.errors import ServerBusyError
from donabe.runner.core import RunnerCore
from donabe.runner.failures import is_terminal
from donabe.runner.threads import EventItem
from donabe.types import (
    ChatRequest,
    Delta,
    Event,
    Failed,
    Finished,
    GenerateRequest,
    Message,
    OutputOptions,
    Scheduling,
)


class Rig:
    """A core and what it published."""

    def __init__(self, **loaded: bool) -> None:
        self.loaded = FakeLoaded(**loaded)
        self.failures: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
        self.events: dict[int, list[Event]] = defaultdict(list)
        self.ended: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.core = RunnerCore(self.loaded, self.publish, self.failures.put)

    @property
    def engine(self) -> FakeEngine:
        assert self.loaded.engine is not None
        return self.loaded.engine

    def publish(self, items: list[EventItem]) -> None:
        for id, event in items:
            self.events[id].append(event)
            if is_terminal(event):
                self.ended.put(id)

    def wait(self, n: int = 1) -> list[int]:
        return [self.ended.get(timeout=5) for _ in range(n)]


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.core.stop()


def ask(prompt: str = "a b", max_tokens: int | None = 3, n: int = 1) -> GenerateRequest:
    return GenerateRequest(prompt=prompt, output=OutputOptions(max_tokens=max_tokens), n=n)


def text_of(events: list[Event], index: int = 0) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta) and event.index == index)


def failure_of(events: list[Event]) -> Failed:
    (failed,) = events
    assert isinstance(failed, Failed)
    return failed


def test_request_is_answered_in_order(rig: Rig) -> None:
    rig.core.start(1, ask())
    rig.wait()
    assert text_of(rig.events[1]) == "w0 w1 w2 "
    finished = rig.events[1][-1]
    assert isinstance(finished, Finished)
    assert (finished.usage.n_prompt_tokens, finished.usage.n_output_tokens) == (2, 3)
    assert finished.usage.total_s > 0


def test_chat_goes_the_same_way(rig: Rig) -> None:
    rig.core.start(1, ChatRequest(messages=(Message(role="user", content="hi"),)))
    rig.wait()
    assert text_of(rig.events[1]) == "w0 w1 w2 "


def test_completions_have_their_index_and_one_end(rig: Rig) -> None:
    rig.core.start(1, ask(n=3))
    rig.wait()
    assert [text_of(rig.events[1], i) for i in range(3)] == ["w0 w1 w2 "] * 3
    assert [is_terminal(event) for event in rig.events[1]].count(True) == 1


@pytest.mark.parametrize(("prompt", "kind"), [("bad", "InvalidRequestError"), ("odd", "RunnerError")])
def test_failing_preparation_is_the_terminal_event(rig: Rig, prompt: str, kind: str) -> None:
    rig.core.start(1, ask(prompt))
    rig.wait()
    assert failure_of(rig.events[1]).kind == kind


def test_engine_refusal_is_the_terminal_event(rig: Rig) -> None:
    rig.engine.refuse = ServerBusyError("full", retry_after_s=3)
    rig.core.start(1, ask())
    rig.wait()
    failed = failure_of(rig.events[1])
    assert (failed.kind, failed.data["retry_after_s"]) == ("ServerBusyError", 3)


def test_cancel_while_running(rig: Rig) -> None:
    rig.core.start(1, ask(max_tokens=10**6))
    while not rig.events[1]:
        threading.Event().wait(0.001)
    rig.core.cancel(1)
    rig.wait()
    assert rig.engine.n_cancelled == 1
    last = rig.events[1][-1]
    assert isinstance(last, Failed)
    assert last.kind == "CancelledError"


def test_cancel_before_preparation_never_reaches_the_engine(rig: Rig) -> None:
    rig.loaded.prompts.gate.clear()
    for id in (1, 2, 3):  # two intake threads: the third waits its turn
        rig.core.start(id, ask())
    rig.core.cancel(3)
    rig.core.cancel(1)
    rig.loaded.prompts.gate.set()
    rig.wait(3)
    assert failure_of(rig.events[3]).kind == "CancelledError"
    assert failure_of(rig.events[1]).kind == "CancelledError"
    assert isinstance(rig.events[2][-1], Finished)
    assert "3" not in rig.engine.known


def test_cancel_of_unknown_or_ended_requests_is_ignored(rig: Rig) -> None:
    rig.core.cancel(99)
    rig.core.start(1, ask())
    rig.wait()
    rig.core.cancel(1)
    assert len([e for e in rig.events[1] if is_terminal(e)]) == 1


def test_broken_engine_answers_everything_and_reports(rig: Rig) -> None:
    rig.engine.break_after = 2
    for id in range(1, 6):
        rig.core.start(id, ask(max_tokens=1000))
    rig.wait(5)
    assert "compute broke" in str(rig.failures.get(timeout=5))
    for id in range(1, 6):
        assert isinstance(rig.events[id][-1], Failed)
    rig.core.start(9, ask())
    rig.wait()
    assert failure_of(rig.events[9]).kind == "RunnerError"


class BrokenParser:
    is_costly = False

    def feed(self, text: bytes) -> Parsed:
        raise ValueError("unparsable")

    def finish(self) -> Parsed:
        return Parsed()


def test_failing_parser_ends_its_request_alone(rig: Rig) -> None:
    rig.loaded.prompts.make_output = BrokenParser
    rig.core.start(1, ask(max_tokens=10**6))
    rig.wait()
    assert "unparsable" in failure_of(rig.events[1]).message
    rig.loaded.prompts.make_output = None
    rig.core.start(2, ask())
    rig.wait()
    assert text_of(rig.events[2]) == "w0 w1 w2 "


@pytest.mark.parametrize("fault", ["preparation", "parser"])
def test_what_is_logged_about_a_request_has_its_id(rig: Rig, caplog: pytest.LogCaptureFixture, fault: str) -> None:
    if fault == "parser":
        rig.loaded.prompts.make_output = BrokenParser
    request = ask("odd" if fault == "preparation" else "a", max_tokens=10**6)
    request = msgspec.structs.replace(request, scheduling=Scheduling(request_id="req_7"))
    rig.core.start(1, request)
    rig.wait()
    [record] = [record for record in caplog.records if record.name == "donabe.runner"]
    assert vars(record)["request_id"] == "req_7"


def test_stop_answers_everything_once_and_refuses_later_requests() -> None:
    rig = Rig()
    rig.engine.gate.clear()
    rig.loaded.prompts.gate.clear()
    for id in range(1, 8):
        rig.core.start(id, ask(max_tokens=10**9))
    rig.loaded.prompts.gate.set()
    stopper = threading.Thread(target=rig.core.stop)
    stopper.start()
    rig.engine.gate.set()
    stopper.join(5)
    rig.core.stop()
    for id in range(1, 8):
        assert [is_terminal(event) for event in rig.events[id]].count(True) == 1
        assert isinstance(rig.events[id][-1], Failed)
    rig.core.start(8, ask())
    assert failure_of(rig.events[8]).message == "the model was unloaded"
    assert (rig.loaded.n_closed, rig.loaded.embedder.stopped is not None) == (1, True)


def test_model_that_can_not_generate_says_so() -> None:
    rig = Rig(generates=False)
    rig.core.start(1, ask())
    rig.wait()
    assert failure_of(rig.events[1]).data == {"capability": "completion"}
    rig.core.stop()


def test_single_answers(rig: Rig) -> None:
    assert rig.core.tokenize("a b", add_special=True, parse_special=False).result(5) == [0, 1]
    assert rig.core.detokenize([1]).result(5) == "w1"
    assert rig.core.pieces([1, 2]).result(5) == [b"w1", b"w2"]
    assert rig.core.render(ChatRequest(messages=(Message(role="user", content="x"),))).result(5).prompt == "x"
    assert rig.core.status().n_running == 0


@pytest.mark.parametrize("seed", range(8))
def test_any_mix_of_events_gives_each_request_one_terminal_event(seed: int) -> None:
    chance = random.Random(seed)
    rig = Rig()
    n = 40
    for id in range(1, n + 1):
        prompt = chance.choice(["a", "a b c", "bad", "odd"])
        rig.core.start(id, ask(prompt, chance.choice([0, 1, 5, 10**6]), chance.choice([1, 1, 3])))
        if chance.random() < 0.5:
            rig.core.cancel(chance.randint(1, id))
        if chance.random() < 0.02:
            rig.engine.break_after = rig.engine.n_steps + 1
    rig.core.stop()
    for id in range(1, n + 1):
        ends = [is_terminal(event) for event in rig.events[id]]
        assert ends.count(True) == 1, id
        assert ends[-1], id
