"""Request bodies: read whole, unpacked when they came compressed, never larger than the server's cap.

Compressed data is unpacked as it arrives, in pieces that are counted before the next one is made: a small body that
unpacks to a huge one costs no more than the cap, and others are served in between.
"""

from __future__ import annotations

import asyncio
import sys
import zlib
from collections.abc import Iterator
from functools import partial
from typing import Protocol

from starlette.requests import Request

from donabe.errors import InvalidRequestError
from donabe.server.errors import RequestTooLargeError

MAX_UNPACKED_BYTES = 20 * 2**20  # of a compressed body; what a model can read is far less
PIECE_BYTES = 2**18  # unpacked at once
ZSTD_WINDOW_LOG_MAX = 23  # 8 MiB of history, as much as every decoder must be able to hold
_GZIP = 16 + zlib.MAX_WBITS  # what zlib calls the gzip format


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole request body, unpacked.

    Raises:
        InvalidRequestError: Its encoding is not known, or its data is not in that encoding.
        RequestTooLargeError: It is, says it is, or unpacks to more than `max_bytes`.
    """
    unpacking = _unpacking(", ".join(request.headers.getlist("content-encoding")).strip().lower())
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    if unpacking is not None:
        return await _read_unpacking(request, unpacking, min(max_bytes, MAX_UNPACKED_BYTES))
    chunks, n_bytes = [], 0
    async for chunk in request.stream():
        n_bytes += len(chunk)
        if n_bytes > max_bytes:
            raise _too_large(max_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


async def _read_unpacking(request: Request, unpacking: _Unpacking, max_bytes: int) -> bytes:
    pieces, n_bytes = [], 0
    async for chunk in request.stream():
        for piece in unpacking.feed(chunk):
            n_bytes += len(piece)
            if n_bytes > max_bytes:
                raise RequestTooLargeError(
                    f"the request body unpacks to more than {max_bytes} bytes", hint="send it uncompressed"
                )
            pieces.append(piece)
            await asyncio.sleep(0)
    if not unpacking.is_whole:
        raise InvalidRequestError("unexpected EOF", field="Content-Encoding")
    return b"".join(pieces)


def _too_large(max_bytes: int) -> RequestTooLargeError:
    return RequestTooLargeError(
        f"the request body is larger than {max_bytes} bytes", hint="raise the server's max_body setting"
    )


class _Unpacking(Protocol):
    """Compressed data as it comes. `is_whole` says that no frame is open."""

    is_whole: bool

    def feed(self, data: bytes) -> Iterator[bytes]: ...


def _unpacking(encoding: str) -> _Unpacking | None:
    if encoding in ("", "identity"):
        return None
    if encoding == "zstd":
        return _Zstd()
    if encoding in ("gzip", "x-gzip"):
        return _Gzip()
    raise InvalidRequestError(
        f"Content-Encoding {encoding[:40]!r} is not supported",
        field="Content-Encoding",
        hint="send it uncompressed, or as gzip or zstd",
    )


class _Gzip:
    """Members one after another."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP)
        self.is_whole = True

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            try:
                piece = self._member.decompress(data, PIECE_BYTES)
            except zlib.error as error:
                raise _invalid(error) from None
            data = self._member.unconsumed_tail
            self.is_whole = self._member.eof
            if self._member.eof:
                data = self._member.unused_data
                self._member = zlib.decompressobj(_GZIP)
            yield piece


class _Zstd:
    """Frames one after another."""

    def __init__(self) -> None:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd

        self._error = zstd.ZstdError
        options = {int(zstd.DecompressionParameter.window_log_max): ZSTD_WINDOW_LOG_MAX}
        self._begin = partial(zstd.ZstdDecompressor, options=options)
        self._frame = self._begin()
        self.is_whole = True

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data or not self._frame.needs_input:
            try:
                piece = self._frame.decompress(data, PIECE_BYTES)
            except self._error as error:
                raise _invalid(error) from None
            data = b""
            self.is_whole = self._frame.eof
            if self._frame.eof:
                data = self._frame.unused_data
                self._frame = self._begin()
            yield piece


def _invalid(error: Exception) -> InvalidRequestError:
    return InvalidRequestError(f"invalid input: {error}", field="Content-Encoding")
