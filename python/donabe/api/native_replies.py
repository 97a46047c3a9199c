"""The native dialect, replies: events and model values to the JSON of `/api/*`.

Streamed events are the hot path: one call, one small `bytes`, with the parts that never change built once. Keys come in
the order clients have always seen; absent means zero or empty.
"""

from __future__ import annotations

import random
import string
from typing import Any

import msgspec

from donabe.api.dialect import JSON, NDJSON, ErrorStyle, Timing
from donabe.api.durations import TimestampWriter
from donabe.api.float_text import float_rows, row_texts
from donabe.api.native import NativeRerank
from donabe.errors import ContextLengthError, DonabeError, RunnerError
from donabe.types import (
    Delta,
    EmbedResult,
    Finished,
    JsonObject,
    RenderedPrompt,
    RerankResult,
    TokenLogprob,
    ToolCall,
    Usage,
)

_encode = msgspec.json.Encoder().encode
_timestamps = TimestampWriter()
_ID_ALPHABET = string.ascii_lowercase + string.digits

CONTEXT_TOO_SHORT = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, adjust the"
    " context length in settings, or use a model with a longer context length"
)


def error_body(_status: int, error: DonabeError) -> bytes:
    """`{"error": ...}`, with the hint beside it when there is one."""
    body: JsonObject = {"error": error.message or type(error).__name__}
    if isinstance(error, ContextLengthError):
        body = {"error": CONTEXT_TOO_SHORT, "prompt_tokens": error.n_prompt_tokens, "context_length": error.n_ctx}
    if error.hint:
        body["hint"] = error.hint
    return _encode(body)


NATIVE_ERRORS = ErrorStyle(JSON, error_body)


def nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def metrics(usage: Usage, timing: Timing) -> JsonObject:
    """The counts and times of a final event; zero values are left out."""
    values = {
        "total_duration": nanoseconds(timing.total_s),
        "load_duration": max(1, nanoseconds(timing.load_s)),
        "prompt_eval_count": usage.n_prompt_tokens,
        "prompt_eval_duration": nanoseconds(usage.prompt_s),
        "eval_count": usage.n_output_tokens,
        "eval_duration": nanoseconds(usage.output_s),
        "prompt_cached_count": usage.n_cached_tokens,
        "queue_duration": nanoseconds(usage.queue_s),
    }
    found: JsonObject = {key: value for key, value in values.items() if value}
    if usage.n_truncated_tokens or usage.n_dropped_messages:
        found["truncated"] = {"tokens": usage.n_truncated_tokens, "messages": usage.n_dropped_messages}
    return found


def logprob_object(entry: TokenLogprob) -> JsonObject:
    """One token's log probability; `bytes` are those of the text."""
    found: JsonObject = {"token": entry.token, "logprob": entry.logprob}
    if raw := entry.bytes_ or entry.token.encode():
        found["bytes"] = list(raw)
    if entry.top:
        found["top_logprobs"] = [logprob_object(alternative) for alternative in entry.top]
    return found


def new_call_id() -> str:
    return "call_" + "".join(random.choices(_ID_ALPHABET, k=8))


def arguments_object(call: ToolCall) -> JsonObject:
    """A call's arguments, decoded.

    Raises:
        RunnerError: They are not a JSON object.
    """
    try:
        return msgspec.json.decode(call.arguments or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise RunnerError(f'the model wrote invalid tool call arguments for "{call.name}": {error}') from None


def tool_call_object(call: ToolCall, index: int, *, with_id: bool = True) -> JsonObject:
    """A complete call; `index` counts the calls of the answer."""
    function = {"index": index, "name": call.name, "arguments": arguments_object(call)}
    if not with_id and not call.id:
        return {"function": function}
    return {"id": call.id or new_call_id(), "function": function}


class _NativeWriter:
    """The head of every event of one answer."""

    media_type = NDJSON

    def __init__(self, model: str) -> None:
        self._head = b'{"model":' + _encode(model) + b',"created_at":"'
        self._n_calls = 0

    def _start(self) -> bytes:
        return self._head + _timestamps.now().encode() + b'",'

    def _calls(self, calls: tuple[ToolCall, ...], *, with_id: bool) -> list[JsonObject]:
        objects = [tool_call_object(call, self._n_calls + i, with_id=with_id) for i, call in enumerate(calls)]
        self._n_calls += len(calls)
        return objects

    def failed(self, status: int, error: DonabeError) -> bytes:
        return error_body(status, error) + b"\n"


def _rest(values: JsonObject) -> bytes:
    """More members of an object that is being written: `,"a":1`, or nothing."""
    return b"," + _encode(values)[1:-1] if values else b""


def _final_values(event: Finished, timing: Timing) -> JsonObject:
    values: JsonObject = {"done": True, "done_reason": event.reason.value}
    if event.context:
        values["context"] = event.context
    values.update(metrics(event.usage, timing))
    if event.warnings:
        values["warnings"] = event.warnings
    return values


class GenerateWriter(_NativeWriter):
    """Streamed events of `/api/generate`."""

    def delta(self, event: Delta) -> bytes:
        if event.thinking or event.tool_calls or event.logprobs:
            return self._start() + b'"response":' + _encode(event.text) + self._extras(event) + b"}\n"
        if not event.text:  # a token that is not a whole character yet, or a special one
            return b""
        return self._start() + b'"response":' + _encode(event.text) + b',"done":false}\n'

    def _extras(self, event: Delta) -> bytes:
        values: JsonObject = {}
        if event.thinking:
            values["thinking"] = event.thinking
        values["done"] = False
        if event.tool_calls:
            values["tool_calls"] = self._calls(event.tool_calls, with_id=False)
        if event.logprobs:
            values["logprobs"] = [logprob_object(entry) for entry in event.logprobs]
        return _rest(values)

    def finished(self, event: Finished, timing: Timing) -> bytes:
        return self._start() + b'"response":""' + _rest(_final_values(event, timing)) + b"}\n"


class ChatWriter(_NativeWriter):
    """Streamed events of `/api/chat`."""

    def delta(self, event: Delta) -> bytes:
        has_extras = event.thinking or event.tool_calls or event.logprobs
        if not event.text and not has_extras:
            return b""
        start = self._start() + b'"message":{"role":"assistant","content":' + _encode(event.text)
        if not has_extras:
            return start + b'},"done":false}\n'
        message: JsonObject = {}
        if event.thinking:
            message["thinking"] = event.thinking
        if event.tool_calls:
            message["tool_calls"] = self._calls(event.tool_calls, with_id=True)
        values: JsonObject = {"done": False}
        if event.logprobs:
            values["logprobs"] = [logprob_object(entry) for entry in event.logprobs]
        return start + _rest(message) + b"}" + _rest(values) + b"}\n"

    def finished(self, event: Finished, timing: Timing) -> bytes:
        message = b'"message":{"role":"assistant","content":""}'
        return self._start() + message + _rest(_final_values(event, timing)) + b"}\n"


class _NativeCollector:
    """Gathers the events of one answer."""

    media_type = JSON

    def __init__(self, model: str) -> None:
        self._head: JsonObject = {"model": model}
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._calls: list[JsonObject] = []
        self._logprobs: list[JsonObject] = []
        self._final: JsonObject = {"done": False}
        self._with_id = True

    def delta(self, event: Delta) -> None:
        self._text.append(event.text)
        self._thinking.append(event.thinking)
        for call in event.tool_calls:
            self._calls.append(tool_call_object(call, len(self._calls), with_id=self._with_id))
        self._logprobs.extend(logprob_object(entry) for entry in event.logprobs)

    def finished(self, event: Finished, timing: Timing) -> None:
        self._final = _final_values(event, timing)

    def _answer(self, content_key: str) -> JsonObject:
        answer: JsonObject = {content_key: "".join(self._text)}
        if thinking := "".join(self._thinking):
            answer["thinking"] = thinking
        if self._calls:
            answer["tool_calls"] = self._calls
        return answer

    def _tail(self) -> JsonObject:
        return {**({"logprobs": self._logprobs} if self._logprobs else {}), **self._final}


class GenerateCollector(_NativeCollector):
    """The single reply of `/api/generate`."""

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self._with_id = False

    def body(self) -> bytes:
        return _encode({**self._head, "created_at": _timestamps.now(), **self._answer("response"), **self._tail()})


class ChatCollector(_NativeCollector):
    """The single reply of `/api/chat`."""

    def body(self) -> bytes:
        message = {"role": "assistant", **self._answer("content")}
        return _encode({**self._head, "created_at": _timestamps.now(), "message": message, **self._tail()})


def loaded_body(model: str, *, is_chat: bool, reason: str) -> bytes:
    """The reply to a request that only loads or unloads."""
    answer: JsonObject = {"message": {"role": "assistant", "content": ""}} if is_chat else {"response": ""}
    return _encode({"model": model, "created_at": _timestamps.now(), **answer, "done": True, "done_reason": reason})


def rendered_body(model: str, prompt: RenderedPrompt, *, is_chat: bool) -> bytes:
    """The reply that shows the prompt and its tokens instead of running it."""
    answer: JsonObject = {"message": {"role": "", "content": ""}} if is_chat else {"response": ""}
    info: JsonObject = {"rendered_template": prompt.prompt, "tokens": prompt.tokens}
    if prompt.n_images:
        info["image_count"] = prompt.n_images
    return _encode({"model": model, "created_at": _timestamps.now(), **answer, "done": False, "_debug_info": info})


def embed_body(model: str, result: EmbedResult | None, *, load_s: float, total_s: float) -> bytes:
    """The reply of `/api/embed`."""
    head = b'{"model":' + _encode(model) + b',"embeddings":['
    if result is None:
        return head + b"]}"
    rows = b",".join(row_texts(float_rows(result)))
    tail: JsonObject = {"total_duration": nanoseconds(total_s), "load_duration": max(1, nanoseconds(load_s))}
    if result.n_prompt_tokens:
        tail["prompt_eval_count"] = result.n_prompt_tokens
    if result.truncated:
        tail["truncated"] = result.truncated
    return head + rows + b"]" + _rest(tail) + b"}"


def embeddings_body(result: EmbedResult | None) -> bytes:
    """The reply of the older `/api/embeddings`."""
    row = [] if result is None else float_rows(result)[0].tolist()
    return _encode({"embedding": row})


def rerank_body(request: NativeRerank, result: RerankResult) -> bytes:
    """The reply of the rerank routes: the best first, in the shape rerank clients share."""
    order = sorted(range(len(result.scores)), key=lambda i: -result.scores[i])
    results = []
    for i in order[: request.top_n or None]:
        entry: JsonObject = {"index": i, "relevance_score": result.scores[i]}
        if request.return_documents:
            entry["document"] = {"text": request.call.documents[i]}
        results.append(entry)
    usage = {"prompt_tokens": result.n_prompt_tokens, "total_tokens": result.n_prompt_tokens}
    return _encode({"object": "list", "model": request.call.model, "results": results, "usage": usage})
