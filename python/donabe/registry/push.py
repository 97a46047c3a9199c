"""Pushing a stored model to a registry: each blob that is not there yet, then the manifest, byte for byte.

Blobs go up in parts through an upload session; a registry that keeps data elsewhere may redirect a part to a storage
host, which then gets the bytes and no credentials. Runs on the pull thread.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from donabe.errors import InvalidNameError, SourceError, SourceUnreachableError, StoreError
from donabe.registry import parts as plans
from donabe.registry.client import RegistryClient
from donabe.registry.download import RateLimit
from donabe.registry.parts import Part
from donabe.registry.progress import follow
from donabe.registry.sources import PullOptions
from donabe.store.manifests import MANIFEST_TYPE, Layer
from donabe.store.models import ModelStore
from donabe.store.names import ModelName
from donabe.types import PullProgress

if TYPE_CHECKING:
    import httpx

_READ_BYTES = 1 << 20
_RANGE = re.compile(r"(?:bytes[= ])?0-([0-9]{1,18})")


async def push(name: ModelName, store: ModelStore, options: PullOptions) -> AsyncGenerator[PullProgress, None]:
    """Push a model to the registry its name says. The last event is `success`.

    Raises:
        ModelNotFoundError: It is not in the store.
        SourceError and kin: The registry refuses it or fails.
    """
    yield PullProgress(status="retrieving manifest")
    stored = await asyncio.to_thread(store.read_manifest, name)
    if options.offline:
        raise SourceUnreachableError("donabe is offline", hint="unset DONABE_OFFLINE to allow uploads")
    target = ModelName(*stored.name.parts, scheme=name.scheme)
    limit = RateLimit(options.rate_limit)
    async with RegistryClient(target, options) as client:
        for layer in dict.fromkeys(stored.manifest.all_layers):
            path = await asyncio.to_thread(store.blobs.path, layer.digest)
            upload = _Upload(client, layer, path, limit, options)
            async for event in follow(upload.run(), upload.progress):
                yield event
        yield PullProgress(status="pushing manifest")
        await _put_manifest(client, target.tag, stored.data)
    yield PullProgress(status="success")


async def _put_manifest(client: RegistryClient, tag: str, data: bytes) -> None:
    url = client.url(f"manifests/{tag}")
    async with client.send("PUT", url, headers={"Content-Type": MANIFEST_TYPE}, body=data, follow=False) as response:
        if response.status_code not in {200, 201, 202}:
            raise await client.failure(response)


class _Upload:
    """One blob on its way up."""

    def __init__(
        self, client: RegistryClient, layer: Layer, path: Path, limit: RateLimit, options: PullOptions
    ) -> None:
        self._client = client
        self._layer = layer
        self._path = path
        self._limit = limit
        self._patience = options.patience
        self._size = path.stat().st_size
        self._completed = 0
        self._hashes: dict[int, bytes] = {}  # md5 of each part by number
        self._session = ""  # the upload under way: where it goes on
        self._is_resumed = False

    def progress(self) -> PullProgress:
        digest = self._layer.digest
        return PullProgress(
            status=f"pushing {digest.short}", digest=str(digest), total=self._size, completed=self._completed
        )

    async def run(self) -> None:
        """Upload the blob unless the registry has it. What breaks off goes on, or is started again, a few times."""
        url = self._client.url(f"blobs/{self._layer.digest}")
        async with self._client.send("HEAD", url) as response:
            if response.status_code not in {200, 404}:
                raise await self._client.failure(response)
            is_there = response.status_code == 200
        for n_tries in range(1, self._patience.n_tries + 1):
            if is_there:
                break
            try:
                await self._upload()
                break
            except SourceError as error:
                is_final = not isinstance(error, SourceUnreachableError) and not self._is_resumed
                if is_final or n_tries == self._patience.n_tries:
                    raise
                if not isinstance(error, SourceUnreachableError):
                    self._session = ""  # what the registry kept of it can't be gone on with
                await asyncio.sleep(self._patience.backoff_s * 2 ** (n_tries - 1))
        self._completed = self._size

    async def _upload(self) -> None:
        n_there = await self._ask_session() if self._session else 0
        self._is_resumed = n_there > 0
        if n_there == 0:
            self._hashes = {}
            session = await self._start()
            if session is None:
                return
            self._session = session
        self._completed = n_there
        for part in plans.plan(self._size) if self._size else []:
            if part.end > n_there or part.number not in self._hashes:
                self._session = await self._send_part(self._session, part, max(part.offset, min(n_there, part.end)))
        session = self._session
        etag = f"{hashlib.md5(b''.join(self._hashes.values()), usedforsecurity=False).hexdigest()}-{len(self._hashes)}"
        joint = "&" if "?" in session else "?"
        final = f"{session}{joint}{urlencode({'digest': str(self._layer.digest), 'etag': etag})}"
        async with self._client.send("PUT", final, headers={"Content-Length": "0"}, follow=False) as response:
            if response.status_code not in {200, 201, 202, 204}:
                raise await self._client.failure(response)

    async def _ask_session(self) -> int:
        """How many bytes the registry has of the upload that broke off; 0 when it has to be started again."""
        try:
            async with self._client.send("GET", self._session, follow=False) as response:
                match = _RANGE.fullmatch(response.headers.get("range", ""))
                n_there = int(match[1]) + 1 if response.status_code == 204 and match else 0
                if not 1 < n_there <= self._size:  # 0-0 stands for nothing, too
                    return 0
                self._session = self._session_of(response, self._session)
                return n_there
        except SourceError:
            return 0

    async def _start(self) -> str | None:
        """Open an upload session; None when the registry could mount the blob from the repository it came from."""
        url = self._client.url("blobs/uploads/")
        if self._layer.from_:
            try:
                source = ModelName.parse(self._layer.from_).repository
                url += f"?{urlencode({'from': source, 'mount': str(self._layer.digest)})}"
            except InvalidNameError:
                pass  # `from` may also be a file name; there is nothing to mount then
        async with self._client.send("POST", url, headers={"Content-Length": "0"}, follow=False) as response:
            if response.status_code == 201:
                return None
            if response.status_code not in {200, 202}:
                raise await self._client.failure(response)
            return self._session_of(response, url)

    async def _send_part(self, session: str, part: Part, start: int) -> str:
        """Send one part, or what is left of it; returns the session's address for the next one."""
        if start == part.end:
            async for _ in self._read(part, start):
                pass  # it is there; only its checksum is wanted
            return session
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(part.end - start),
            "Content-Range": f"{start}-{part.end - 1}",
            "X-Redirect-Uploads": "1",
        }
        before = self._completed
        async with self._client.send(
            "PATCH", session, headers=headers, body=self._read(part, start), follow=False
        ) as response:
            if response.status_code == 307 and "location" in response.headers:
                target = self._client.check_target(session, response.headers["location"])
                after = self._session_of(response, session) if "docker-upload-location" in response.headers else session
            elif response.status_code in {200, 201, 202, 204}:
                return self._session_of(response, session)
            else:
                raise await self._client.failure(response)
        self._completed = before
        await self._send_elsewhere(target, part)
        return after

    async def _send_elsewhere(self, target: str, part: Part) -> None:
        headers = {"Content-Length": str(part.size)}
        async with self._client.send(
            "PUT", target, headers=headers, body=self._read(part, part.offset), follow=False
        ) as response:
            if response.status_code not in {200, 201, 202, 204}:
                raise await self._client.failure(response)

    def _session_of(self, response: httpx.Response, url: str) -> str:
        location = response.headers.get("docker-upload-location") or response.headers.get("location", "")
        if not location:
            raise SourceError("the registry opened an upload without an address")
        return self._client.check_target(url, location)

    async def _read(self, part: Part, start: int) -> AsyncIterator[bytes]:
        """The part's bytes from `start` on, counted as they go out; the whole part is hashed."""
        state = hashlib.md5(usedforsecurity=False)
        position = part.offset
        try:
            with open(self._path, "rb") as file:  # noqa: ASYNC230 - the pull thread may wait for the disk
                file.seek(position)
                while position < part.end:
                    stop = start if position < start else part.end
                    if not (data := file.read(min(_READ_BYTES, stop - position))):
                        break
                    state.update(data)
                    position += len(data)
                    if position > start:
                        await self._limit.take(len(data))
                        self._completed += len(data)
                        yield data
        except OSError as error:
            raise StoreError(f"blob {self._layer.digest.short} can't be read: {error.strerror}") from error
        if position < part.end:
            raise StoreError(f"blob {self._layer.digest.short} became shorter while it was sent")
        self._hashes[part.number] = state.digest()
