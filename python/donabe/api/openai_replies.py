"""The OpenAI dialect, replies: chat completions, streamed as server-sent events and whole; embeddings, models, errors.

A stream ends with `data: [DONE]` in any case; an error after the first event is an event of its own before it.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from donabe.api.dialect import JSON, PLAIN_JSON, SSE, ErrorStyle, Timing
from donabe.api.durations import unix_seconds
from donabe.api.float_text import check_finite, float_rows, row_texts
from donabe.api.native_replies import new_call_id
from donabe.api.openai_messages import call_object
from donabe.errors import ContextLengthError, DonabeError, InvalidRequestError, ModelNotFoundError
from donabe.types import Delta, EmbedResult, Finished, JsonObject, ModelSpec, TokenLogprob, ToolCall, Usage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_encode = msgspec.json.Encoder().encode

FINGERPRINT = "fp_ollama"
DONE = b"data: [DONE]\n\n"

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}


def error_object(status: int, error: DonabeError) -> JsonObject:
    """`{"error": {...}}`; `param` names the field, `code` what programs branch on."""
    code = None
    if isinstance(error, ContextLengthError):
        code = "context_length_exceeded"
    elif isinstance(error, ModelNotFoundError):
        code = "model_not_found"
    elif status == 401:
        code = "invalid_api_key"
    detail: JsonObject = {
        "message": error.message or type(error).__name__,
        "type": _ERROR_TYPES.get(status, "api_error"),
        "param": error.field if isinstance(error, InvalidRequestError) else None,
        "code": code,
    }
    if error.hint:
        detail["hint"] = error.hint
    return {"error": detail}


def _error_body(status: int, error: DonabeError) -> bytes:
    return _encode(error_object(status, error))


OPENAI_ERRORS = ErrorStyle(JSON, _error_body)


class UsageSum:
    """Token counts over all choices of a request; the prompt counts once for each."""

    def __init__(self) -> None:
        self._n_prompt = self._n_cached = self._n_output = self._n_thinking = 0

    def add(self, usage: Usage, *, is_same_prompt: bool = False) -> None:
        if not is_same_prompt:
            self._n_prompt += usage.n_prompt_tokens
            self._n_cached += usage.n_cached_tokens
        self._n_output += usage.n_output_tokens
        self._n_thinking += usage.n_thinking_tokens

    def object(self) -> JsonObject:
        return {
            "prompt_tokens": self._n_prompt,
            "completion_tokens": self._n_output,
            "total_tokens": self._n_prompt + self._n_output,
            "prompt_tokens_details": {"cached_tokens": self._n_cached},
            "completion_tokens_details": {"reasoning_tokens": self._n_thinking},
        }


def chat_logprob(entry: TokenLogprob) -> JsonObject:
    return {
        "token": entry.token,
        "logprob": entry.logprob,
        "bytes": list(entry.bytes_ or entry.token.encode()),
        "top_logprobs": [
            {"token": top.token, "logprob": top.logprob, "bytes": list(top.bytes_ or top.token.encode())}
            for top in entry.top
        ],
    }


def data_event(value: JsonObject) -> bytes:
    """One server-sent event of a stream whose events have no names."""
    return b"data: " + _encode(value) + b"\n\n"


# --- chat completions ------------------------------------------------------------------------------------------------


class ChatChunkWriter:
    """Chat completion chunks. The first chunk of each choice carries the role.

    Args:
        n: Number of choices.
        group: Choices that share one prompt, for counting it once.
    """

    media_type = SSE

    def __init__(self, model: str, *, include_usage: bool, n: int = 1) -> None:
        head: JsonObject = {
            "id": "chatcmpl-" + secrets.token_hex(12),
            "object": "chat.completion.chunk",
            "created": unix_seconds(),
            "model": model,
            "system_fingerprint": FINGERPRINT,
        }
        self._head = b"data: " + _encode(head)[:-1] + b',"choices":['
        self._text_head = self._head + b'{"index":0,"delta":{"content":'
        self._include_usage = include_usage
        self._usage = UsageSum()
        self._started = [False] * n
        self._n_calls = [0] * n
        self._n_finished = 0

    def delta(self, event: Delta) -> bytes:
        index = event.index
        if self._started[index] and not index and not (event.thinking or event.tool_calls or event.logprobs):
            if not event.text:
                return b""
            return self._text_head + _encode(event.text) + b'},"finish_reason":null}]}\n\n'
        chunks: list[JsonObject] = []
        if event.thinking:
            chunks.append({"content": "", "reasoning": event.thinking, "reasoning_content": event.thinking})
        if event.text or (event.logprobs and not event.thinking):
            chunks.append({"content": event.text})
        for call in event.tool_calls:
            chunks.append({"content": "", "tool_calls": [self._call(call, index)]})
        logprobs = [chat_logprob(entry) for entry in event.logprobs]
        return b"".join(self._chunk(index, delta, logprobs if i == 0 else []) for i, delta in enumerate(chunks))

    def _call(self, call: ToolCall, index: int) -> JsonObject:
        number = self._n_calls[index]
        self._n_calls[index] += 1
        return call_object(call, number, call.id or new_call_id())

    def _chunk(self, index: int, delta: JsonObject, logprobs: list[JsonObject], reason: str | None = None) -> bytes:
        if not self._started[index]:
            self._started[index] = True
            delta = {"role": "assistant", **delta}
        choice: JsonObject = {"index": index, "delta": delta, "finish_reason": reason}
        if logprobs:
            choice["logprobs"] = {"content": logprobs, "refusal": None}
        return self._head + _encode(choice) + b"]}\n\n"

    def finished(self, event: Finished, timing: Timing) -> bytes:
        self._usage.add(event.usage, is_same_prompt=self._n_finished > 0)
        self._n_finished += 1
        reason = finish_reason(event, has_calls=self._n_calls[event.index] > 0)
        opening = b"" if self._started[event.index] else self._chunk(event.index, {"content": ""}, [])
        chunk = opening + self._chunk(event.index, {}, [], reason)
        if not event.last:
            return chunk
        if self._include_usage:
            chunk += self._head + b'],"usage":' + _encode(self._usage.object()) + b"}\n\n"
        return chunk + DONE

    def failed(self, status: int, error: DonabeError) -> bytes:
        return data_event(error_object(status, error)) + DONE


def finish_reason(event: Finished, *, has_calls: bool) -> str:
    return "tool_calls" if has_calls and event.reason.value == "stop" else event.reason.value


class Choice:
    """What came for one choice."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.thinking: list[str] = []
        self.calls: list[JsonObject] = []
        self.logprobs: list[TokenLogprob] = []
        self.finished: Finished | None = None

    def add(self, event: Delta) -> None:
        self.text.append(event.text)
        self.thinking.append(event.thinking)
        for call in event.tool_calls:
            self.calls.append(call_object(call, len(self.calls), call.id or new_call_id()))
        self.logprobs.extend(event.logprobs)


class ChatCompletionCollector:
    """One chat completion object."""

    media_type = PLAIN_JSON

    def __init__(self, model: str, *, n: int = 1, want_logprobs: bool = False) -> None:
        self._model = model
        self._choices = [Choice() for _ in range(n)]
        self._want_logprobs = want_logprobs
        self._usage = UsageSum()
        self._n_finished = 0

    def delta(self, event: Delta) -> None:
        self._choices[event.index].add(event)

    def finished(self, event: Finished, timing: Timing) -> None:
        self._choices[event.index].finished = event
        self._usage.add(event.usage, is_same_prompt=self._n_finished > 0)
        self._n_finished += 1

    def body(self) -> bytes:
        reply = {
            "id": "chatcmpl-" + secrets.token_hex(12),
            "object": "chat.completion",
            "created": unix_seconds(),
            "model": self._model,
            "system_fingerprint": FINGERPRINT,
            "choices": [self._choice_object(index, choice) for index, choice in enumerate(self._choices)],
            "usage": self._usage.object(),
        }
        return _encode(reply) + b"\n"

    def _choice_object(self, index: int, choice: Choice) -> JsonObject:
        message: JsonObject = {"role": "assistant", "content": "".join(choice.text)}
        if thinking := "".join(choice.thinking):
            message |= {"reasoning": thinking, "reasoning_content": thinking}
        if choice.calls:
            message["tool_calls"] = choice.calls
        found: JsonObject = {"index": index, "message": message, "finish_reason": None}
        if choice.finished is not None:
            found["finish_reason"] = finish_reason(choice.finished, has_calls=bool(choice.calls))
        if self._want_logprobs:
            found["logprobs"] = {"content": [chat_logprob(entry) for entry in choice.logprobs], "refusal": None}
        return found


# --- embeddings and models -------------------------------------------------------------------------------------------


def embedding_body(model: str, result: EmbedResult, *, is_base64: bool) -> bytes:
    """`POST /v1/embeddings`."""
    rows = float_rows(result)
    texts = _base64_texts(rows) if is_base64 else row_texts(rows)
    data = b",".join(
        b'{"object":"embedding","embedding":%b,"index":%d}' % (text, index) for index, text in enumerate(texts)
    )
    usage = {"prompt_tokens": result.n_prompt_tokens, "total_tokens": result.n_prompt_tokens}
    tail = _encode({"model": model, "usage": usage})
    return b'{"object":"list","data":[' + data + b"]," + tail[1:] + b"\n"


def _base64_texts(rows: NDArray[np.float32]) -> Iterator[bytes]:
    """Each row as little-endian bytes in base64, which is refused of what JSON's numbers could not say, too."""
    check_finite(rows)
    return (b'"' + base64.b64encode(row.tobytes()) + b'"' for row in rows)


def model_object(spec: ModelSpec, *, id: str = "") -> JsonObject:
    """One model; the owner is its namespace."""
    parts = spec.name.split("/")
    return {
        "id": id or spec.name,
        "object": "model",
        "created": int(spec.modified_at),
        "owned_by": parts[-2] if len(parts) > 1 else "library",
    }


def models_body(specs: Sequence[ModelSpec]) -> bytes:
    """`GET /v1/models`."""
    return _encode({"object": "list", "data": [model_object(spec) for spec in specs]}) + b"\n"


def model_body(spec: ModelSpec, id: str) -> bytes:
    """`GET /v1/models/{model}`."""
    return _encode(model_object(spec, id=id)) + b"\n"
