"""Puts small models into a store without any source."""

from __future__ import annotations

from tests.fakes.registry_gguf import FakeGguf, tiny_model

from donabe.store.digest import Digest
from donabe.store.manifests import CONFIG_TYPE, LAYER_PREFIX, Layer, Manifest, encode_json
from donabe.store.models import ModelStore
from donabe.store.names import ModelName


def add_layer(store: ModelStore, kind: str, data: bytes) -> Layer:
    digest, _ = store.blobs.add_bytes(data)
    return Layer(LAYER_PREFIX + kind, digest, len(data))


def add_config(store: ModelStore, **values: object) -> Layer:
    data = encode_json(values)
    digest, _ = store.blobs.add_bytes(data)
    return Layer(CONFIG_TYPE, digest, len(data))


def add_model(store: ModelStore, name: str, model: FakeGguf | None = None, **layers: bytes) -> Digest:
    """Store a model; keyword arguments are further layers by kind. Returns the digest of its GGUF."""
    weights = add_layer(store, "model", (model or tiny_model()).encode())
    config = add_config(store, model_format="gguf", model_family="llama", model_families=["llama"], model_type="12")
    others = tuple(add_layer(store, kind, data) for kind, data in layers.items())
    store.write_manifest(ModelName.parse(name), Manifest(config, (weights, *others)).encode())
    return weights.digest
