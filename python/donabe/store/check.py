"""Checking a store: does every model have what its manifest promises? Reads only. `donabe doctor --store` shows it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from donabe.errors import DonabeError, StoreError
from donabe.store.digest import Digest
from donabe.store.manifests import Manifest
from donabe.store.models import ModelStore
from donabe.store.specs import build_spec


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with one model of the store."""

    model: str
    message: str


def check_store(store: ModelStore, *, deep: bool = False) -> tuple[Problem, ...]:
    """Everything wrong with the store's own models. Unfinished downloads are not wrong.

    Args:
        deep: Also read every blob in full and compare its digest (minutes for large stores).
    """
    return tuple(_problems(store, deep))


def _problems(store: ModelStore, deep: bool) -> Iterator[Problem]:
    verified: set[Digest] = set()
    for name, path in store.layout.names():
        try:
            data = path.read_bytes()
        except FileNotFoundError:  # deleted meanwhile
            continue
        try:
            manifest = Manifest.decode(data)
        except StoreError as error:
            yield Problem(name.short, str(error))
            continue
        is_whole = True
        for layer in manifest.all_layers:
            message = _blob_problem(store, layer.digest, layer.size, deep and layer.digest not in verified)
            verified.add(layer.digest)
            if message:
                is_whole = False
                yield Problem(name.short, message)
        if is_whole:
            try:
                build_spec(name, manifest, "", 0.0, store.blobs, strict=bool(manifest.of_kind("model")))
            except DonabeError as error:
                yield Problem(name.short, str(error))


def _blob_problem(store: ModelStore, digest: Digest, size: int, deep: bool) -> str:
    if not store.blobs.has(digest):
        return f"blob {digest.short} is missing"
    if not store.blobs.has(digest, size):
        return f"blob {digest.short} does not have the {size} bytes its manifest says"
    if deep:
        state = hashlib.sha256()
        with open(store.blobs.path(digest), "rb") as file:
            while chunk := file.read(1 << 20):
                state.update(chunk)
        if Digest.of_hash(state) != digest:
            return f"blob {digest.short} is damaged"
    return ""
