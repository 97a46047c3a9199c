"""From a manifest to a `ModelSpec`: which file is the model, what the other layers say, what the model can do."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from donabe.errors import ModelFileError, StoreError
from donabe.store.blobs import BlobStore
from donabe.store.capabilities import model_capabilities
from donabe.store.digest import Digest
from donabe.store.manifests import Layer, Manifest
from donabe.store.names import ModelName
from donabe.store.summary import GgufSummary, human_count, require_set, summarize
from donabe.types import AdapterSpec, Capability, JsonObject, Message, ModelDetails, ModelSpec

_KNOWN: frozenset[str] = frozenset(
    ("completion", "tools", "insert", "vision", "audio", "embedding", "thinking", "rerank")
)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The config blob. Keys we do not know are ignored; wrong types read as absent."""

    format: str = ""
    family: str = ""
    families: tuple[str, ...] | None = None
    parameter_size: str = ""
    file_type: str = ""
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    remote_host: str = ""
    remote_model: str = ""
    capabilities: tuple[Capability, ...] = ()
    context_length: int = 0
    embedding_length: int = 0
    raw: JsonObject = field(default_factory=dict)

    @classmethod
    def decode(cls, data: bytes) -> ModelConfig:
        """Raises StoreError when the blob is not a JSON object."""
        value = _json_object(data, "config")

        def text(key: str) -> str:
            found = value.get(key)
            return found if isinstance(found, str) else ""

        def number(key: str) -> int:
            found = value.get(key)
            return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else 0

        return cls(
            format=text("model_format"),
            family=text("model_family"),
            families=_texts(value.get("model_families")),
            parameter_size=text("model_type"),
            file_type=text("file_type"),
            renderer=text("renderer"),
            parser=text("parser"),
            requires=text("requires"),
            remote_host=text("remote_host"),
            remote_model=text("remote_model"),
            capabilities=tuple(c for c in _texts(value.get("capabilities")) or () if c in _KNOWN),  # type: ignore[misc]
            context_length=number("context_length"),
            embedding_length=number("embedding_length"),
            raw=value,
        )


def config_json(summary: GgufSummary) -> JsonObject:
    """The config of a plain GGUF model, with the keys and order the reference system writes."""
    return {
        "model_format": "gguf",
        "model_family": summary.architecture,
        "model_families": [summary.architecture],
        "model_type": human_count(summary.n_params),
        "file_type": summary.file_type,
        "architecture": "amd64",
        "os": "linux",
    }


def build_spec(
    name: ModelName, manifest: Manifest, digest: str, modified_at: float, blobs: BlobStore, *, strict: bool
) -> ModelSpec:
    """The spec of a stored model.

    Args:
        strict: Also refuse a model that can't be loaded. Listings are lenient: they show what they can.

    Raises:
        StoreError, ModelFileError: A blob is missing or damaged, or (strict) there is nothing to load.
    """
    config = ModelConfig.decode(blobs.read_small(manifest.config.digest))
    models = manifest.of_kind("model")
    paths, summary = _model_files(blobs, models, strict=strict)
    if strict and not paths:
        raise _nothing_to_load(name, manifest, config)
    projectors = [str(blobs.path(layer.digest)) for layer in manifest.of_kind("projector")]
    adapters = tuple(AdapterSpec(path=str(blobs.path(layer.digest))) for layer in manifest.of_kind("adapter"))
    drafts = [str(blobs.path(layer.digest)) for layer in manifest.of_kind("draft")]
    if strict:
        for path in (*projectors, *(adapter.path for adapter in adapters), *drafts):
            summarize(path)
    templates = [*manifest.of_kind("template"), *manifest.of_kind("prompt")]
    template = _text(blobs, templates[-1:]) if templates else None
    return ModelSpec(
        name=name.short,
        digest=digest,
        paths=paths,
        projector=projectors[0] if projectors else None,
        draft=drafts[-1] if drafts else None,
        adapters=adapters,
        template=template,
        system=_text(blobs, manifest.of_kind("system")[-1:]),
        parameters=_parameters(blobs, manifest.of_kind("params")),
        messages=_messages(blobs, manifest.of_kind("messages")[-1:]),
        licenses=tuple(_text(blobs, (layer,)) for layer in manifest.of_kind("license")),
        capabilities=model_capabilities(config, summary, projectors, template),
        size_bytes=manifest.size_bytes,
        modified_at=modified_at,
        details=_details(config, summary, models),
        parser=config.parser,
        renderer=config.renderer,
        requires=config.requires,
    )


def plain_spec(name: str, paths: Sequence[Path], summary: GgufSummary, projector: Path | None = None) -> ModelSpec:
    """The spec of GGUF files that belong to no store. `digest` stands for their paths, sizes and times."""
    statuses = [path.stat() for path in paths]
    mark = "\0".join(f"{path}\0{s.st_size}\0{s.st_mtime_ns}" for path, s in zip(paths, statuses, strict=True))
    config = ModelConfig(format="gguf")
    projectors = [str(projector)] if projector else []
    return ModelSpec(
        name=name,
        digest=Digest.of_bytes(mark.encode("utf-8", "surrogateescape")).hex,
        paths=tuple(str(path) for path in paths),
        projector=projectors[0] if projectors else None,
        capabilities=model_capabilities(config, summary, projectors, None),
        size_bytes=sum(status.st_size for status in statuses),
        modified_at=max(status.st_mtime for status in statuses),
        details=_details(config, summary, ()),
    )


def _model_files(
    blobs: BlobStore, models: Sequence[Layer], *, strict: bool
) -> tuple[tuple[str, ...], GgufSummary | None]:
    """The last model layer; of a model stored as a split set, every layer, in the order of the set."""
    if not models:
        return (), None
    paths = [blobs.path(layer.digest) for layer in models[-1:]]
    try:
        n_splits = summarize(paths[0]).n_splits
        if n_splits > 1:
            every = dict.fromkeys(blobs.path(layer.digest) for layer in models)
            paths = [path for path in every if summarize(path).n_splits == n_splits]
        found, summary = require_set(paths)
    except ModelFileError:
        if strict:
            raise
        return tuple(map(str, paths)), None
    return tuple(map(str, found)), summary


def _nothing_to_load(name: ModelName, manifest: Manifest, config: ModelConfig) -> StoreError:
    if config.remote_host:
        return StoreError(f"{name.short} is a model of {config.remote_host}, there is nothing to run here")
    if manifest.of_kind("tensor"):
        return StoreError(
            f"{name.short} is stored as safetensors; donabe runs GGUF models", hint="use a GGUF build of it"
        )
    return StoreError(f"{name.short} has no model layer", hint="pull or create the model again")


def _details(config: ModelConfig, summary: GgufSummary | None, models: Sequence[Layer]) -> ModelDetails:
    family = config.family or (summary.architecture if summary else "")
    return ModelDetails(
        parent_model=models[-1].from_ if models else "",
        format=config.format or "gguf",
        family=family,
        families=config.families or ((family,) if family else None),
        parameter_size=config.parameter_size or (summary.parameter_size if summary else ""),
        quantization_level=config.file_type or (summary.file_type if summary else ""),
        context_length=config.context_length or (summary.context_length if summary else 0),
        embedding_length=config.embedding_length or (summary.embedding_length if summary else 0),
    )


def _text(blobs: BlobStore, layers: Sequence[Layer]) -> str:
    return "".join(blobs.read_small(layer.digest).decode("utf-8", "replace") for layer in layers)


def _parameters(blobs: BlobStore, layers: Sequence[Layer]) -> JsonObject:
    merged: JsonObject = {}
    for layer in layers:
        merged |= _json_object(blobs.read_small(layer.digest), "params")
    return merged


def _messages(blobs: BlobStore, layers: Sequence[Layer]) -> tuple[Message, ...]:
    found: list[Message] = []
    for layer in layers:
        try:
            values = json.loads(blobs.read_small(layer.digest))
            found += [
                Message(role=str(value.get("role", "")), content=str(value.get("content") or "")) for value in values
            ]
        except (ValueError, AttributeError, TypeError, RecursionError) as error:
            raise StoreError("the messages layer is not a list of messages", hint="create the model again") from error
    return tuple(found)


def _json_object(data: bytes, what: str) -> JsonObject:
    try:
        value: Any = json.loads(data, parse_constant=lambda _: math.nan)
    except (ValueError, RecursionError, msgspec.DecodeError) as error:
        raise StoreError(f"the {what} layer is not JSON", hint="pull or create the model again") from error
    if not isinstance(value, dict):
        raise StoreError(f"the {what} layer is not a JSON object", hint="pull or create the model again")
    return value


def _texts(value: object) -> tuple[str, ...] | None:
    if not isinstance(value, list):
        return None
    return tuple(item for item in value if isinstance(item, str))
