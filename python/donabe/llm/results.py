"""What `LLM` and `AsyncLLM` return: whole completions, and chunks of a stream."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from donabe.runner.failures import error_from
from donabe.types import Delta, Event, Failed, Finished, FinishReason, TokenLogprob, ToolCall, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """New output of a stream. Concatenating all chunks gives the completion; the last one has `finish_reason`."""

    text: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    tokens: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    stop_sequence: str = ""
    usage: Usage | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A whole answer.

    Attributes:
        thinking: What the model thought before it answered, if its template separates that.
        tool_calls: Functions the model wants called, with raw JSON arguments.
        logprobs: One entry a token, when asked for.
        tokens: Output token ids.
        warnings: What could not be done as asked, for example an answer that did not parse.
    """

    text: str
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: FinishReason
    stop_sequence: str = ""
    usage: Usage
    logprobs: tuple[TokenLogprob, ...] = ()
    tokens: tuple[int, ...] = ()
    warnings: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        return self.text


def chunk_of(event: Event) -> Chunk:
    """The chunk of an event.

    Raises:
        DonabeError: What the request failed with.
    """
    if isinstance(event, Failed):
        raise error_from(event)
    if isinstance(event, Finished):
        return Chunk(
            finish_reason=event.reason, stop_sequence=event.stop_sequence, usage=event.usage, warnings=event.warnings
        )
    return Chunk(
        text=event.text,
        thinking=event.thinking,
        tool_calls=event.tool_calls,
        logprobs=event.logprobs,
        tokens=event.tokens,
    )


def completion_of(events: Iterable[Event]) -> Completion:
    """The completion that these events make up.

    Raises:
        DonabeError: What the request failed with.
    """
    text: list[str] = []
    thinking: list[str] = []
    calls: list[ToolCall] = []
    logprobs: list[TokenLogprob] = []
    tokens: list[int] = []
    for event in events:
        if isinstance(event, Failed):
            raise error_from(event)
        if isinstance(event, Delta):
            text.append(event.text)
            thinking.append(event.thinking)
            calls += event.tool_calls
            logprobs += event.logprobs
            tokens += event.tokens
            continue
        return Completion(
            text="".join(text),
            thinking="".join(thinking),
            tool_calls=tuple(calls),
            finish_reason=event.reason,
            stop_sequence=event.stop_sequence,
            usage=event.usage,
            logprobs=tuple(logprobs),
            tokens=tuple(tokens),
            warnings=event.warnings,
        )
    raise AssertionError("a stream ended without a terminal event")
