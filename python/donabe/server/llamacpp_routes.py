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
from donabe.service.calls import ChatCall, ClassifyCall, EmbedCall, ModelCall
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
            return await self._inference.generate(call)

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

        async def compute() -> bytes:
            found, n_ctx = await self._inference.tokenize(
                ModelCall(model=call.model, scheduling=call.scheduling),
                decoded.text,
                add_special=decoded.add_special,
                parse_special=decoded.parse_special,
            )
            if isinstance(call, ChatCall):
                _spec, prompt = await self._inference.render(call)
                found = list(prompt.tokens)
            is_asked = decoded.with_pieces or decoded.with_texts
            pieces = await self._inference.pieces(call, found) if is_asked else []
            return tokens.tokenize_body(decoded, found, n_ctx, pieces)

        return _value(compute, decoded.warnings)

    async def detokenize(self, request: Request) -> Response:
        decoded = tokens.decode_detokenize(await read_body(request, self._max_body_bytes))
        check_strict(decoded.warnings, is_strict=self._is_strict)
        call = await self._with_model(request, decoded.call)

        async def compute() -> bytes:
            return tokens.detokenize_body(await self._inference.detokenize(call, list(decoded.tokens)))

        return _value(compute, decoded.warnings)

    async def apply_template(self, request: Request) -> Response:
        decoded = tokens.decode_apply_template(await read_body(request, self._max_body_bytes))
        check_strict(decoded.warnings, is_strict=self._is_strict)
        call = await self._with_model(request, decoded.call)

        async def compute() -> bytes:
            _spec, prompt = await self._inference.render(call)
            return tokens.template_body(prompt.prompt)

        return _value(compute, decoded.warnings)

    async def props(self, request: Request) -> Response:
        name = request.query_params.get("model", "").strip() or await self._models.name_in_use()

        async def compute() -> bytes:
            description = await naming(self._models.show(name), name)
            loaded = (model for model in await self._models.loaded() if model.spec.name == description.spec.name)
            return llamacpp.props_body(description, next(loaded, None), version=own_version())

        return _value(compute, ())

    async def embedding(self, request: Request) -> Response:
        decoded = vectors.decode_token_embedding(await read_body(request, self._max_body_bytes))
        check_strict(decoded.warnings, is_strict=self._is_strict)
        call = await self._with_model(request, decoded.call)

        async def compute() -> bytes:
            reply = await self._inference.embed(call)
            result = reply.result
            assert result is not None  # requests without input are refused
            return await write_vectors(lambda: vectors.token_embedding_body(result), result)

        return _value(compute, decoded.warnings)

    async def classify(self, request: Request) -> Response:
        decoded = vectors.decode_classify(await read_body(request, self._max_body_bytes))
        check_strict(decoded.warnings, is_strict=self._is_strict)
        call = await self._with_model(request, decoded.call)

        async def compute() -> bytes:
            return vectors.classify_body(call.model, await self._inference.classify(call))

        return _value(compute, decoded.warnings)

    async def _with_model(self, request: Request, call: AnyCall) -> AnyCall:
        for_vectors = isinstance(call, (EmbedCall, ClassifyCall))
        model = call.model.strip() or await self._models.name_in_use(for_vectors=for_vectors)
        return replace(call, model=model, scheduling=scheduling_for(request, model))


def _value(compute: Callable[[], Awaitable[bytes]], warnings: tuple[str, ...]) -> Response:
    return ValueResponse(compute, style=OPENAI_ERRORS, media_type=PLAIN_JSON, headers=warning_headers(warnings))
