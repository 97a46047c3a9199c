"""Handlers of `/v1/responses`: making responses, continuing stored ones, looking at and deleting them, counting."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from donabe.api import responses_items, responses_replies, responses_requests
from donabe.api.dialect import PLAIN_JSON
from donabe.api.openai_replies import OPENAI_ERRORS
from donabe.errors import InvalidRequestError
from donabe.server.admission import caller_of, scheduling_for
from donabe.server.answers import AnswerResponse, ValueResponse
from donabe.server.bodies import read_body
from donabe.server.errors import NotFoundError, check_strict, naming, warning_headers
from donabe.service.calls import ChatCall
from donabe.service.inference import Inference, Reply
from donabe.service.response_store import ResponseStore, StoredResponse
from donabe.types import JsonObject

_STREAM_HEADERS = [(b"cache-control", b"no-cache")]


class ResponsesRoutes:
    """The Responses API over the use cases. Arguments as `NativeRoutes`."""

    def __init__(
        self, inference: Inference, store: ResponseStore, *, max_body_bytes: int, is_strict: bool = False
    ) -> None:
        self._inference = inference
        self._store = store
        self._max_body_bytes = max_body_bytes
        self._is_strict = is_strict

    async def create(self, request: Request) -> Response:
        decoded, items, call = await self._decode(request)
        caller = caller_of(request).owner
        builder = responses_replies.ResponseBuilder(
            call.model, decoded.echo, custom_tools=responses_requests.custom_tool_names(decoded.echo["tools"])
        )

        async def begin() -> Reply:
            return await naming(self._inference.chat(call), call.model)

        async def keep() -> None:
            stored = StoredResponse(builder.final, [*items, *builder.output], len(items))
            await asyncio.to_thread(self._store.put, stored, caller=caller)

        headers = warning_headers(decoded.warnings)
        before_end = keep if decoded.is_stored else None
        if decoded.call.is_streamed:
            return AnswerResponse(
                begin,
                style=OPENAI_ERRORS,
                writer=lambda _: responses_replies.ResponseEventWriter(builder),
                before_end=before_end,
                headers=[*_STREAM_HEADERS, *headers],
            )
        return AnswerResponse(
            begin,
            style=OPENAI_ERRORS,
            collector=lambda _: responses_replies.ResponseCollector(builder),
            before_end=before_end,
            headers=headers,
        )

    async def input_tokens(self, request: Request) -> Response:
        """How many tokens a response's input has, the whole conversation and the tools with it."""
        decoded, _items, call = await self._decode(request)

        notes: list[str] = []

        async def compute() -> bytes:
            found = await naming(self._inference.render(call), call.model)
            notes.extend(found.warnings)
            return responses_replies.input_tokens_body(len(found.value.tokens))

        headers = warning_headers(decoded.warnings)
        return ValueResponse(compute, style=OPENAI_ERRORS, media_type=PLAIN_JSON, headers=headers, notes=notes)

    async def _decode(self, request: Request) -> tuple[responses_requests.ResponsesRequest, list[JsonObject], ChatCall]:
        """The request, the items of its whole conversation, and the call they make."""
        decoded = responses_requests.decode_responses(await read_body(request, self._max_body_bytes))
        check_strict(decoded.warnings, is_strict=self._is_strict)
        scheduling = scheduling_for(request, decoded.call.model)
        items = await self._conversation(decoded, caller_of(request).owner)
        messages = responses_items.messages_of(items, decoded.instructions)
        if not messages:
            raise InvalidRequestError("input is required", field="input")
        return decoded, items, replace(decoded.call, messages=messages, scheduling=scheduling)

    async def _conversation(self, decoded: responses_requests.ResponsesRequest, caller: str) -> list[JsonObject]:
        id = decoded.previous_response_id
        if not id:
            return decoded.items
        stored = await asyncio.to_thread(self._store.get, id, caller=caller)
        if stored is None:
            raise InvalidRequestError(
                f"previous response {id!r} is not stored",
                field="previous_response_id",
                hint='it may have expired, or was made with "store": false; send the whole conversation as input',
            )
        return [*stored.items, *decoded.items]

    async def retrieve(self, request: Request) -> Response:
        stored = await self._find(request)
        if request.query_params.get("stream", "").lower() == "true":
            raise InvalidRequestError(
                "a stored response can't be streamed", field="stream", hint="it is complete: leave stream out"
            )
        return _json(stored.response)

    async def cancel(self, request: Request) -> Response:
        """A response that is stored has ended; one that runs is cancelled by closing its connection."""
        await self._find(request)
        raise InvalidRequestError(
            "only background responses can be cancelled",
            field="id",
            hint="background is not supported; close the connection of a running response instead",
        )

    async def input_items(self, request: Request) -> Response:
        stored = await self._find(request)
        return _json(responses_items.page_of_items(stored.items[: stored.n_input], request.query_params))

    async def delete(self, request: Request) -> Response:
        id = request.path_params["id"]
        if not await asyncio.to_thread(self._store.delete, id, caller=caller_of(request).owner):
            raise _not_stored(id)
        return _json({"id": id, "object": "response", "deleted": True})

    async def _find(self, request: Request) -> StoredResponse:
        id = request.path_params["id"]
        stored = await asyncio.to_thread(self._store.get, id, caller=caller_of(request).owner)
        if stored is None:
            raise _not_stored(id)
        return stored


def _not_stored(id: str) -> NotFoundError:
    return NotFoundError(f"response {id[:80]!r} not found")


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value) + b"\n", media_type=PLAIN_JSON)
