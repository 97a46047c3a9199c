"""Handlers of `/v1/messages` in the Anthropic dialect. No logic here."""

from __future__ import annotations

from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from donabe.api import anthropic_replies, anthropic_requests
from donabe.api.anthropic_replies import ANTHROPIC_ERRORS
from donabe.api.dialect import PLAIN_JSON
from donabe.server.admission import scheduling_for
from donabe.server.answers import AnswerResponse, ValueResponse
from donabe.server.bodies import read_body
from donabe.server.errors import check_strict, naming, warning_headers
from donabe.service.inference import Inference, Reply

_STREAM_HEADERS = [(b"cache-control", b"no-cache")]


class AnthropicRoutes:
    """The Anthropic API over the use cases. Arguments as `NativeRoutes`."""

    def __init__(self, inference: Inference, *, max_body_bytes: int, is_strict: bool = False) -> None:
        self._inference = inference
        self._max_body_bytes = max_body_bytes
        self._is_strict = is_strict

    async def messages(self, request: Request) -> Response:
        decoded = await self._decode(request)
        call = replace(decoded.call, scheduling=scheduling_for(request, decoded.call.model))
        stops = call.options.get("stop", ())

        async def begin() -> Reply:
            return await naming(self._inference.chat(call), call.model)

        def writer(_reply: Reply) -> anthropic_replies.MessageEventWriter:
            return anthropic_replies.MessageEventWriter(
                call.model, n_estimated_tokens=decoded.n_estimated_tokens, stop_sequences=stops
            )

        headers = warning_headers(decoded.warnings)
        if decoded.call.is_streamed:
            return AnswerResponse(begin, style=ANTHROPIC_ERRORS, writer=writer, headers=[*_STREAM_HEADERS, *headers])
        return AnswerResponse(
            begin,
            style=ANTHROPIC_ERRORS,
            collector=lambda _: anthropic_replies.MessageCollector(call.model, stop_sequences=stops),
            headers=headers,
        )

    async def count_tokens(self, request: Request) -> Response:
        decoded = await self._decode(request, is_counting=True)

        call = decoded.call

        notes: list[str] = []

        async def compute() -> bytes:
            found = await naming(self._inference.render(call), call.model)
            notes.extend(found.warnings)
            return anthropic_replies.count_body(len(found.value.tokens))

        headers = warning_headers(decoded.warnings)
        return ValueResponse(compute, style=ANTHROPIC_ERRORS, media_type=PLAIN_JSON, headers=headers, notes=notes)

    async def _decode(self, request: Request, *, is_counting: bool = False) -> anthropic_requests.AnthropicMessages:
        body = await read_body(request, self._max_body_bytes)
        decoded = anthropic_requests.decode_messages_request(body, is_counting=is_counting)
        check_strict(decoded.warnings, is_strict=self._is_strict)
        return decoded
