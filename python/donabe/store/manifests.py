"""Manifests: the JSON that says which blobs make up a model. Parsing (tolerant of extra keys, strict about the rest)
and writing (byte for byte as the reference system writes them). Pure; reading and writing files is `ModelStore`'s.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from donabe.errors import InvalidRequestError, StoreError
from donabe.store.digest import Digest

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
LAYER_PREFIX = "application/vnd.ollama.image."
MODEL_LAYER = LAYER_PREFIX + "model"

MAX_MANIFEST_BYTES = 4 << 20
MAX_LAYERS = 10_000  # models of one tensor per layer have a few thousand
_MAX_BLOB_BYTES = 1 << 46


@dataclass(frozen=True, slots=True)
class Layer:
    """One blob of a model and what it is for."""

    media_type: str
    digest: Digest
    size: int
    from_: str = ""
    name: str = ""

    @property
    def kind(self) -> str:
        """`model`, `template`, `params`, ... or "" for a foreign media type."""
        return self.media_type[len(LAYER_PREFIX) :] if self.media_type.startswith(LAYER_PREFIX) else ""

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        if self.from_:
            value["from"] = self.from_
        if self.name:
            value["name"] = self.name
        return value


@dataclass(frozen=True, slots=True)
class Manifest:
    """A parsed manifest."""

    config: Layer
    layers: tuple[Layer, ...]

    @property
    def size_bytes(self) -> int:
        """The model's size as listings show it: every layer and the config, repeated digests counted each time."""
        return self.config.size + sum(layer.size for layer in self.layers)

    @property
    def all_layers(self) -> tuple[Layer, ...]:
        """Layers in order, then the config: the order in which they are pulled."""
        return (*self.layers, self.config)

    @property
    def digests(self) -> frozenset[Digest]:
        return frozenset(layer.digest for layer in self.all_layers)

    def of_kind(self, kind: str) -> tuple[Layer, ...]:
        return tuple(layer for layer in self.layers if layer.kind == kind)

    def encode(self) -> bytes:
        """The bytes of a manifest made here; they end with a newline, which counts for the model's digest."""
        value = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": self.config.to_json(),
            "layers": [layer.to_json() for layer in self.layers],
        }
        return encode_json(value)

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """Parse a manifest, ours or a registry's.

        Raises:
            StoreError: It is too large, not JSON, or misses something; the message says what.
        """
        if len(data) > MAX_MANIFEST_BYTES:
            raise StoreError(f"manifest of {len(data)} bytes: more than the {MAX_MANIFEST_BYTES} allowed")
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise StoreError("manifest is not JSON") from error
        if not isinstance(value, dict):
            raise StoreError("manifest is not a JSON object")
        layers = value.get("layers")
        if not isinstance(layers, list):
            raise StoreError("manifest has no list of layers")
        if len(layers) > MAX_LAYERS:
            raise StoreError(f"manifest has {len(layers)} layers: more than the {MAX_LAYERS} allowed")
        config = _decode_layer(value.get("config"), "config")
        return cls(config, tuple(_decode_layer(layer, f"layers[{i}]") for i, layer in enumerate(layers)))


def _decode_layer(value: object, where: str) -> Layer:
    if not isinstance(value, dict):
        raise StoreError(f"manifest: {where} is not an object")
    try:
        digest = Digest.parse(value.get("digest"))
    except InvalidRequestError as error:
        raise StoreError(f"manifest: {where} has an invalid digest") from error
    size = value.get("size", 0)
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _MAX_BLOB_BYTES:
        raise StoreError(f"manifest: {where} has an invalid size")
    texts = [value.get(key) or "" for key in ("mediaType", "from", "name")]
    if not all(isinstance(text, str) for text in texts):
        raise StoreError(f"manifest: {where} has a field of the wrong type")
    return Layer(texts[0], digest, size, texts[1], texts[2])


_HTML_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def encode_json(value: object) -> bytes:
    """Compact JSON and a newline, with the escapes the reference system uses; stored digests depend on every byte."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character, escape in _HTML_ESCAPES.items():
        text = text.replace(character, escape)
    return text.encode() + b"\n"
