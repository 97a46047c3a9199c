"""hf.co: a registry like others, except for split models, which it lists but does not serve as one.

Those are fetched file by file: the repository's listing gives each file's size and sha256, so what arrives is verified
as any blob is. Nothing of the listing becomes a path except through `Digest`.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from donabe.errors import DonabeError, InvalidRequestError, ModelNotFoundError, SourceError
from donabe.registry.client import RegistryClient, read_capped
from donabe.registry.download import RateLimit
from donabe.registry.install import Provenance, install_blobs
from donabe.registry.oci import RegistrySource, pull_layer
from donabe.registry.sources import HUB_HOSTS, PullOptions
from donabe.store.digest import Digest
from donabe.store.files import require_space
from donabe.store.foreign import quantization_of
from donabe.store.manifests import MODEL_LAYER, Layer
from donabe.store.models import ModelStore
from donabe.store.names import ModelName
from donabe.types import PullProgress

if TYPE_CHECKING:
    import httpx

HOSTS = HUB_HOSTS
_MAX_LISTING_BYTES = 16 << 20
_MAX_PAGES = 100
_MAX_FILES = 1_000
_MAX_FILE_BYTES = 1 << 46
_DEFAULT_QUANTIZATION = "q4_k_m"
_SPLIT_PATH = re.compile(r"(?P<prefix>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


@dataclass(frozen=True, slots=True)
class RepositoryFile:
    """One file of a split set in a repository."""

    path: str
    layer: Layer


class HuggingFaceSource:
    """A model in a repository of hf.co, split or not."""

    def __init__(self, name: ModelName) -> None:
        self._name = name

    def __str__(self) -> str:
        return self._name.full

    async def pull(self, store: ModelStore, name: ModelName, options: PullOptions) -> AsyncIterator[PullProgress]:
        """See `Source.pull`."""
        try:
            async for event in RegistrySource(self._name).pull(store, name, options):
                yield event
            return
        except SourceError as error:
            if type(error) is not SourceError or "shard" not in str(error).lower():
                raise
        async for event in self._pull_files(store, name, options):
            yield event

    async def _pull_files(
        self, store: ModelStore, name: ModelName, options: PullOptions
    ) -> AsyncIterator[PullProgress]:
        async with RegistryClient(self._name, options) as client:
            files = find_split_set(await self._list(client), self._name)
            new = [file.layer for file in files if not store.blobs.has(file.layer.digest)]
            require_space(store.layout.root, sum(layer.size for layer in new))
            limit = RateLimit(options.rate_limit)
            for file in files:
                url = f"{client.origin}/{self._name.repository}/resolve/main/{quote(file.path)}"
                async for event in pull_layer(client, file.layer, store, limit, options, url=url):
                    yield event
        yield PullProgress(status="verifying sha256 digest")
        digests = [file.layer.digest for file in files]
        provenance = Provenance(str(self), tuple(str(digest) for digest in digests))
        yield PullProgress(status="writing manifest")
        try:
            await asyncio.to_thread(install_blobs, store, name, digests, (), provenance)
        except DonabeError:
            store.discard_unused([layer.digest for layer in new])
            raise
        yield PullProgress(status="success")

    async def _list(self, client: RegistryClient) -> list[object]:
        """What the repository holds, page by page."""
        url = f"{client.origin}/api/models/{self._name.repository}/tree/main?recursive=true"
        entries: list[object] = []
        n_left = _MAX_LISTING_BYTES
        for _ in range(_MAX_PAGES):
            async with client.send("GET", url) as response:
                if response.status_code != 200:
                    raise await client.failure(response)
                data = await read_capped(response, n_left)
                url = _next_page(client, response)
            n_left -= len(data)
            entries += self._decode_page(data)
            if not url:
                return entries
        raise SourceError(f"{self._name.short}: the list of the repository's files has no end")

    def _decode_page(self, data: bytes) -> list[object]:
        try:
            page = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{self._name.short}: the list of the repository's files is not JSON") from error
        return page if isinstance(page, list) else []


def _next_page(client: RegistryClient, response: httpx.Response) -> str:
    """Where the list goes on, or ""."""
    here = str(response.url)
    link = response.links.get("next", {}).get("url", "")
    if not link:
        return ""
    target = client.check_target(here, link)
    if urlsplit(target)[:2] != urlsplit(here)[:2]:
        raise SourceError("the list of the repository's files goes on at another host")
    return target


def find_split_set(listing: Sequence[object], name: ModelName) -> tuple[RepositoryFile, ...]:
    """The files of the split set that a name's tag means, in order.

    Raises:
        ModelNotFoundError: No set has this quantisation.
        SourceError: Its files are not all there, or the listing makes no sense.
    """
    sets: dict[str, dict[int, RepositoryFile]] = {}
    counts: dict[str, int] = {}
    for entry in listing:
        if not isinstance(entry, dict):
            continue
        path = entry.get("path")
        match = _SPLIT_PATH.fullmatch(path) if isinstance(path, str) else None
        if match and "mmproj" not in match["prefix"].lower():
            key = f"{match['prefix']}-of-{match['count']}"
            sets.setdefault(key, {})[int(match["number"])] = _decode(entry, match[0])
            counts[key] = int(match["count"])
    by_tag = {quantization_of(key.rpartition("-of-")[0]).lower(): key for key in sorted(sets, reverse=True)}
    wanted = name.tag.lower()
    if wanted == "latest" and by_tag:
        wanted = _DEFAULT_QUANTIZATION if _DEFAULT_QUANTIZATION in by_tag else min(by_tag)
    key = by_tag.get(wanted, "")
    if not key:
        known = ", ".join(sorted(tag.upper() for tag in by_tag if tag)[:8])
        hint = f"split models of the repository: {known}" if known else ""
        raise ModelNotFoundError(f"{name.short} has no such GGUF files", name=name.short, hint=hint)
    files, count = sets[key], counts[key]
    if not 1 <= count <= _MAX_FILES or sorted(files) != list(range(1, count + 1)):
        raise SourceError(f"{name.short}: the repository has {len(files)} of the {count} files of the model")
    return tuple(files[number] for number in sorted(files))


def _decode(entry: dict[str, Any], path: str) -> RepositoryFile:
    stored = entry.get("lfs")
    size = entry.get("size")
    try:
        digest = Digest.parse(f"sha256:{stored['oid']}" if isinstance(stored, dict) else None)
    except (InvalidRequestError, KeyError) as error:
        raise SourceError("the list of the repository's files has one without a sha256 digest") from error
    if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= _MAX_FILE_BYTES:
        raise SourceError("the list of the repository's files has one with an invalid size")
    return RepositoryFile(path, Layer(MODEL_LAYER, digest, size))
