"""The native dialect, replies about models: tags, ps, show, pull progress."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from donabe.api.durations import local_timestamp
from donabe.service.contracts import GgufSummary
from donabe.service.models import LoadedModel, ModelDescription, parameter_lines
from donabe.types import JsonObject, ModelDetails, ModelInfo, ModelSpec, PullProgress

_encode = msgspec.json.Encoder().encode

# Shown in fields of their own, or too large to be of use.
_HIDDEN_METADATA = frozenset({"general.name", "tokenizer.chat_template"})


def details_object(details: ModelDetails, *, with_lengths: bool = False, parent_model: str | None = None) -> JsonObject:
    """The `details` object; lengths only where the reference has them."""
    found: JsonObject = {
        "parent_model": details.parent_model if parent_model is None else parent_model,
        "format": details.format,
        "family": details.family,
        "families": details.families,
        "parameter_size": details.parameter_size,
        "quantization_level": details.quantization_level,
    }
    if with_lengths and details.context_length:
        found["context_length"] = details.context_length
    if with_lengths and details.embedding_length:
        found["embedding_length"] = details.embedding_length
    return found


def tags_body(specs: Sequence[ModelSpec]) -> bytes:
    """`GET /api/tags`."""
    return _encode({"models": [_tags_entry(spec) for spec in specs]})


def _tags_entry(spec: ModelSpec) -> JsonObject:
    entry: JsonObject = {
        "name": spec.name,
        "model": spec.name,
        "modified_at": local_timestamp(spec.modified_at),
        "size": spec.size_bytes,
        "digest": spec.digest.removeprefix("sha256:"),
        "details": details_object(spec.details, with_lengths=True),
    }
    if spec.capabilities:
        entry["capabilities"] = spec.capabilities
    return entry


def ps_body(models: Sequence[LoadedModel]) -> bytes:
    """`GET /api/ps`."""
    return _encode({"models": [_ps_entry(model) for model in models]})


def _ps_entry(model: LoadedModel) -> JsonObject:
    info = model.info
    entry: JsonObject = {
        "name": model.spec.name,
        "model": model.spec.name,
        "size": info.size_bytes,
        "digest": model.spec.digest.removeprefix("sha256:"),
        "details": details_object(model.spec.details, parent_model=""),
        "expires_at": local_timestamp(model.expires_at),
        "size_vram": info.size_vram_bytes,
        "context_length": info.n_ctx_per_request,
        "devices": info.devices,
        "device_bytes": info.device_bytes,
        "layers": info.n_layers,
        "gpu_layers": info.n_gpu_layers,
        "requests": model.n_requests,
        "caches": _reserved_caches(info),
    }
    status = model.status
    if status is not None:
        per_cell = status.kv_bytes_per_cell
        entry |= {"running": status.n_running, "waiting": status.n_waiting}
        entry["caches"] |= {
            "kv_cells": status.n_cells,
            "kv_cells_used": status.n_cells_used,
            "kv_cells_cached": status.n_cells_cached,
            "kv_bytes": status.n_cells * per_cell,
            "kv_used_bytes": status.n_cells_used * per_cell,
            "ram_bytes": status.cache_ram_bytes,
            "disk_bytes": status.cache_disk_bytes,
        }
    return entry


def _reserved_caches(info: ModelInfo) -> JsonObject:
    """Bytes of the caches that are there from the load on: of attention, sliding windows, recurrent states, and of the
    draft model."""
    found = {f"{name}_bytes": info.cache_bytes.get(name, 0) for name in ("window", "state", "draft")}
    others = {f"{name}_bytes": n_bytes for name, n_bytes in info.cache_bytes.items() if name != "attention"}
    return {"kv_bytes": info.cache_bytes.get("attention", 0)} | found | others


def show_body(
    description: ModelDescription, shown: ModelSpec, *, is_verbose: bool, modelfile: str, basename: str = ""
) -> bytes:
    """`POST /api/show`.

    Args:
        description: The model as it is stored.
        shown: The same with the request's system prompt and options laid over it.
        basename: What `general.basename` is, for clients that show it in place of the model's name.
    """
    spec, gguf = description.spec, description.gguf
    reply: JsonObject = {}
    if spec.licenses:
        reply["license"] = "\n".join(spec.licenses)
    reply["modelfile"] = modelfile
    if spec.parameters:
        reply["parameters"] = parameter_lines(spec.parameters)
    template = spec.template
    if template is None and gguf is not None:
        template = spec.chat_template or gguf.metadata.get("tokenizer.chat_template")
    reply["template"] = template or ""
    if shown.system:
        reply["system"] = shown.system
    reply["details"] = details_object(spec.details)
    if spec.messages:
        reply["messages"] = [{"role": m.role, "content": m.content} for m in spec.messages]
    reply["model_info"] = _metadata(gguf, is_verbose=is_verbose) if gguf is not None else {}
    if basename:
        reply["model_info"]["general.basename"] = basename
    if description.projector is not None:
        reply["projector_info"] = _metadata(description.projector, is_verbose=is_verbose)
    if gguf is not None and gguf.tensors:
        reply["tensors"] = [{"name": name, "type": kind, "shape": shape} for name, kind, shape in gguf.tensors]
    if spec.capabilities:
        reply["capabilities"] = spec.capabilities
    reply["modified_at"] = local_timestamp(spec.modified_at)
    if spec.requires:
        reply["requires"] = spec.requires
    return msgspec.json.encode(reply, enc_hook=_plain)


def _plain(value: Any) -> Any:
    """Array types of GGUF readers (numpy and the like) as lists and numbers."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} in GGUF metadata")


def _metadata(gguf: GgufSummary, *, is_verbose: bool) -> JsonObject:
    return {
        key: None if not is_verbose and _is_long(value) else value
        for key, value in gguf.metadata.items()
        if key not in _HIDDEN_METADATA
    }


def _is_long(value: object) -> bool:
    return not isinstance(value, (str, bytes)) and hasattr(value, "__len__") and len(value) > 0


def progress_line(progress: PullProgress) -> bytes:
    """One event of a pull, push or create, without its line end."""
    values: JsonObject = {"status": progress.status}
    if progress.digest:
        values["digest"] = progress.digest
    if progress.total:
        values["total"] = progress.total
    if progress.completed:
        values["completed"] = progress.completed
    return _encode(values)
