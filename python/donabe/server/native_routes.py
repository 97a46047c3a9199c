"""Handlers of `/api/*`: read the body, let the dialect decode it, hand the use case to a response. No logic here.

Model names that are not found are reported in each route's own words, because clients match them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from donabe.api import native, native_models, native_replies
from donabe.api.dialect import JSON, NDJSON, PLAIN_JSON
from donabe.api.native_replies import NATIVE_ERRORS
from donabe.errors import ContextLengthError, InvalidNameError, InvalidRequestError, ModelNotFoundError
from donabe.registry.catalogue import recommended
from donabe.server.admission import scheduling_for
from donabe.server.answers import AnswerResponse, LinesResponse, ValueResponse, write_vectors
from donabe.server.bodies import read_body
from donabe.server.errors import check_strict, naming, warning_headers
from donabe.server.version import own_version
from donabe.service.calls import ChatCall, GenerateCall, ModelCall
from donabe.service.inference import Inference, Reply
from donabe.service.models import Models, modelfile_text, overlay
from donabe.store.names import ModelName, split_where

# The level of the reference API this server implements; clients compare versions.
API_VERSION = "0.33.0"

# This client lists models by their basename, which a model and its copies share.
_SHOWS_BASENAME = "GitHubCopilotChat/"

AnyCall = TypeVar("AnyCall", bound=ModelCall)


class NativeRoutes:
    """The native API over the use cases.

    Args:
        max_body_bytes: Cap of request bodies.
        is_strict: Refuse unknown fields and options instead of reporting them.
    """

    def __init__(self, inference: Inference, models: Models, *, max_body_bytes: int, is_strict: bool = False) -> None:
        self._inference = inference
        self._models = models
        self._max_body_bytes = max_body_bytes
        self._is_strict = is_strict

    # --- the server itself -------------------------------------------------------------------------------------------

    async def banner(self, request: Request) -> Response:
        return Response(b"Ollama is running", media_type="text/plain")

    async def version(self, request: Request) -> Response:
        return _json({"version": API_VERSION, "donabe": own_version()})

    async def status(self, request: Request) -> Response:
        return _json({"cloud": {"disabled": True, "source": "env"}})

    # --- inference ---------------------------------------------------------------------------------------------------

    async def generate(self, request: Request) -> Response:
        decoded = native.decode_generate(await self._body(request))
        name = decoded.call.model
        if not name.strip():
            raise ModelNotFoundError(f"model '{name}' not found", name=name)
        return self._answer(request, decoded, is_chat=False)

    async def chat(self, request: Request) -> Response:
        return self._answer(request, native.decode_chat(await self._body(request)), is_chat=True)

    def _answer(self, request: Request, decoded: native.NativeInference, *, is_chat: bool) -> Response:
        self._check_strict(decoded.warnings)
        call, headers = self._for_caller(request, decoded.call), warning_headers(decoded.warnings)
        name = call.model
        notes: list[str] = []

        async def load() -> bytes:
            if call.keep_alive_s == 0:
                await naming(self._inference.unload(name), name)
                return native_replies.loaded_body(name, is_chat=is_chat, reason="unload")
            notes.extend(await naming(self._inference.load(call), name))
            return native_replies.loaded_body(name, is_chat=is_chat, reason="load")

        async def render() -> bytes:
            found = await naming(self._inference.render(call), name)
            notes.extend(found.warnings)
            return native_replies.rendered_body(name, found.value, is_chat=is_chat)

        async def begin() -> Reply:
            if isinstance(call, ChatCall):
                return await naming(self._inference.chat(call), name)
            assert isinstance(call, GenerateCall)
            return await naming(self._inference.generate(call), name)

        if decoded.is_empty:
            return ValueResponse(load, style=NATIVE_ERRORS, media_type=JSON, headers=headers, notes=notes)
        if decoded.is_render_only:
            return ValueResponse(render, style=NATIVE_ERRORS, media_type=JSON, headers=headers, notes=notes)
        if decoded.call.is_streamed:
            writer = native_replies.ChatWriter if is_chat else native_replies.GenerateWriter
            return AnswerResponse(begin, style=NATIVE_ERRORS, writer=lambda _reply: writer(name), headers=headers)
        collector = native_replies.ChatCollector if is_chat else native_replies.GenerateCollector
        return AnswerResponse(begin, style=NATIVE_ERRORS, collector=lambda _reply: collector(name), headers=headers)

    async def embed(self, request: Request) -> Response:
        decoded = native.decode_embed(await self._body(request))
        name = decoded.call.model
        if not name.strip():
            raise ModelNotFoundError(f"model '{name}' not found", name=name)
        call = self._for_caller(request, decoded.call)
        notes: list[str] = []

        async def compute() -> bytes:
            try:
                reply = await naming(self._inference.embed(call), name, text=_NOT_PULLED)
            except ContextLengthError as error:
                raise InvalidRequestError(
                    "the input length exceeds the context length",
                    field="input",
                    hint=f"it has {error.n_prompt_tokens} tokens, {error.n_ctx} fit; set truncate or a larger num_ctx",
                ) from None
            notes.extend(reply.warnings)
            return await write_vectors(
                lambda: native_replies.embed_body(name, reply.result, load_s=reply.load_s, total_s=reply.total_s),
                reply.result,
            )

        return self._value(compute, decoded.warnings, notes)

    async def embeddings(self, request: Request) -> Response:
        decoded = native.decode_embeddings(await self._body(request))
        call = self._for_caller(request, decoded.call)
        notes: list[str] = []

        async def compute() -> bytes:
            reply = await naming(self._inference.embed(call), decoded.call.model, text=_NOT_PULLED)
            notes.extend(reply.warnings)
            return native_replies.embeddings_body(reply.result)

        return self._value(compute, decoded.warnings, notes)

    async def tokenize(self, request: Request) -> Response:
        decoded = native.decode_tokenize(await self._body(request))
        call = self._for_caller(request, decoded.call)
        notes: list[str] = []

        async def compute() -> bytes:
            work = self._inference.tokenize(
                call, decoded.text, add_special=decoded.add_special, parse_special=decoded.parse_special
            )
            found = await naming(work, call.model)
            notes.extend(found.warnings)
            ids = found.value.ids
            return msgspec.json.encode({"model": call.model, "tokens": ids, "count": len(ids)})

        return self._value(compute, decoded.warnings, notes)

    async def detokenize(self, request: Request) -> Response:
        decoded = native.decode_detokenize(await self._body(request))
        call = self._for_caller(request, decoded.call)
        notes: list[str] = []

        async def compute() -> bytes:
            found = await naming(self._inference.detokenize(call, list(decoded.tokens)), call.model)
            notes.extend(found.warnings)
            return msgspec.json.encode({"model": call.model, "text": found.value, "content": found.value})

        return self._value(compute, decoded.warnings, notes)

    async def rerank(self, request: Request) -> Response:
        decoded = native.decode_rerank(await self._body(request))
        call = self._for_caller(request, decoded.call)
        notes: list[str] = []

        async def compute() -> bytes:
            found = await naming(self._inference.rerank(call), call.model)
            notes.extend(found.warnings)
            return native_replies.rerank_body(decoded, found.value)

        return self._value(compute, decoded.warnings, notes)

    # --- models ------------------------------------------------------------------------------------------------------

    async def tags(self, request: Request) -> Response:
        return Response(native_models.tags_body(await self._models.installed()), media_type=JSON)

    async def ps(self, request: Request) -> Response:
        return Response(native_models.ps_body(await self._models.loaded()), media_type=JSON)

    async def show(self, request: Request) -> Response:
        decoded = native.decode_named(await self._body(request), "ShowRequest")
        _require_name(decoded.name)
        basename = decoded.name if request.headers.get("user-agent", "").startswith(_SHOWS_BASENAME) else ""

        async def compute() -> bytes:
            try:
                description = await self._models.show(decoded.name)
            except ModelNotFoundError as error:
                short = ModelName.parse(split_where(decoded.name)[0]).short
                raise ModelNotFoundError(f"model '{short}' not found", name=short, hint=error.hint) from None
            shown = overlay(description.spec, system=decoded.system, options=decoded.options)
            text = modelfile_text(shown)
            return native_models.show_body(
                description, shown, is_verbose=decoded.is_verbose, modelfile=text, basename=basename
            )

        return self._value(compute, decoded.warnings)

    async def delete(self, request: Request) -> Response:
        decoded = native.decode_named(await self._body(request), "DeleteRequest")
        _require_name(decoded.name)

        async def compute() -> bytes:
            try:
                await naming(self._models.delete(decoded.name), decoded.name)
            except InvalidNameError as error:
                raise InvalidNameError(f'name "{decoded.name}" is invalid', hint=error.hint) from None
            return b""

        return self._value(compute, decoded.warnings)

    async def copy(self, request: Request) -> Response:
        source, destination, warnings = native.decode_copy(await self._body(request))

        async def compute() -> bytes:
            for field, name in (("source", source), ("destination", destination)):
                try:
                    ModelName.parse(name)
                except InvalidNameError as error:
                    raise InvalidNameError(f'{field} "{name}" is invalid', hint=error.hint) from None
            await naming(self._models.copy(source, destination), source, text='model "{}" not found')
            return b""

        return self._value(compute, warnings)

    async def pull(self, request: Request) -> Response:
        decoded = native.decode_named(await self._body(request), "PullRequest")
        self._check_strict(decoded.warnings)
        if not decoded.name.strip():
            raise InvalidNameError("invalid model name")
        events = self._models.pull(decoded.name, insecure=decoded.is_insecure, limit_rate=decoded.limit_rate)
        headers = warning_headers(decoded.warnings)

        async def lines() -> AsyncIterator[bytes]:
            async for progress in events:
                yield native_models.progress_line(progress)

        async def begin() -> AsyncIterator[bytes]:
            return lines()

        async def to_the_end() -> bytes:
            last = b'{"status":"success"}'
            async for line in lines():
                last = line
            return last

        if decoded.is_streamed:
            return LinesResponse(begin, style=NATIVE_ERRORS, media_type=NDJSON, headers=headers)
        return ValueResponse(to_the_end, style=NATIVE_ERRORS, media_type=PLAIN_JSON, headers=headers)

    async def recommendations(self, request: Request) -> Response:
        models = await asyncio.to_thread(recommended)
        return _json({"recommendations": [{"model": m.name.short, "description": m.description} for m in models]})

    # --- what only a hosted service has ------------------------------------------------------------------------------

    async def account(self, request: Request) -> Response:
        return _json({"error": "account unavailable", "hint": "donabe has no accounts"}, status=503)

    async def sign_out(self, request: Request) -> Response:
        return _json({"error": "you are not currently signed in"}, status=401)

    async def web_search(self, request: Request) -> Response:
        return await self._cloud_only(request, "web search is unavailable")

    async def web_fetch(self, request: Request) -> Response:
        return await self._cloud_only(request, "web fetch is unavailable")

    async def _cloud_only(self, request: Request, what: str) -> Response:
        if not (await self._body(request)).strip():
            raise InvalidRequestError("missing request body")
        return _json({"error": f"ollama cloud is disabled: {what}"}, status=403)

    # --- shared ------------------------------------------------------------------------------------------------------

    async def _body(self, request: Request) -> bytes:
        return await read_body(request, self._max_body_bytes)

    def _for_caller(self, request: Request, call: AnyCall) -> AnyCall:
        return replace(call, scheduling=scheduling_for(request, call.model))

    def _value(
        self, compute: Callable[[], Awaitable[bytes]], warnings: tuple[str, ...], notes: Sequence[str] = ()
    ) -> Response:
        self._check_strict(warnings)
        headers = warning_headers(warnings)
        return ValueResponse(compute, style=NATIVE_ERRORS, media_type=JSON, headers=headers, notes=notes)

    def _check_strict(self, warnings: tuple[str, ...]) -> None:
        check_strict(warnings, is_strict=self._is_strict)


_NOT_PULLED = 'model "{}" not found, try pulling it first'


def _require_name(name: str) -> None:
    if not name.strip():
        raise InvalidRequestError("model is required", field="model")


def _json(value: object, *, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status_code=status, media_type=JSON)
