"""Handlers of the routes that clients of llama.cpp's server and of vLLM expect beside `/v1`. No logic here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response

from donabe.api import llamacpp, tokens, vectors
from donabe.api.dialect import PLAIN_JSON
from donabe.api.openai_replies import OPENAI_ERRORS
from donabe.server.admission import scheduling_for
from donabe.server.answers import AnswerResponse, ValueResponse, write_vectors
from donabe.server.bodies import read_body
from donabe.server.errors import check_strict, naming, warning_headers
from donabe.server.version import own_version
from donabe.service.calls import ClassifyCall, EmbedCall, ModelCall
from donabe.service.inference import Inference, Reply
from donabe.service.models import Models

AnyCall = TypeVar("AnyCall", bound=ModelCall)


class LlamaCppRoutes:
    """Infill, tokens, token rows and classes over the use cases. A request that names no model gets the one in use."""

    def __init__(self, inference: Inference, models: Models, *, max_body_bytes: int, is_strict: bool = False) -> None:
        self._inference = inference
        self._models = models
        self._max_body_bytes = max_body_bytes
        self._is_strict = is_strict

    async def infill(self, request: Request) -> Response:
        decoded = llamacpp.decode_infill(await read_body(request, self._max_body_bytes))
        check_strict(decoded.warnings, is_strict=self._is_strict)
        call = await self._with_model(request, decoded.call)

        async def begin() -> Reply:
            return await naming(self._inference.generate(call), call.model)

        return AnswerResponse(
            begin,
            style=OPENAI_ERRORS,
            writer=(lambda _: llamacpp.InfillWriter()) if decoded.call.is_streamed else None,
            collector=lambda _: llamacpp.InfillCollector(call.model),
            headers=warning_headers(decoded.warnings),
        )

    async def tokenize(self, request: Request) -> Response:
        decoded = tokens.decode_tokenize(await read_body(request, self._max_body_bytes))
        check_strict(decoded.warnings, is_strict=self._is_strict)
        call = await self._with_model(request, decoded.call)

        async def compute(notes: list[str]) -> bytes:
            work = self._inference.tokenize(
                call,
                decoded.text,
                add_special=decoded.add_special,
                parse_special=decoded.parse_special,
                with_pieces=decoded.with_pieces or decoded.with_texts,
            )
            found = await naming(work, call.model)
            notes.extend(found.warnings)
            return tokens.tokenize_body(decoded, found.value.ids, found.value.n_ctx, found.value.pieces)

        return _value(compute, decoded.warnings)

    async def detokenize(self, request: Request) -> Response:
        decoded = tokens.decode_detokenize(await read_body(request, self._max_body_bytes))
        check_strict(decoded.warnings, is_strict=self._is_strict)
        call = await self._with_model(request, decoded.call)

        async def compute(notes: list[str]) -> bytes:
            found = await naming(self._inference.detokenize(call, list(decoded.tokens)), call.model)
            notes.extend(found.warnings)
            return tokens.detokenize_body(found.value)

        return _value(compute, decoded.warnings)

    async def apply_template(self, request: Request) -> Response:
        decoded = tokens.decode_apply_template(await read_body(request, self._max_body_bytes))
        check_strict(decoded.warnings, is_strict=self._is_strict)
        call = await self._with_model(request, decoded.call)

        async def compute(notes: list[str]) -> bytes:
            found = await naming(self._inference.render(call), call.model)
            notes.extend(found.warnings)
            return tokens.template_body(found.value.prompt)

        return _value(compute, decoded.warnings)

    async def props(self, request: Request) -> Response:
        name = request.query_params.get("model", "").strip() or await self._models.name_in_use()

        async def compute(_notes: list[str]) -> bytes:
            description = await naming(self._models.show(name), name)
            loaded = (model for model in await self._models.loaded() if model.spec.name == description.spec.name)
            return llamacpp.props_body(description, next(loaded, None), version=own_version())

        return _value(compute, ())

    async def embedding(self, request: Request) -> Response:
        decoded = vectors.decode_token_embedding(await read_body(request, self._max_body_bytes))
        check_strict(decoded.warnings, is_strict=self._is_strict)
        call = await self._with_model(request, decoded.call)

        async def compute(notes: list[str]) -> bytes:
            reply = await naming(self._inference.embed(call), call.model)
            notes.extend(reply.warnings)
            result = reply.result
            assert result is not None  # requests without input are refused
            return await write_vectors(lambda: vectors.token_embedding_body(result), result)

        return _value(compute, decoded.warnings)

    async def classify(self, request: Request) -> Response:
        decoded = vectors.decode_classify(await read_body(request, self._max_body_bytes))
        check_strict(decoded.warnings, is_strict=self._is_strict)
        call = await self._with_model(request, decoded.call)

        async def compute(notes: list[str]) -> bytes:
            found = await naming(self._inference.classify(call), call.model)
            notes.extend(found.warnings)
            return vectors.classify_body(call.model, found.value)

        return _value(compute, decoded.warnings)

    async def _with_model(self, request: Request, call: AnyCall) -> AnyCall:
        for_vectors = isinstance(call, (EmbedCall, ClassifyCall))
        model = call.model.strip() or await self._models.name_in_use(for_vectors=for_vectors)
        return replace(call, model=model, scheduling=scheduling_for(request, model))


def _value(compute: Callable[[list[str]], Awaitable[bytes]], warnings: tuple[str, ...]) -> Response:
    """A response whose warnings are those of the request and those that `compute` adds to its list."""
    notes: list[str] = []
    headers = warning_headers(warnings)
    return ValueResponse(
        lambda: compute(notes), style=OPENAI_ERRORS, media_type=PLAIN_JSON, headers=headers, notes=notes
    )
