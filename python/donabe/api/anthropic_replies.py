"""The Anthropic dialect, replies: `/v1/messages` whole and as server-sent events, token counts, errors.

A stream is message_start, then for each block content_block_start, deltas and content_block_stop, then message_delta
with the stop reason and message_stop. A ping follows the start of the first block. A failure is an `error` event.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import msgspec

from donabe.api.blocks import Block, BlockList
from donabe.api.dialect import JSON, PLAIN_JSON, REQUEST_ID, SSE, ErrorStyle, Timing
from donabe.api.native_replies import arguments_object
from donabe.errors import DonabeError
from donabe.types import Delta, Finished, FinishReason, JsonObject, ToolCall, Usage

_encode = msgspec.json.Encoder().encode

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}


def error_object(status: int, error: DonabeError) -> JsonObject:
    """`{"type": "error", "error": {...}, "request_id": ...}`."""
    message = error.message or type(error).__name__
    if error.hint:
        message = f"{message} ({error.hint})"
    return {
        "type": "error",
        "error": {"type": _ERROR_TYPES.get(status, "api_error"), "message": message},
        "request_id": REQUEST_ID.get() or "req_" + secrets.token_hex(12),
    }


def _error_body(status: int, error: DonabeError) -> bytes:
    return _encode(error_object(status, error))


ANTHROPIC_ERRORS = ErrorStyle(JSON, _error_body)


def usage_object(usage: Usage) -> JsonObject:
    """Input tokens are those that had to be evaluated; the prefix cache's are counted beside them."""
    return {
        "input_tokens": usage.n_prompt_tokens - usage.n_cached_tokens,
        "output_tokens": usage.n_output_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.n_cached_tokens,
    }


def stop_reason(event: Finished, stop_sequences: Sequence[str], *, has_calls: bool) -> tuple[str, str | None]:
    """(stop_reason, stop_sequence)."""
    if event.reason is FinishReason.LENGTH:
        return "max_tokens", None
    if has_calls:
        return "tool_use", None
    if event.stop_sequence and event.stop_sequence in stop_sequences:
        return "stop_sequence", event.stop_sequence
    return "end_turn", None


def _new_call_id() -> str:
    return "toolu_" + secrets.token_hex(12)


def _event(name: str, value: JsonObject) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + _encode({"type": name, **value}) + b"\n\n"


class MessageEventWriter:
    """The events of one streamed message.

    Args:
        n_estimated_tokens: Input tokens reported before the real count is known.
    """

    media_type = SSE

    def __init__(self, model: str, *, n_estimated_tokens: int, stop_sequences: Sequence[str] = ()) -> None:
        self._model = model
        self._n_estimated_tokens = n_estimated_tokens
        self._stop_sequences = stop_sequences
        self._is_started = False
        self._block = ""  # kind of the open block
        self._index = -1
        self._n_calls = 0
        self._text_head = b""

    def delta(self, event: Delta) -> bytes:
        if self._block == "text" and not (event.thinking or event.tool_calls):
            return self._text_head + _encode(event.text) + b"}}\n\n" if event.text else b""
        parts = [] if self._is_started else [self._start()]
        if event.thinking:
            parts.append(self._open("thinking", {"type": "thinking", "thinking": "", "signature": ""}))
            parts.append(self._delta({"type": "thinking_delta", "thinking": event.thinking}))
        if event.text:
            parts.append(self._open("text", {"type": "text", "text": ""}))
            parts.append(self._delta({"type": "text_delta", "text": event.text}))
        parts += [self._call(call) for call in event.tool_calls]
        return b"".join(parts)

    def _start(self) -> bytes:
        self._is_started = True
        message: JsonObject = {
            "id": "msg_" + secrets.token_hex(12),
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": self._n_estimated_tokens, "output_tokens": 0},
        }
        return _event("message_start", {"message": message})

    def _open(self, kind: str, block: JsonObject) -> bytes:
        """Begin a block unless one of its kind is open; the one before it is closed."""
        if self._block == kind and kind != "tool_use":
            return b""
        closing = self._close()
        self._block = kind
        self._index += 1
        head = {"type": "content_block_delta", "index": self._index}
        self._text_head = (
            b"event: content_block_delta\ndata: " + _encode(head)[:-1] + b',"delta":{"type":"text_delta","text":'
        )
        ping = b"" if self._index else _event("ping", {})
        return closing + _event("content_block_start", {"index": self._index, "content_block": block}) + ping

    def _delta(self, delta: JsonObject) -> bytes:
        return _event("content_block_delta", {"index": self._index, "delta": delta})

    def _close(self) -> bytes:
        if not self._block:
            return b""
        self._block = ""
        return _event("content_block_stop", {"index": self._index})

    def _call(self, call: ToolCall) -> bytes:
        arguments_object(call)  # an object, or an error instead of a broken block
        self._n_calls += 1
        block = {"type": "tool_use", "id": call.id or _new_call_id(), "name": call.name, "input": {}}
        opening = self._open("tool_use", block)
        delta = self._delta({"type": "input_json_delta", "partial_json": call.arguments or "{}"})
        return opening + delta + self._close()

    def finished(self, event: Finished, timing: Timing) -> bytes:
        opening = b"" if self._is_started else self._start()
        reason, sequence = stop_reason(event, self._stop_sequences, has_calls=self._n_calls > 0)
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        return (
            opening
            + self._close()
            + _event("message_delta", {"delta": delta, "usage": usage_object(event.usage)})
            + _event("message_stop", {})
        )

    def failed(self, status: int, error: DonabeError) -> bytes:
        return b"event: error\ndata: " + _encode(error_object(status, error)) + b"\n\n"


class MessageCollector:
    """One whole message."""

    media_type = PLAIN_JSON

    def __init__(self, model: str, *, stop_sequences: Sequence[str] = ()) -> None:
        self._model = model
        self._stop_sequences = stop_sequences
        self._blocks = BlockList()
        self._finished: Finished | None = None

    def delta(self, event: Delta) -> None:
        self._blocks.add(event)

    def finished(self, event: Finished, timing: Timing) -> None:
        self._finished = event

    def body(self) -> bytes:
        blocks = self._blocks.finish()
        finished = self._finished
        assert finished is not None  # the server collects until the terminal event
        has_calls = any(block.kind == "call" for block in blocks)
        reason, sequence = stop_reason(finished, self._stop_sequences, has_calls=has_calls)
        reply = {
            "id": "msg_" + secrets.token_hex(12),
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [_block_object(block) for block in blocks],
            "stop_reason": reason,
            "stop_sequence": sequence,
            "usage": usage_object(finished.usage),
        }
        return _encode(reply) + b"\n"


def _block_object(block: Block) -> JsonObject:
    if block.call is not None:
        call = block.call
        return {
            "type": "tool_use",
            "id": call.id or _new_call_id(),
            "name": call.name,
            "input": arguments_object(call),
        }
    if block.kind == "thinking":
        return {"type": "thinking", "thinking": block.text, "signature": ""}
    return {"type": "text", "text": block.text}


def count_body(n_tokens: int) -> bytes:
    """`POST /v1/messages/count_tokens`."""
    return _encode({"input_tokens": n_tokens}) + b"\n"
