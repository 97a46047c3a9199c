"""The OpenAI dialect, replies to `POST /v1/completions`: streamed as server-sent events, and whole.

Every prompt has `n` choices, numbered through; a choice's text may begin with its echoed prompt.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import msgspec

from donabe.api.dialect import PLAIN_JSON, SSE, Timing
from donabe.api.durations import unix_seconds
from donabe.api.openai_replies import DONE, FINGERPRINT, Choice, UsageSum, data_event, error_object
from donabe.errors import DonabeError
from donabe.types import Delta, Finished, JsonObject, TokenLogprob

_encode = msgspec.json.Encoder().encode


def completion_logprobs(entries: Sequence[TokenLogprob], offset: int = 0) -> JsonObject:
    """Log probabilities in the older form: parallel lists, and where each token begins in the text."""
    offsets = []
    for entry in entries:
        offsets.append(offset)
        offset += len(entry.token)
    return {
        "tokens": [entry.token for entry in entries],
        "token_logprobs": [entry.logprob for entry in entries],
        "top_logprobs": [{top.token: top.logprob for top in entry.top} for entry in entries],
        "text_offset": offsets,
    }


class CompletionChunkWriter:
    """Completion chunks: every choice's last one has its finish reason and no text.

    Args:
        text_starts: For each choice, where the answer begins in its text: behind an echoed prompt.
    """

    media_type = SSE

    def __init__(
        self, model: str, *, include_usage: bool, n_per_prompt: int, logprobs: bool, text_starts: Sequence[int]
    ) -> None:
        head: JsonObject = {"id": "cmpl-" + secrets.token_hex(12), "object": "text_completion"}
        self._head = b"data: " + _encode({**head, "created": unix_seconds()})[:-1] + b',"choices":['
        self._tail = b'],"model":' + _encode(model) + b',"system_fingerprint":' + _encode(FINGERPRINT)
        self._include_usage = include_usage
        self._usage = UsageSum()
        self._n_per_prompt = n_per_prompt
        self._n_finished = [0] * len(text_starts)
        self._want_logprobs = logprobs
        self._offsets = list(text_starts)

    def delta(self, event: Delta) -> bytes:
        if not event.text and not event.logprobs and not event.thinking:
            return b""
        choice: JsonObject = {"text": event.text, "index": event.index, "finish_reason": None}
        if event.thinking:
            choice["reasoning"] = event.thinking
        if self._want_logprobs:
            choice["logprobs"] = completion_logprobs(event.logprobs, self._offsets[event.index])
            self._offsets[event.index] += sum(len(entry.token) for entry in event.logprobs)
        return self._chunk(_encode(choice))

    def _chunk(self, choice: bytes, usage: bytes = b"") -> bytes:
        return self._head + choice + self._tail + (b',"usage":' + usage if usage else b"") + b"}\n\n"

    def finished(self, event: Finished, timing: Timing) -> bytes:
        prompt = event.index // self._n_per_prompt
        self._usage.add(event.usage, is_same_prompt=self._n_finished[prompt] > 0)
        self._n_finished[prompt] += 1
        chunk = self._chunk(_encode({"text": "", "index": event.index, "finish_reason": event.reason.value}))
        if not event.last:
            return chunk
        if self._include_usage:
            chunk += self._chunk(b"", _encode(self._usage.object()))
        return chunk + DONE

    def failed(self, status: int, error: DonabeError) -> bytes:
        return data_event(error_object(status, error)) + DONE


class CompletionCollector:
    """One completion object with `n` choices for every prompt. `text_starts` as `CompletionChunkWriter`."""

    media_type = PLAIN_JSON

    def __init__(self, model: str, *, n: int, n_logprobs: int | None, text_starts: Sequence[int]) -> None:
        self._model = model
        self._n = n
        self._n_logprobs = n_logprobs
        self._text_starts = text_starts
        self._choices = [Choice() for _ in text_starts]
        self._usage = UsageSum()
        self._n_finished = [0] * len(text_starts)

    def delta(self, event: Delta) -> None:
        self._choices[event.index].add(event)

    def finished(self, event: Finished, timing: Timing) -> None:
        prompt = event.index // self._n
        self._choices[event.index].finished = event
        self._usage.add(event.usage, is_same_prompt=self._n_finished[prompt] > 0)
        self._n_finished[prompt] += 1

    def body(self) -> bytes:
        reply = {
            "id": "cmpl-" + secrets.token_hex(12),
            "object": "text_completion",
            "created": unix_seconds(),
            "model": self._model,
            "system_fingerprint": FINGERPRINT,
            "choices": [self._choice_object(index, choice) for index, choice in enumerate(self._choices)],
            "usage": self._usage.object(),
        }
        return _encode(reply) + b"\n"

    def _choice_object(self, index: int, choice: Choice) -> JsonObject:
        reason = choice.finished.reason.value if choice.finished is not None else None
        found: JsonObject = {"text": "".join(choice.text), "index": index, "finish_reason": reason, "logprobs": None}
        if thinking := "".join(choice.thinking):
            found["reasoning"] = thinking
        if self._n_logprobs is not None:
            found["logprobs"] = completion_logprobs(choice.logprobs, self._text_starts[index])
        return found


def loaded_completion(model: str, *, is_streamed: bool = False) -> bytes:
    """The reply to an empty prompt, which only loads the model."""
    collector = CompletionCollector(model, n=1, n_logprobs=None, text_starts=())
    reply = msgspec.json.decode(collector.body())
    reply["choices"] = [{"text": "", "index": 0, "finish_reason": "load", "logprobs": None}]
    if is_streamed:
        return data_event(reply) + DONE
    return _encode(reply) + b"\n"
