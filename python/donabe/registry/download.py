"""Downloading one file of known digest: parallel ranges, resume, stall detection, retries, verification.

The bytes go to `blobs/sha256-<hex>-partial`, which nobody takes for a blob. The caller decides what a verified file
becomes. Runs on the pull thread's event loop; disk writes happen there too (that loop serves downloads only), hashing
in a worker thread. How a byte range is requested is the caller's: see `RangeOpener`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from donabe.errors import SourceError, SourceUnreachableError, VerificationError
from donabe.registry import parts as plans
from donabe.registry.http import is_stall, status_error, transport_error
from donabe.registry.parts import Part
from donabe.store.digest import Digest
from donabe.store.files import require_space, store_errors
from donabe.store.layout import StoreLayout

if TYPE_CHECKING:
    import httpx

# Opens a GET for bytes [start, end) of the file (end None = to its end), credentials and redirects handled.
RangeOpener = Callable[[int, "int | None"], AbstractAsyncContextManager["httpx.Response"]]

_PROGRESS_BYTES = 1 << 20  # a try that got this far was worth it: the count of tries starts again
_RECORD_EVERY_S = 0.1
_MAX_STALLS = 20


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait and how often to try."""

    n_tries: int = 6
    stall_s: float = 30.0
    backoff_s: float = 1.0  # doubled each time, with jitter


class RateLimit:
    """Shares a number of bytes per second among all downloads of a pull. 0 = unlimited."""

    def __init__(self, bytes_per_s: int = 0) -> None:
        self._bytes_per_s = bytes_per_s
        self._ready_at = 0.0

    async def take(self, n_bytes: int) -> None:
        if self._bytes_per_s > 0:
            now = time.monotonic()
            start = max(now, self._ready_at)
            self._ready_at = start + n_bytes / self._bytes_per_s
            await asyncio.sleep(max(0.0, self._ready_at - now))


class _StalledError(Exception):
    """No byte came for too long."""


class _NoRangesError(Exception):
    """The server ignores ranges: only one stream from the start will do."""


class Download:
    """One file on its way into the store.

    Args:
        open_range: How to ask for bytes.
        digest: What the whole file must hash to.
        size: Its length in bytes. The download fails when the server disagrees.
        url: Shown in errors (host only).
    """

    def __init__(
        self,
        layout: StoreLayout,
        open_range: RangeOpener,
        digest: Digest,
        size: int,
        *,
        url: str,
        limit: RateLimit | None = None,
        patience: Patience = Patience(),
    ) -> None:
        self._layout = layout
        self._open_range = open_range
        self.digest = digest
        self.size = size
        self._url = url
        self._limit = limit or RateLimit()
        self._patience = patience
        self._parts: list[Part] = []
        self._descriptor = -1
        self._was_resumed = False

    @property
    def completed(self) -> int:
        return sum(part.completed for part in self._parts)

    async def run(self) -> Path:
        """Download what is missing and verify the whole.

        Returns:
            The verified partial file. Its resume records stay, so that a crash now costs nothing.

        Raises:
            VerificationError: The content is not the announced one, also when fetched again from the start.
            SourceError, StoreError: As they come; what was downloaded stays for a later resume.
        """
        with store_errors(self._layout.root):
            self._prepare()
            try:
                await self._fetch_all()
            finally:
                os.close(self._descriptor)
        try:
            return await self._verify()
        except VerificationError:
            if not self._was_resumed:
                raise
            return await self.run()  # damage may be older than this run; it starts from nothing now

    def _prepare(self) -> None:
        path = self._layout.partial(self.digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        loaded = plans.load(self._layout, self.digest, self.size)
        self._was_resumed = loaded is not None
        if loaded is None:
            plans.discard(self._layout, self.digest)
            loaded = plans.plan(self.size)
        self._parts = loaded
        require_space(self._layout.root, self.size - self.completed)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        os.ftruncate(self._descriptor, self.size)

    async def _fetch_all(self) -> None:
        try:
            await self._fetch_parts()
        except _NoRangesError:
            plans.forget_records(self._layout, self.digest)
            self._parts = [Part(0, 0, self.size)]
            await self._fetch_parts()

    async def _fetch_parts(self) -> None:
        slots = asyncio.Semaphore(plans.N_PARALLEL)

        async def fetch(part: Part) -> None:
            async with slots:
                await self._fetch_part(part)

        tasks = [asyncio.create_task(fetch(part)) for part in self._parts if not part.is_done]
        try:
            for part in self._parts:
                plans.save(self._layout, self.digest, part)
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _fetch_part(self, part: Part) -> None:
        n_tries, n_stalls = 0, 0
        while not part.is_done:
            before = part.completed
            try:
                await self._stream_part(part)
            except _StalledError:
                n_stalls += 1
                if n_stalls > _MAX_STALLS:
                    raise SourceUnreachableError(
                        "the download stalled again and again", hint="try again later"
                    ) from None
            except SourceUnreachableError:
                n_tries = 1 if part.completed - before >= _PROGRESS_BYTES else n_tries + 1
                if n_tries >= self._patience.n_tries:
                    raise
                await asyncio.sleep(self._patience.backoff_s * 2 ** (n_tries - 1) * random.uniform(0.5, 1.5))
            finally:
                with contextlib.suppress(OSError):  # a full disk: the error under way says so
                    plans.save(self._layout, self.digest, part)

    async def _stream_part(self, part: Part) -> None:
        import httpx

        start = part.offset + part.completed
        is_whole_file = part.offset == 0 and part.size == self.size
        try:
            async with self._open_range(start, None if is_whole_file and start == 0 else part.end) as response:
                self._check_answer(response, part, start, is_whole_file)
                await self._write_stream(response, part)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            if is_stall(error):
                raise _StalledError from error
            raise transport_error(error, self._url) from error
        if not part.is_done:
            raise SourceUnreachableError(
                "the connection ended before the file did", hint="try again; the download resumes"
            )

    def _check_answer(self, response: httpx.Response, part: Part, start: int, is_whole_file: bool) -> None:
        if response.status_code == 200 and (start > 0 or not is_whole_file):
            raise _NoRangesError
        if response.status_code not in {200, 206}:
            raise status_error(response.status_code, self._url)
        if response.headers.get("content-encoding", "identity") != "identity":
            raise SourceError("the server compressed a file that was asked for as it is")
        length = response.headers.get("content-length", "")
        if response.status_code == 200 and length.isdecimal() and int(length) != self.size:
            raise VerificationError(f"the server has {length} bytes for a file announced with {self.size}")
        ranges = response.headers.get("content-range", "")
        if response.status_code == 206 and ranges and not ranges.startswith(f"bytes {start}-"):
            raise SourceError("the server answered with another range than the one asked for")
        total = ranges.rpartition("/")[2]
        if total.isdecimal() and int(total) != self.size:
            raise VerificationError(f"the server has {total} bytes for a file announced with {self.size}")

    async def _write_stream(self, response: httpx.Response, part: Part) -> None:
        saved_at = time.monotonic()
        async for chunk in response.aiter_raw():
            data = chunk[: part.size - part.completed]
            if len(data) < len(chunk) and response.status_code == 200:
                raise VerificationError(f"the server sent more than the announced {self.size} bytes")
            await self._limit.take(len(data))
            with store_errors(self._layout.root):
                _write_at(self._descriptor, data, part.offset + part.completed)
            part.completed += len(data)
            if time.monotonic() - saved_at >= _RECORD_EVERY_S:
                plans.save(self._layout, self.digest, part)
                saved_at = time.monotonic()
            if part.is_done:
                return

    async def _verify(self) -> Path:
        path = self._layout.partial(self.digest)
        with store_errors(self._layout.root):
            found = await asyncio.to_thread(hash_file, path)
        if found != self.digest:
            plans.discard(self._layout, self.digest)
            raise VerificationError(
                f"digest mismatch, file must be downloaded again: want {self.digest}, got {found}",
                hint="pull again; if it happens again, the source is damaged or not what it claims to be",
            )
        return path


def _write_at(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        os.lseek(descriptor, offset, os.SEEK_SET)
        written = os.write(descriptor, view)
        view, offset = view[written:], offset + written


def hash_file(path: Path) -> Digest:
    state = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while data := file.read(1 << 20):
            state.update(data)
    return Digest.of_hash(state)
