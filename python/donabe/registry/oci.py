"""Pulling from a model registry: the manifest, each blob it names, verification, and only then the model.

Nothing of a registry's answer becomes a path except through `Digest`. Everything a manifest announces is checked before
the manifest is written: sizes, digests, and that weights are GGUFs the native code may see.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from donabe.errors import (
    DonabeError,
    ModelNotFoundError,
    SourceAuthError,
    SourceError,
    SourceUnreachableError,
    StoreError,
    VerificationError,
)
from donabe.registry import catalogue
from donabe.registry.client import RegistryClient, read_capped
from donabe.registry.download import Download, RangeOpener, RateLimit
from donabe.registry.progress import follow
from donabe.registry.sources import PullOptions
from donabe.store.digest import Digest
from donabe.store.files import require_space
from donabe.store.gguf_dialect import check_family
from donabe.store.manifests import MANIFEST_TYPE, MAX_MANIFEST_BYTES, Layer, Manifest
from donabe.store.models import ModelStore
from donabe.store.names import DEFAULT_HOST, ModelName
from donabe.store.specs import ModelConfig, build_spec
from donabe.types import PullProgress

if TYPE_CHECKING:
    import httpx

_MAX_CONFIG_BYTES = 64 << 10


class RegistrySource:
    """A model in a registry that speaks the distribution protocol (`/v2/`)."""

    def __init__(self, name: ModelName) -> None:
        self._name = name

    def __str__(self) -> str:
        return self._name.full

    async def pull(self, store: ModelStore, name: ModelName, options: PullOptions) -> AsyncIterator[PullProgress]:
        """See `Source.pull`."""
        yield PullProgress(status="pulling manifest")
        async with RegistryClient(self._name, options) as client:
            data = await self._fetch_manifest(client)
            manifest = _decode(data)
            await self._refuse_early(client, manifest, store)
            new = [layer for layer in manifest.all_layers if not store.blobs.has(layer.digest)]
            require_space(store.layout.root, sum(layer.size for layer in new))
            limit = RateLimit(options.rate_limit)
            for layer in manifest.all_layers:
                async for event in pull_layer(client, layer, store, limit, options):
                    yield event
        yield PullProgress(status="verifying sha256 digest")
        await asyncio.to_thread(_check_content, store, name, manifest, tuple(layer.digest for layer in new))
        yield PullProgress(status="writing manifest")
        removed = await asyncio.to_thread(store.write_manifest, name, data)
        if removed:
            yield PullProgress(status="removing unused layers")
        yield PullProgress(status="success")

    async def _refuse_early(self, client: RegistryClient, manifest: Manifest, store: ModelStore) -> None:
        """Refuse what can't run here by its config, a few hundred bytes, rather than after gigabytes of weights."""
        if store.blobs.has(manifest.config.digest) or manifest.config.size > _MAX_CONFIG_BYTES:
            return
        async with client.send("GET", client.url(f"blobs/{manifest.config.digest}")) as response:
            if response.status_code != 200:
                return  # the download of this blob will say why
            data = await read_capped(response, _MAX_CONFIG_BYTES)
        if Digest.of_bytes(data) == manifest.config.digest:
            check_family(ModelConfig.decode(data).family, self._name.short)

    async def _fetch_manifest(self, client: RegistryClient) -> bytes:
        url = client.url(f"manifests/{self._name.tag}")
        try:
            async with client.send("GET", url, headers={"Accept": MANIFEST_TYPE}) as response:
                if response.status_code == 404:
                    raise ModelNotFoundError(
                        "pull model manifest: file does not exist",
                        name=self._name.short,
                        hint=f"{self._name.host} has no {self._name.repository}:{self._name.tag}; "
                        + catalogue.suggest(self._name),
                    )
                if response.status_code != 200:
                    raise await client.failure(response)
                return await read_capped(response, MAX_MANIFEST_BYTES)
        except SourceAuthError:
            raise
        except SourceError as error:
            hint = error.hint
            if isinstance(error, SourceUnreachableError) and self._name.host == DEFAULT_HOST:
                hint = "; ".join(filter(None, (hint, catalogue.suggest(self._name))))
            raise type(error)(f"pull model manifest: {error}", hint=hint) from error


def _decode(data: bytes) -> Manifest:
    try:
        manifest = Manifest.decode(data)
    except StoreError as error:
        raise SourceError(f"pull model manifest: the registry's {error}") from error
    if manifest.of_kind("tensor"):
        raise SourceError(
            "this model is stored as safetensors, which donabe does not run", hint="pull a GGUF build of the model"
        )
    return manifest


async def pull_layer(
    client: RegistryClient, layer: Layer, store: ModelStore, limit: RateLimit, options: PullOptions, *, url: str = ""
) -> AsyncIterator[PullProgress]:
    """Download one blob and verify it, unless it is here.

    Args:
        url: Where it is, if not among the registry's blobs.
    """
    status, digest = f"pulling {layer.digest.short}", str(layer.digest)
    if store.blobs.has(layer.digest):
        if not store.blobs.has(layer.digest, layer.size):
            raise VerificationError(f"the manifest announces a wrong size for {layer.digest.short}")
        await asyncio.to_thread(store.blobs.touch, layer.digest)
        yield PullProgress(status=status, digest=digest, total=layer.size, completed=layer.size)
        return
    download = Download(
        store.layout,
        _opener(client, url or client.url(f"blobs/{layer.digest}")),
        layer.digest,
        layer.size,
        url=client.url(""),
        limit=limit,
        patience=options.patience,
    )
    async for event in follow(
        download.run(),
        lambda: PullProgress(status=status, digest=digest, total=layer.size, completed=download.completed),
    ):
        yield event
    await asyncio.to_thread(store.blobs.promote, layer.digest)


def _opener(client: RegistryClient, url: str) -> RangeOpener:
    @asynccontextmanager
    async def open_range(start: int, end: int | None) -> AsyncIterator[httpx.Response]:
        headers = {} if start == 0 and end is None else {"Range": f"bytes={start}-{'' if end is None else end - 1}"}
        async with client.send("GET", url, headers=headers) as response:
            yield response

    return open_range


def _check_content(store: ModelStore, name: ModelName, manifest: Manifest, new: tuple[Digest, ...]) -> None:
    """Refuse a model whose files are not what its manifest says; what was downloaded for it goes."""
    try:
        build_spec(name, manifest, "", 0.0, store.blobs, strict=bool(manifest.of_kind("model")))
    except DonabeError:
        store.discard_unused(new)
        raise
