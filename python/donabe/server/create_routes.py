"""Handlers that make and publish models: uploads, `POST /api/create` and `POST /api/push`. No logic here."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response

from donabe.api import native_models
from donabe.api.dialect import NDJSON, PLAIN_JSON
from donabe.api.native import decode_named
from donabe.api.native_create import decode_create
from donabe.api.native_replies import NATIVE_ERRORS
from donabe.errors import InvalidRequestError, ModelNotFoundError, UnsupportedError
from donabe.server.answers import LinesResponse, ValueResponse
from donabe.server.bodies import read_body
from donabe.server.errors import check_strict, warning_headers
from donabe.service.contracts import PullModel
from donabe.service.create import ModelCreator
from donabe.service.uploads import Uploads
from donabe.types import PullProgress


class CreateRoutes:
    """Creating models over the use cases.

    Args:
        push: Sends a model to its registry.
        max_body_bytes: Cap of request bodies; uploads are limited by the disk only.
        is_strict: Refuse unknown fields instead of reporting them.
    """

    def __init__(
        self,
        creator: ModelCreator,
        uploads: Uploads,
        *,
        push: PullModel | None,
        max_body_bytes: int,
        is_strict: bool = False,
    ) -> None:
        self._creator = creator
        self._uploads = uploads
        self._push = push
        self._max_body_bytes = max_body_bytes
        self._is_strict = is_strict

    async def create(self, request: Request) -> Response:
        decoded = decode_create(await read_body(request, self._max_body_bytes))
        self._check_strict(decoded.warnings)
        events = self._creator.create(decoded.call)
        return _progress(events, decoded.warnings, is_streamed=decoded.is_streamed)

    async def push(self, request: Request) -> Response:
        decoded = decode_named(await read_body(request, self._max_body_bytes), "PushRequest")
        self._check_strict(decoded.warnings)
        if not decoded.name.strip():
            raise InvalidRequestError("model is required", field="model")
        if self._push is None:
            raise UnsupportedError("this server can't push models")
        events = self._push(decoded.name, insecure=decoded.is_insecure, limit_rate=decoded.limit_rate)
        return _progress(events, decoded.warnings, is_streamed=decoded.is_streamed)

    async def has_blob(self, request: Request) -> Response:
        digest = request.path_params["digest"]
        if not await self._uploads.has(digest):
            raise ModelNotFoundError(f'blob "{digest}" not found', name=digest)
        return Response()

    async def receive_blob(self, request: Request) -> Response:
        digest = request.path_params["digest"]
        if await self._uploads.has(digest):
            return Response()
        length = request.headers.get("content-length", "")
        await self._uploads.receive(digest, request.stream(), size=int(length) if length.isdigit() else 0)
        return Response(status_code=201)

    def _check_strict(self, warnings: tuple[str, ...]) -> None:
        check_strict(warnings, is_strict=self._is_strict)


def _progress(events: AsyncIterator[PullProgress], warnings: tuple[str, ...], *, is_streamed: bool) -> Response:
    """Events as lines, or the last of them. An error before the first event has a status of its own."""
    headers = warning_headers(warnings)

    async def begin() -> AsyncIterator[bytes]:
        return _lines(await anext(events), events)

    async def to_the_end() -> bytes:
        last = b""
        async for event in events:
            last = native_models.progress_line(event)
        return last

    if is_streamed:
        return LinesResponse(begin, style=NATIVE_ERRORS, media_type=NDJSON, headers=headers)
    return ValueResponse(to_the_end, style=NATIVE_ERRORS, media_type=PLAIN_JSON, headers=headers)


async def _lines(first: PullProgress, events: AsyncIterator[PullProgress]) -> AsyncIterator[bytes]:
    try:
        yield native_models.progress_line(first)
        async for event in events:
            yield native_models.progress_line(event)
    finally:
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()
