"""One request's outputs to events: parses the text of each completion, counts, and makes the terminal event.

Owned by the output thread. Parsers that reparse the whole answer are fed at most every PARSE_INTERVAL_S, all others at
once. What was parsed is sent at once, or at the intervals that the request asked for.
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
from donabe.types import Delta, Event, Finished, FinishReason, TokenLogprob, ToolCall, Usage

PARSE_INTERVAL_S = 0.03
_EARLY = 0.8  # of the interval: the engine's bursts last as long, and must not wait for the next one when they jitter

Piece = Callable[[int], bytes]  # token -> its bytes, control tokens included


@dataclass(slots=True)
class _Completion:
    """Output of one completion that is not parsed yet, what is parsed and not sent yet, and totals."""

    index: int
    parser: OutputParser
    echo: str
    unread: bytearray = field(default_factory=bytearray)
    unread_tokens: list[int] = field(default_factory=list)
    parsed_at: float = -math.inf
    text: str = ""
    thinking: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: Logprobs = field(default_factory=list)
    sent_at: float = -math.inf
    n_thinking: int = 0
    context: list[int] = field(default_factory=list)

    @property
    def has_unread(self) -> bool:
        return bool(self.unread or self.unread_tokens)

    @property
    def has_unsent(self) -> bool:
        return bool(self.text or self.thinking or self.tokens)


class RequestAssembly:
    """Events of one request.

    Args:
        started: When the request arrived, on the clock that is passed to the other methods.
        interval_s: Least time between two deltas of a completion, but for a change between thinking, content and tool
            calls; infinite: the first one is followed by the rest when the completion has ended.
        return_context: Collect the tokens for `Finished.context`.
        request_id: The caller's, for the log.
    """

    def __init__(
        self,
        prepared: PreparedPrompt,
        piece: Piece,
        *,
        started: float,
        interval_s: float = 0.0,
        return_context: bool = False,
        request_id: str = "",
    ) -> None:
        self.request_id = request_id
        self._prepared = prepared
        self._piece = piece
        self._started = started
        self._interval_s = interval_s
        self._return_context = return_context
        self._completions = [_Completion(i, prepared.make_output(), prepared.echo) for i in range(prepared.n)]

    @property
    def due(self) -> float | None:
        """When `flush` should be called, or None. Later than the interval: the next token usually comes before."""
        due = math.inf
        for completion in self._completions:
            if completion.has_unread:
                due = min(due, completion.parsed_at + PARSE_INTERVAL_S)
            if completion.has_unsent:
                due = min(due, completion.sent_at + 2 * self._interval_s)
        return due if math.isfinite(due) else None

    def add(self, output: SequenceOutput, now: float) -> list[Event]:
        """Events that follow from this output; the terminal one is last and has no successor."""
        if output.error is not None:
            return [failed_from(output.error)]
        completion = self._completions[output.index]
        completion.unread += output.text
        completion.unread_tokens += output.tokens
        if output.logprobs:
            completion.logprobs += output.logprobs
        if output.finish_reason is FinishReason.ABORT:
            return [failed_from(CancelledError("the request was cancelled"))] if output.last else []
        if output.finish_reason is not None:
            return self._finish(completion, output, now)
        if completion.parser.is_costly and now < completion.parsed_at + PARSE_INTERVAL_S:
            return []
        return [*self._parse(completion, now), *self._send_due(completion, now)]

    def flush(self, now: float) -> list[Event]:
        """What became due."""
        events: list[Event] = []
        for completion in self._completions:
            if completion.has_unread and completion.parsed_at + PARSE_INTERVAL_S <= now:
                events += self._parse(completion, now)
            events += self._send_due(completion, now)
        return events

    def _parse(self, completion: _Completion, now: float) -> list[Event]:
        """Read what is unread. Returns events that can't wait."""
        completion.parsed_at = now
        text, tokens = bytes(completion.unread), completion.unread_tokens
        completion.unread.clear()
        completion.unread_tokens = []
        parsed = completion.parser.feed(text) if text else Parsed()
        if parsed.thinking and not parsed.text:
            completion.n_thinking += len(tokens)
        return self._keep(completion, parsed, tokens, now)

    def _keep(self, completion: _Completion, parsed: Parsed, tokens: list[int], now: float) -> list[Event]:
        """Put it to what is to be sent. Thinking and content keep their order: one of them waits at a time."""
        is_change = (completion.thinking and parsed.text) or (completion.text and parsed.thinking)
        events = self._send(completion, now) if is_change else []
        completion.text += completion.echo + parsed.text
        completion.echo = ""
        completion.thinking += parsed.thinking
        completion.tokens += tokens
        if self._return_context:
            completion.context += tokens
        if parsed.tool_calls:
            events += self._send(completion, now, parsed.tool_calls)
        return events

    def _send_due(self, completion: _Completion, now: float) -> list[Event]:
        is_due = now - completion.sent_at >= _EARLY * self._interval_s
        return self._send(completion, now) if is_due else []

    def _send(self, completion: _Completion, now: float, tool_calls: tuple[ToolCall, ...] = ()) -> list[Event]:
        if not (completion.has_unsent or completion.logprobs or tool_calls):
            return []
        delta = Delta(
            text=completion.text,
            thinking=completion.thinking,
            tool_calls=tool_calls,
            logprobs=tuple(self._logprob(*entry) for entry in completion.logprobs),
            tokens=tuple(completion.tokens),
            index=completion.index,
        )
        completion.text = completion.thinking = ""
        completion.tokens = []
        completion.logprobs.clear()
        completion.sent_at = now
        return [delta]

    def _finish(self, completion: _Completion, output: SequenceOutput, now: float) -> list[Event]:
        events = self._parse(completion, now)
        rest = completion.parser.finish()
        events += self._keep(completion, rest, [], now)
        events += self._send(completion, now)
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
