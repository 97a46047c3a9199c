"""The benchmark's model: SmolLM2-135M-Instruct requantised to Q4_0, kept in the download cache."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Folder of what benchmarks make once and keep."""
    return Path(os.environ.get("DONABE_CACHE_DIR", Path.home() / ".cache" / "donabe")) / "benchmarks"


def benchmark_model() -> Path:
    """Path of the GGUF; pulled and requantised on first use."""
    target = cache_dir() / "smollm2-135m-instruct-q4_0.gguf"
    if target.exists():
        return target
    from donabe import _core
    from donabe.store.resolve import resolve_model

    target.parent.mkdir(parents=True, exist_ok=True)
    source = resolve_model("smollm2").paths[0]
    part = target.with_suffix(".part")
    _core.init()
    _core.quantize(source, str(part), _core.QuantizeParams(ftype="Q4_0", allow_requantize=True))
    part.rename(target)
    return target
