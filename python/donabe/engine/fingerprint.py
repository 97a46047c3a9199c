"""What a stored state depends on besides its tokens. A state is only ever given back to a context that agrees in all.

The model's files count by size, time and samples of their contents: reading all of them would take longer than the
prompt. Everything else is text that an error can name.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from donabe.engine.disk_container import pack_texts
from donabe.types import LoadOptions

if TYPE_CHECKING:
    from donabe._core import Adapter, Context, Model

_FRONT_BYTES = 1 << 20  # holds most of a GGUF header
_SAMPLE_BYTES = 1 << 16
_N_SAMPLES = 32


def state_fingerprint(
    native: Any,
    model: Model,
    context: Context,
    options: LoadOptions,
    paths: Sequence[str],
    adapters: Sequence[tuple[Adapter, float]] = (),
) -> dict[str, str]:
    """Raises OSError when a file can't be read."""
    build = native.build_info()
    meta = model.meta()
    depends_on_length = any("rope.scaling" in name for name in meta)
    return {
        "build": "/".join(str(build[name]) for name in ("build_id", "llama_version", "ggml_version", "ggml_commit")),
        "model": " ".join(file_digest(path) for path in paths),
        "meta": hashlib.sha256(pack_texts(meta)).hexdigest(),
        "architecture": model.architecture,
        "n_layer": str(model.n_layer),
        "n_embd": str(model.n_embd),
        "memory_kind": model.memory_kind,
        "n_swa": f"{model.n_swa} full={options.swa_full}",
        "type_k": options.type_k or "f16",
        "type_v": options.type_v or "f16",
        "flash_attention": str(context.flash_attention),  # also decides how V is laid out
        "rope_length": str(context.n_ctx_seq) if depends_on_length else "",
        "adapters": " ".join(f"{file_digest(adapter.path)}*{scale}" for adapter, scale in adapters),
    }


def file_digest(path: str) -> str:
    """Of size, modification time and samples over the whole file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        info = os.fstat(file.fileno())
        digest.update(f"{info.st_size} {info.st_mtime_ns}".encode())
        digest.update(file.read(_FRONT_BYTES))
        for i in range(_N_SAMPLES):
            file.seek(max(info.st_size - _SAMPLE_BYTES, 0) * i // (_N_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()
