"""What the use cases need from the side layers: a model store and a way to pull. Tests pass fakes.

Store methods block (files) and are called from worker threads, so they must be safe from several threads at once.
They raise `InvalidNameError`, `ModelNotFoundError`, `StoreError` and `ModelFileError`, whose messages hold no server
paths.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from donabe.types import JsonObject, ModelSpec, PullProgress


class ModelStore(Protocol):
    """Installed models, by name. `name` is whatever a caller wrote; the store parses and case-folds it."""

    def list(self) -> Sequence[ModelSpec]:
        """Every usable model; damaged ones are left out."""
        ...

    def resolve(self, name: str) -> ModelSpec: ...

    def delete(self, name: str) -> None: ...

    def copy(self, source: str, destination: str) -> None: ...


class ReadMetadata(Protocol):
    """Reads the header of a GGUF, which may be split over several files (blocking)."""

    def __call__(self, paths: Sequence[str]) -> GgufSummary: ...


class GgufSummary(Protocol):
    """The header of a GGUF file: key-values in file order, and its tensors."""

    @property
    def metadata(self) -> JsonObject: ...

    @property
    def tensors(self) -> Sequence[tuple[str, str, tuple[int, ...]]]:
        """(name, type name, shape as stored) of every tensor."""
        ...


class PullModel(Protocol):
    """Downloads a model into the store (or sends one out). Closing the iterator stops it; finished parts are kept."""

    def __call__(self, name: str, *, insecure: bool = False, limit_rate: int = 0) -> AsyncIterator[PullProgress]:
        """`limit_rate` is in bytes per second, 0 = as the settings say; it never lifts their limit."""
        ...
