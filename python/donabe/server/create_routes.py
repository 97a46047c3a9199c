"""Handlers that make models: uploading files and `POST /api/create`. No logic here."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response

from donabe.api import native_models
from donabe.api.dialect import NDJSON, PLAIN_JSON
from donabe.api.native_create import decode_create
from donabe.api.native_replies import NATIVE_ERRORS
from donabe.errors import InvalidRequestError, ModelNotFoundError
from donabe.server.answers import LinesResponse, ValueResponse, read_body
from donabe.server.errors import warning_headers
from donabe.service.create import Events, ModelCreator
from donabe.service.uploads import Uploads
from donabe.types import PullProgress


class CreateRoutes:
    """Creating models over the use cases.

    Args:
        max_body_bytes: Cap of request bodies; uploads are limited by the disk only.
        is_strict: Refuse unknown fields instead of reporting them.
    """

    def __init__(
        self, creator: ModelCreator, uploads: Uploads, *, max_body_bytes: int, is_strict: bool = False
    ) -> None:
        self._creator = creator
        self._uploads = uploads
        self._max_body_bytes = max_body_bytes
        self._is_strict = is_strict

    async def create(self, request: Request) -> Response:
        decoded = decode_create(await read_body(request, self._max_body_bytes))
        if self._is_strict and decoded.warnings:
            raise InvalidRequestError(decoded.warnings[0], hint="the server runs in strict mode; leave the field out")
        events = self._creator.create(decoded.call)
        headers = warning_headers(decoded.warnings)

        async def begin() -> AsyncIterator[bytes]:
            """An error before the first event has a status of its own."""
            return _lines(await anext(events), events)

        async def to_the_end() -> bytes:
            last = b""
            async for event in events:
                last = native_models.progress_line(event)
            return last

        if decoded.is_streamed:
            return LinesResponse(begin, style=NATIVE_ERRORS, media_type=NDJSON, headers=headers)
        return ValueResponse(to_the_end, style=NATIVE_ERRORS, media_type=PLAIN_JSON, headers=headers)

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


async def _lines(first: PullProgress, events: Events) -> AsyncIterator[bytes]:
    async with contextlib.aclosing(events):
        yield native_models.progress_line(first)
        async for event in events:
            yield native_models.progress_line(event)
