"""One request's outputs to events: parses the text of each completion, counts, and makes the terminal event.

Owned by the output thread. Parsers that reparse the whole answer are fed at most every FLUSH_S; all others at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from donabe.chat.output import OutputParser, Parsed
from donabe.chat.prompt import PreparedPrompt
from donabe.engine.request import Logprobs, SequenceOutput
from donabe.errors import CancelledError
from donabe.runner.failures import failed_from
from donabe.types import Delta, Event, Finished, FinishReason, TokenLogprob, Usage

FLUSH_S = 0.03

Piece = Callable[[int], bytes]  # token -> its bytes, control tokens included


@dataclass(slots=True)
class _Completion:
    """Output of one completion that is not sent yet, and totals."""

    index: int
    parser: OutputParser
    echo: str
    text: bytearray = field(default_factory=bytearray)
    tokens: list[int] = field(default_factory=list)
    logprobs: Logprobs = field(default_factory=list)
    last_flush: float = -math.inf
    n_thinking: int = 0
    context: list[int] = field(default_factory=list)

    @property
    def has_pending(self) -> bool:
        return bool(self.text or self.tokens or self.logprobs)


class RequestAssembly:
    """Events of one request.

    Args:
        started: When the request arrived, on the clock that is passed to the other methods.
        return_context: Collect the tokens for `Finished.context`.
    """

    def __init__(self, prepared: PreparedPrompt, piece: Piece, *, started: float, return_context: bool = False) -> None:
        self._prepared = prepared
        self._piece = piece
        self._started = started
        self._return_context = return_context
        self._completions = [_Completion(i, prepared.make_output(), prepared.echo) for i in range(prepared.n)]

    @property
    def due(self) -> float | None:
        """When `flush` should be called, or None."""
        times = [c.last_flush + FLUSH_S for c in self._completions if c.has_pending]
        return min(times) if times else None

    def add(self, output: SequenceOutput, now: float) -> list[Event]:
        """Events that follow from this output; the terminal one is last and has no successor."""
        if output.error is not None:
            return [failed_from(output.error)]
        completion = self._completions[output.index]
        completion.text += output.text
        completion.tokens += output.tokens
        if output.logprobs:
            completion.logprobs += output.logprobs
        if output.finish_reason is FinishReason.ABORT:
            return [failed_from(CancelledError("the request was cancelled"))] if output.last else []
        if output.finish_reason is not None:
            return self._finish(completion, output, now)
        if completion.parser.is_costly and now < completion.last_flush + FLUSH_S:
            return []
        return self._flush(completion, now)

    def flush(self, now: float) -> list[Event]:
        """What became due."""
        events: list[Event] = []
        for completion in self._completions:
            if completion.has_pending and completion.last_flush + FLUSH_S <= now:
                events += self._flush(completion, now)
        return events

    def _flush(self, completion: _Completion, now: float) -> list[Event]:
        completion.last_flush = now
        text, tokens = bytes(completion.text), tuple(completion.tokens)
        completion.text.clear()
        completion.tokens.clear()
        parsed = completion.parser.feed(text) if text else Parsed()
        if parsed.thinking and not parsed.text:
            completion.n_thinking += len(tokens)
        return self._delta(completion, parsed, tokens)

    def _delta(self, completion: _Completion, parsed: Parsed, tokens: tuple[int, ...] = ()) -> list[Event]:
        logprobs = tuple(self._logprob(*entry) for entry in completion.logprobs)
        completion.logprobs.clear()
        text, completion.echo = completion.echo + parsed.text, ""
        if self._return_context:
            completion.context += tokens
        if not (text or parsed.thinking or parsed.tool_calls or logprobs or tokens):
            return []
        return [
            Delta(
                text=text,
                thinking=parsed.thinking,
                tool_calls=parsed.tool_calls,
                logprobs=logprobs,
                tokens=tokens,
                index=completion.index,
            )
        ]

    def _finish(self, completion: _Completion, output: SequenceOutput, now: float) -> list[Event]:
        events = self._flush(completion, now)
        rest = completion.parser.finish()
        events += self._delta(completion, rest)
        assert output.finish_reason is not None  # the caller looked
        stops = self._prepared.stops
        stop = stops[output.stop_index].decode("utf-8", "replace") if 0 <= output.stop_index < len(stops) else ""
        context: tuple[int, ...] = ()
        if self._return_context:
            context = (*self._prepared.tokens.tolist(), *completion.context)
        events.append(
            Finished(
                reason=output.finish_reason,
                usage=self._usage(output.usage or Usage(), completion, now),
                index=completion.index,
                last=output.last,
                stop_sequence=stop,
                warnings=(rest.warning,) if rest.warning else (),
                context=context,
            )
        )
        return events

    def _usage(self, usage: Usage, completion: _Completion, now: float) -> Usage:
        return msgspec.structs.replace(
            usage,
            n_thinking_tokens=completion.n_thinking,
            n_truncated_tokens=self._prepared.n_truncated_tokens,
            n_dropped_messages=self._prepared.n_dropped_messages,
            total_s=now - self._started,
        )

    def _logprob(self, token: int, logprob: float, top: list[tuple[int, float]]) -> TokenLogprob:
        data = self._piece(token)
        return TokenLogprob(
            token=data.decode("utf-8", "replace"),
            token_id=token,
            logprob=logprob,
            bytes_=data,
            top=tuple(self._logprob(other, value, []) for other, value in top),
        )
