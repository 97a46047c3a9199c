"""How a model is loaded: what a request asks for over the server's settings, within what the model can.

Pure functions. What stays None is decided by the runner, from the memory there is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from donabe.types import LoadOptions, ModelSpec

# A vision model's context, at least: an image alone is hundreds of tokens.
VISION_N_CTX_MIN = 2048


@dataclass(frozen=True, kw_only=True)
class LoadDefaults:
    """Load options of the server's settings; a request's own win."""

    context_length: int = 0  # 0 = automatic
    num_parallel: int = 0  # 0 = automatic
    flash_attention: bool | None = None
    kv_cache_type: str | None = None
    backend: str | None = None
    devices: tuple[str, ...] = ()
    gpu_layers: int | None = None  # -1 all
    cpu_moe: int | None = None  # -1 all
    main_gpu: int | None = None
    tensor_split: tuple[float, ...] = ()
    rpc: tuple[str, ...] = ()
    max_step_latency_s: float | None = None
    auto_tune: Literal["off", "cached", "idle", "on"] = "cached"


def load_options(spec: ModelSpec, asked: LoadOptions, defaults: LoadDefaults) -> tuple[LoadOptions, tuple[str, ...]]:
    """How the model is to be loaded for a request that asks for these options, and warnings."""
    warnings: list[str] = []
    n_ctx = asked.n_ctx_per_request or defaults.context_length or None
    if n_ctx is not None:
        if "vision" in spec.capabilities:
            n_ctx = max(n_ctx, VISION_N_CTX_MIN)
        n_trained = spec.details.context_length
        if 0 < n_trained < n_ctx:
            if asked.n_ctx_per_request:
                warnings.append(f"num_ctx {n_ctx} lowered to {n_trained}, the context the model was trained for")
            n_ctx = n_trained
    changes: dict[str, Any] = {
        "n_ctx_per_request": n_ctx,
        "n_parallel": defaults.num_parallel or None,
        "flash_attention": defaults.flash_attention,
        "type_k": asked.type_k or defaults.kv_cache_type,
        "type_v": asked.type_v or defaults.kv_cache_type,
        "backend": defaults.backend,
        "devices": defaults.devices,
        "n_gpu_layers": defaults.gpu_layers if asked.n_gpu_layers is None else asked.n_gpu_layers,
        "n_cpu_moe": defaults.cpu_moe,
        "main_gpu": defaults.main_gpu if asked.main_gpu is None else asked.main_gpu,
        "tensor_split": defaults.tensor_split,
        "rpc": defaults.rpc,
        "max_step_latency_s": defaults.max_step_latency_s,
        "auto_tune": defaults.auto_tune,
    }
    return msgspec.structs.replace(asked, **changes), tuple(warnings)
