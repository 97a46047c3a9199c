"""What a loaded model came to, as a ModelInfo: where it is, what it takes, and the options it really has."""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec

from donabe import _core
from donabe.devices.selection import backend_name
from donabe.engine.engine import ContextSizes, Engine
from donabe.runner.draft import draft_path
from donabe.runner.native_params import device_ids
from donabe.runner.plans import CPU
from donabe.types import Capability, LoadOptions, ModelInfo, ModelSpec

# What the bytes beside attention are, where only one kind of layer has them.
_CACHES = {"iswa": "window", "recurrent": "state", "hybrid": "state"}


def describe_model(
    model: _core.Model,
    spec: ModelSpec,
    options: LoadOptions,
    engine: Engine | None,
    *,
    n_parallel: int,
    n_ctx_per_request: int,
    notes: Sequence[str] = (),
) -> ModelInfo:
    """Only before the engine's thread runs.

    Args:
        options: With the devices named and the layers on them counted.
        engine: None for models that can't generate.
        notes: What callers should know of the load.
    """
    n_cells = engine.status().n_cells if engine is not None else n_ctx_per_request
    n_layers = model.n_layer + 1
    n_gpu_layers = _n_gpu_layers(options, n_layers)
    if engine is None:
        device_bytes = _weights_bytes(model, options, n_gpu_layers / n_layers)
    else:
        device_bytes = _reserved_bytes(engine)
    return ModelInfo(
        architecture=model.architecture,
        description=model.description,
        n_params=model.n_params,
        n_ctx=n_cells,
        n_ctx_train=model.n_ctx_train,
        n_ctx_per_request=n_ctx_per_request,
        n_embd=model.n_embd_out,
        n_vocab=model.vocab.n_tokens,
        n_parallel=n_parallel,
        memory_kind=model.memory_kind,
        size_bytes=sum(device_bytes.values()),
        size_vram_bytes=sum(n_bytes for id, n_bytes in device_bytes.items() if id != CPU),
        capabilities=_capabilities(spec, engine),
        devices=tuple(_shown_name(name) for name in options.devices),
        pid=os.getpid(),
        n_layers=n_layers,
        n_gpu_layers=n_gpu_layers,
        device_bytes=device_bytes,
        cache_bytes=_cache_bytes(model, engine.sizes()) if engine is not None else {},
        loaded=_loaded_options(spec, options, engine, n_gpu_layers=n_gpu_layers, n_parallel=n_parallel),
        notes=tuple(notes),
    )


def _weights_bytes(model: _core.Model, options: LoadOptions, share: float) -> dict[str, int]:
    """About where the weights are, for models whose contexts are made when they are needed."""
    if not share:
        return {CPU: model.size_bytes}
    ids = device_ids()
    names = options.devices if options.main_gpu is None else (options.devices[options.main_gpu],)
    there = int(model.size_bytes * share)
    return {CPU: model.size_bytes - there} | {ids.get(name, name): there // len(names) for name in names}


def _reserved_bytes(engine: Engine) -> dict[str, int]:
    """Bytes of weights, caches and compute buffers, by the id of the device; what is on none is the machine's."""
    ids = set(device_ids().values())
    found = {CPU: 0}
    for name, *parts in engine.memory_breakdown():
        id = name if name in ids else CPU
        found[id] = found.get(id, 0) + sum(parts)
    return found


def _cache_bytes(model: _core.Model, sizes: ContextSizes) -> dict[str, int]:
    """Bytes of the caches by kind of layer, and of the draft model's."""
    name = _CACHES.get(model.memory_kind, "window_and_state")
    rest = {name: sizes.cache_bytes - sizes.attention_bytes}
    draft = {"draft": sizes.draft_cache_bytes}
    return {"attention": sizes.attention_bytes, **{key: n for key, n in (rest | draft).items() if n > 0}}


def _n_gpu_layers(options: LoadOptions, n_layers: int) -> int:
    """Layers on devices; without a number llama.cpp puts all of them there."""
    if options.devices in ((), (CPU,)):
        return 0
    asked = -1 if options.n_gpu_layers is None else options.n_gpu_layers
    return n_layers if asked < 0 else min(asked, n_layers)


def _loaded_options(
    spec: ModelSpec, options: LoadOptions, engine: Engine | None, *, n_gpu_layers: int, n_parallel: int
) -> LoadOptions:
    """The options, with what donabe chose where they were automatic. One device, or none, is the main one."""
    changes: dict[str, object] = {
        "n_gpu_layers": n_gpu_layers,
        "main_gpu": 0 if options.main_gpu is None and len(options.devices) <= 1 else options.main_gpu,
        "n_threads": options.n_threads or _core.n_physical_cores(),
        # llama.cpp's own choice for the CPU; on devices it depends on what they can do
        "use_mmap": True if options.use_mmap is None and options.devices == (CPU,) else options.use_mmap,
        "type_k": options.type_k or "f16",
        "type_v": options.type_v or "f16",
        "draft": (draft_path(spec, options) or "") if engine is not None else "",
    }
    if engine is not None:
        sizes = engine.sizes()
        changes |= {
            "n_parallel": n_parallel,
            "n_draft_max": sizes.n_draft_max,
            "n_batch": sizes.n_batch,
            "n_ubatch": sizes.n_ubatch,
            "flash_attention": sizes.flash_attention,
        }
    return msgspec.structs.replace(options, **changes)


def _capabilities(spec: ModelSpec, engine: Engine | None) -> tuple[Capability, ...]:
    """What the store declared, else what the file shows."""
    if spec.capabilities:
        return spec.capabilities
    return ("completion",) if engine is not None else ("embedding",)


def _shown_name(name: str) -> str:
    """A device's name; of one of another machine with the address, as in its buffers' names."""
    for device in _core.devices():
        if device.name == name and backend_name(device.backend) == "rpc":
            return f"{name}[{device.description}]"
    return name
