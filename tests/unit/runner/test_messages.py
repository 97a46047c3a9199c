"""Frames: every message survives the trip, sizes are bounded, errors keep their class and attributes."""

from __future__ import annotations

import msgspec
import pytest
from tests.fakes.runner_child import INFO

from donabe.errors import (
    CapabilityError,
    ContextLengthError,
    InvalidRequestError,
    LoadError,
    ModelNotFoundError,
    RunnerDiedError,
    RunnerError,
    ServerBusyError,
)
from donabe.runner import messages as m
from donabe.runner.failures import error_from, failed_from, is_terminal
from donabe.types import (
    ChatRequest,
    ClassifyRequest,
    Delta,
    EmbedRequest,
    Failed,
    Finished,
    FinishReason,
    GenerateRequest,
    LoadOptions,
    Message,
    ModelDetails,
    ModelSpec,
    RerankRequest,
    TokenLogprob,
    Tool,
    ToolCall,
    Usage,
)

SPEC = ModelSpec(name="x", paths=("/m.gguf",), details=ModelDetails(), messages=(Message(role="user", content="é"),))
CHAT = ChatRequest(
    messages=(Message(role="user", content="hi", images=(b"\x00\xff",)),),
    tools=(Tool(name="f", parameters={"a": [1]}),),
)
TO_CHILD = [
    m.Load(version=1, spec=SPEC, options=LoadOptions(n_ctx=8)),
    m.Start(id=1, request=GenerateRequest(prompt=(1, 2))),
    m.Start(id=2, request=GenerateRequest(prompt="text")),
    m.Start(id=3, request=CHAT),
    m.Start(id=4, request=EmbedRequest(inputs=("a", (1, 2)))),
    m.Start(id=5, request=RerankRequest(query="q", documents=("d",))),
    m.Start(id=6, request=ClassifyRequest(inputs=("a", (1, 2)), truncate=True)),
    m.Cancel(id=3),
    m.Render(id=6, request=CHAT),
    m.Tokenize(id=7, text="t", parse_special=True),
    m.Detokenize(id=8, tokens=(1,)),
    m.Pieces(id=8, tokens=(1,)),
    m.Status(id=9),
    m.Ping(id=10),
    m.Shutdown(),
]
LOGPROB = TokenLogprob(token="a", token_id=1, logprob=-0.5, bytes_=b"a")
TO_PARENT = [
    m.Ready(version=1, info=INFO),
    m.LoadProgress(fraction=0.5, stage="context"),
    m.Events(
        items=(
            (1, Delta(text="a", tool_calls=(ToolCall(name="f"),), logprobs=(LOGPROB,), tokens=(1,))),
            (2, Finished(reason=FinishReason.LENGTH, usage=Usage(n_output_tokens=3))),
            (3, Failed(kind="RunnerError", message="m", data={"field": "x"})),
        )
    ),
    m.Reply.of(4, [1, 2]),
    m.ErrorReply(id=5, error=Failed(kind="LoadError", message="m")),
    m.Pong(id=6, step_age_s=1.5),
    m.LogLines(lines=((4, "bad"),)),
    m.Exiting(error=Failed(kind="LoadError", message="m")),
]


@pytest.mark.parametrize("message", TO_CHILD, ids=lambda message: type(message).__name__)
def test_parent_message_survives_the_trip(message: m.ParentMessage) -> None:
    frame = m.encode_frame(message)
    assert m.frame_body_bytes(frame[: m.HEADER_BYTES]) == len(frame) - m.HEADER_BYTES
    assert m.parent_message_decoder.decode(frame[m.HEADER_BYTES :]) == message


@pytest.mark.parametrize("message", TO_PARENT, ids=lambda message: type(message).__name__)
def test_child_message_survives_the_trip(message: m.ChildMessage) -> None:
    frame = m.encode_frame(message)
    assert m.encode_frame(m.child_message_decoder.decode(frame[m.HEADER_BYTES :])) == frame


def test_reply_gives_its_value_back() -> None:
    assert m.Reply.of(1, [1, 2]).result(list[int]) == [1, 2]


def test_unknown_tag_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        m.child_message_decoder.decode(msgspec.msgpack.encode({"type": "Reboot"}))


def test_too_large_frame_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(m, "MAX_FRAME_BYTES", 100)
    with pytest.raises(RunnerError, match="larger than the 100"):
        m.encode_frame(m.Tokenize(id=1, text="x" * 101))
    with pytest.raises(RunnerError):
        m.frame_body_bytes(b"\xff\xff\xff\x7f")


def test_lone_surrogate_is_a_request_error() -> None:
    with pytest.raises(InvalidRequestError, match="can't be passed"):
        m.encode_frame(m.Start(id=1, request=GenerateRequest(prompt="\ud800")))


ERRORS = [
    (InvalidRequestError("bad", field="a.b", hint="h"), {"field": "a.b"}),
    (ContextLengthError("long", n_prompt_tokens=9, n_ctx=4), {"n_prompt_tokens": 9, "n_ctx": 4}),
    (CapabilityError("no", capability="vision"), {"capability": "vision"}),
    (ModelNotFoundError("gone", name="x"), {"name": "x"}),
    (ServerBusyError("full", retry_after_s=2.5), {"retry_after_s": 2.5}),
    (LoadError("bad file", log_tail=("a", "b")), {"log_tail": ("a", "b")}),
    (RunnerDiedError("died", exit_reason="exit 1", log_tail=("x",)), {"exit_reason": "exit 1", "log_tail": ("x",)}),
]


@pytest.mark.parametrize(("error", "attributes"), ERRORS, ids=lambda value: type(value).__name__)
def test_error_keeps_class_text_hint_and_attributes(error: Exception, attributes: dict[str, object]) -> None:
    back = error_from(msgspec.msgpack.decode(msgspec.msgpack.encode(failed_from(error)), type=Failed))
    assert type(back) is type(error)
    assert (back.message, back.hint) == (str(error), getattr(error, "hint", None))
    assert {name: getattr(back, name) for name in attributes} == attributes


def test_foreign_exception_is_an_internal_error() -> None:
    failed = failed_from(ZeroDivisionError("by zero"))
    assert (failed.kind, failed.message) == ("RunnerError", "internal error: ZeroDivisionError: by zero")


def test_unknown_kind_keeps_its_name_in_the_message() -> None:
    error = error_from(Failed(kind="WhatError", message="odd"))
    assert type(error) is RunnerError
    assert "WhatError: odd" in str(error)


def test_terminal_events() -> None:
    usage = Usage()
    assert is_terminal(Failed(kind="RunnerError", message=""))
    assert is_terminal(Finished(reason=FinishReason.STOP, usage=usage))
    assert not is_terminal(Finished(reason=FinishReason.STOP, usage=usage, last=False))
    assert not is_terminal(Delta(text="x"))
