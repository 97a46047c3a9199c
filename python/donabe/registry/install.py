"""The last steps every source shares: check the model file, add its layers and config, make the model visible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from donabe.store.blobs import BlobWriter
from donabe.store.digest import Digest
from donabe.store.manifests import CONFIG_TYPE, LAYER_PREFIX, MODEL_LAYER, Layer, Manifest, encode_json
from donabe.store.models import ModelStore
from donabe.store.names import ModelName
from donabe.store.specs import config_json
from donabe.store.summary import require_set, summarize
from donabe.types import JsonObject


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a model came from, kept in its config under the key `donabe`."""

    source: str
    archives: tuple[str, ...]  # digests of the files it was unpacked from

    def to_json(self) -> JsonObject:
        return {"source": self.source, "archives": list(self.archives)}


def commit_file(writer: BlobWriter, expected: Digest | None) -> tuple[Digest, bool]:
    """Make a blob of a freshly written GGUF; returns its digest, and whether it is new to the store.

    Raises:
        ModelFileError: It is not a GGUF that is safe to load; nothing becomes visible.
        VerificationError: It is not the expected file.
        StoreError: The store can't be written.
    """
    writer.flush()
    summarize(writer.path)
    return writer.commit(expected)


def install_blobs(
    store: ModelStore, name: ModelName, digests: Sequence[Digest], licenses: tuple[str, ...], provenance: Provenance
) -> None:
    """Make a model of a GGUF that is in the store, or of the files of a split one: one model layer each, in order.

    Raises:
        ModelFileError: The files are no model that is safe to load.
        StoreError: The store can't be written.
    """
    by_path = {store.blobs.path(digest): digest for digest in digests}
    paths, summary = require_set(tuple(by_path))
    layers = []
    for path in paths:
        store.blobs.touch(by_path[path])
        layers.append(Layer(MODEL_LAYER, by_path[path], path.stat().st_size))
    for text in licenses:
        license_digest, _ = store.blobs.add_bytes(text.encode())
        layers.append(Layer(LAYER_PREFIX + "license", license_digest, len(text.encode())))
    config = encode_json({**config_json(summary), "donabe": provenance.to_json()})
    config_digest, _ = store.blobs.add_bytes(config)
    manifest = Manifest(Layer(CONFIG_TYPE, config_digest, len(config)), tuple(layers))
    store.write_manifest(name, manifest.encode())


def provenance_of(store: ModelStore, name: ModelName) -> Provenance | None:
    """The recorded origin of a stored model whose blobs are all here, or None."""
    import json

    from donabe.errors import DonabeError

    try:
        manifest = store.read_manifest(name).manifest
        if not all(store.blobs.has(layer.digest, layer.size) for layer in manifest.all_layers):
            return None
        value = json.loads(store.blobs.read_small(manifest.config.digest))["donabe"]
        return Provenance(str(value["source"]), tuple(str(text) for text in value["archives"]))
    except (DonabeError, ValueError, KeyError, TypeError):
        return None
