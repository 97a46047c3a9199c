"""Handlers of `/v1/*` in the OpenAI dialect, and of the rerank and health routes other servers share. No logic here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from donabe.api import native, native_replies, openai_completions, openai_replies, openai_requests
from donabe.api.dialect import PLAIN_JSON, SSE
from donabe.api.openai_replies import OPENAI_ERRORS
from donabe.errors import InvalidRequestError, ModelNotFoundError
from donabe.server.admission import scheduling_for
from donabe.server.answers import AnswerResponse, ValueResponse, write_vectors
from donabe.server.bodies import read_body
from donabe.server.errors import check_strict, naming, warning_headers
from donabe.service.calls import GenerateCall, ModelCall
from donabe.service.inference import Inference, Reply
from donabe.service.merging import MergedReply, begin_all
from donabe.service.models import Models
from donabe.store.names import ModelName

AnyCall = TypeVar("AnyCall", bound=ModelCall)


class OpenAIRoutes:
    """The OpenAI API over the use cases. Arguments as `NativeRoutes`."""

    def __init__(self, inference: Inference, models: Models, *, max_body_bytes: int, is_strict: bool = False) -> None:
        self._inference = inference
        self._models = models
        self._max_body_bytes = max_body_bytes
        self._is_strict = is_strict

    async def chat_completions(self, request: Request) -> Response:
        decoded = openai_requests.decode_chat_completion(await self._body(request))
        self._check_strict(decoded.warnings)
        call = _for_caller(request, decoded.call, salt=decoded.cache_salt)

        async def begin() -> Reply:
            return await naming(self._inference.chat(call), call.model)

        return AnswerResponse(
            begin,
            style=OPENAI_ERRORS,
            writer=(
                (lambda _: openai_replies.ChatChunkWriter(call.model, include_usage=decoded.include_usage, n=call.n))
                if decoded.call.is_streamed
                else None
            ),
            collector=lambda _: openai_replies.ChatCompletionCollector(
                call.model, n=call.n, want_logprobs=call.logprobs
            ),
            headers=warning_headers(decoded.warnings),
        )

    async def completions(self, request: Request) -> Response:
        decoded = openai_requests.decode_completion(await self._body(request))
        self._check_strict(decoded.warnings)
        calls = [_for_caller(request, call, salt=decoded.cache_salt) for call in decoded.calls]
        model = calls[0].model

        async def begin() -> Reply:
            return await naming(self._generate_all(calls, decoded.n), model)

        notes: list[str] = []

        async def load() -> bytes:
            notes.extend(await naming(self._inference.load(calls[0]), model))
            return openai_completions.loaded_completion(model, is_streamed=calls[0].is_streamed)

        if len(calls) == 1 and not calls[0].prompt and not calls[0].suffix:
            headers = warning_headers(decoded.warnings)
            media_type = SSE if calls[0].is_streamed else PLAIN_JSON
            return ValueResponse(load, style=OPENAI_ERRORS, media_type=media_type, headers=headers, notes=notes)
        return AnswerResponse(
            begin,
            style=OPENAI_ERRORS,
            writer=(
                (
                    lambda _: openai_completions.CompletionChunkWriter(
                        model,
                        include_usage=decoded.include_usage,
                        n_per_prompt=decoded.n,
                        logprobs=decoded.n_logprobs is not None,
                        text_starts=decoded.text_starts,
                    )
                )
                if calls[0].is_streamed
                else None
            ),
            collector=lambda _: openai_completions.CompletionCollector(
                model, n=decoded.n, n_logprobs=decoded.n_logprobs, text_starts=decoded.text_starts
            ),
            headers=warning_headers(decoded.warnings),
        )

    async def _generate_all(self, calls: list[GenerateCall], n_per_call: int) -> Reply:
        """One reply for all prompts."""
        if len(calls) == 1:
            return await self._inference.generate(calls[0])
        return MergedReply(await begin_all(self._inference.generate(call) for call in calls), n_per_call)

    async def embeddings(self, request: Request) -> Response:
        decoded = openai_requests.decode_embedding(await self._body(request))
        self._check_strict(decoded.warnings)
        call = _for_caller(request, decoded.call)
        if not call.model.strip():
            raise ModelNotFoundError(f"model '{call.model}' not found", name=call.model)
        notes: list[str] = []

        async def compute() -> bytes:
            reply = await naming(self._inference.embed(call), call.model)
            notes.extend(reply.warnings)
            result = reply.result
            assert result is not None  # the dialect refuses requests without input
            return await write_vectors(
                lambda: openai_replies.embedding_body(call.model, result, is_base64=decoded.is_base64), result
            )

        return _value(compute, decoded.warnings, notes)

    async def transcriptions(self, request: Request) -> Response:
        """Refused by name, so that a client learns why: no model here hears."""
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise InvalidRequestError(
                "failed to parse multipart form: request Content-Type isn't multipart/form-data", field="Content-Type"
            )
        raise InvalidRequestError("audio is not supported", field="file", hint="send the text itself to a chat")

    async def models(self, request: Request) -> Response:
        return Response(openai_replies.models_body(await self._models.installed()), media_type=PLAIN_JSON)

    async def model(self, request: Request) -> Response:
        name = request.path_params["model"]
        if not name:
            raise HTTPException(404)  # the list's path with a slash too many
        try:
            spec = await self._models.find(name)
        except ModelNotFoundError as error:
            short = ModelName.parse(name).short
            raise ModelNotFoundError(f"model '{short}' not found", name=short, hint=error.hint) from None
        return Response(openai_replies.model_body(spec, name), media_type=PLAIN_JSON)

    async def rerank(self, request: Request) -> Response:
        decoded = native.decode_rerank(await self._body(request))
        self._check_strict(decoded.warnings)
        call = _for_caller(request, decoded.call)

        notes: list[str] = []

        async def compute() -> bytes:
            found = await naming(self._inference.rerank(call), call.model)
            notes.extend(found.warnings)
            return native_replies.rerank_body(decoded, found.value)

        return _value(compute, decoded.warnings, notes)

    async def health(self, request: Request) -> Response:
        return Response(msgspec.json.encode({"status": "ok"}), media_type=PLAIN_JSON)

    async def _body(self, request: Request) -> bytes:
        return await read_body(request, self._max_body_bytes)

    def _check_strict(self, warnings: tuple[str, ...]) -> None:
        check_strict(warnings, is_strict=self._is_strict)


def _for_caller(request: Request, call: AnyCall, *, salt: str = "") -> AnyCall:
    """The call as this caller's. His own salt divides the caller's share of the cache further, never joins others'."""
    scheduling = scheduling_for(request, call.model)
    if salt:
        scheduling = msgspec.structs.replace(scheduling, cache_salt=f"{scheduling.cache_salt}/{salt}")
    return replace(call, scheduling=scheduling)


def _value(compute: Callable[[], Awaitable[bytes]], warnings: tuple[str, ...], notes: Sequence[str] = ()) -> Response:
    headers = warning_headers(warnings)
    return ValueResponse(compute, style=OPENAI_ERRORS, media_type=PLAIN_JSON, headers=headers, notes=notes)
