"""Models laid out for Ollama's own engine, which llama.cpp does not read (or worse: reads, and answers nonsense).

Older published files of some architectures keep vision weights inside the text model, or name keys and tensors in a
way of their own. Each marker is from files in circulation. Such a file is refused with the reason; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable

from donabe.errors import ModelFileError
from donabe.store.gguf import GgufReader

_HINT = "use a build made for llama.cpp, for example one from hf.co/ggml-org, with its projector beside it"

_OWN_ARCHITECTURES = frozenset(
    ("deepseekocr", "glm4moelite", "glmocr", "gptoss", "mllama", "nemotron_h_omni", "olmo3", "qwen25vl")
)
_MONOLITHS = frozenset(
    (
        "gemma3",
        "gemma3n",
        "gemma4",
        "llama4",
        "mistral3",
        "nemotron_h_moe",
        "qwen35",
        "qwen35moe",
        "qwen3vl",
        "qwen3vlmoe",
    )
)
_EMBEDDED_PREFIXES = ("v.", "mm.", "a.", "mtp.", "model.vision_tower.")

_MARKERS: dict[str, Callable[[GgufReader], str]] = {
    "gemma3": lambda reader: (
        _key(reader, "rope.global.freq_base", "rope.local.freq_base") or _tensor(reader, "dense.0.")
    ),
    "laguna": lambda reader: _key(reader, "rope.swa.freq_base", "rope.swa.dimension_count"),
    "qwen3next": lambda reader: next((t.name for t in reader.tensors if t.name.endswith(".ssm_dt")), ""),
    "nemotron_h_moe": lambda reader: next((t.name for t in reader.tensors if "ffn_latent_in" in t.name), ""),
}


def check_dialect(reader: GgufReader) -> None:
    """Refuse a model that only Ollama's engine reads.

    Raises:
        ModelFileError: It is one; the message names the mark it was recognised by.
    """
    mark = _find_mark(reader)
    if mark:
        raise _refusal(reader.file_name, mark)


def check_family(family: str, name: str) -> None:
    """Refuse a model by the architecture its config names, before anything of it is downloaded.

    Raises:
        ModelFileError: Only Ollama's engine reads this architecture.
    """
    if family in _OWN_ARCHITECTURES:
        raise _refusal(name, f"architecture {family}")


def _refusal(name: str, mark: str) -> ModelFileError:
    return ModelFileError(
        f"{name}: this model is laid out for Ollama's own engine ({mark}); llama.cpp does not read it",
        path=name,
        hint=_HINT,
    )


def _find_mark(reader: GgufReader) -> str:
    arch = reader.architecture
    if arch in _OWN_ARCHITECTURES:
        return f"architecture {arch}"
    if arch in _MONOLITHS:
        embedded = next((name for prefix in _EMBEDDED_PREFIXES if (name := _tensor(reader, prefix))), "")
        if embedded:
            return f"it has {embedded} inside"
    found = _MARKERS[arch](reader) if arch in _MARKERS else ""
    return f"it has {found}" if found else ""


def _key(reader: GgufReader, *suffixes: str) -> str:
    keys = (f"{reader.architecture}.{suffix}" for suffix in suffixes)
    return next((key for key in keys if key in reader.entries), "")


def _tensor(reader: GgufReader, prefix: str) -> str:
    return next((tensor.name for tensor in reader.tensors if tensor.name.startswith(prefix)), "")
