"""Models laid out for Ollama's own engine, which llama.cpp does not read (or worse: reads, and answers nonsense).

Older published files of some architectures keep vision weights inside the text model, or name keys and tensors in a
way of their own. Each marker is from files in circulation. Such a file is refused with the reason; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable

from donabe.errors import ModelFileError
from donabe.store import gguf_rules
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
    "laguna": lambda reader: (
        _key(reader, "rope.swa.freq_base", "rope.swa.dimension_count") or _layer_tensor(reader, ".attn_g.weight")
    ),
    "mistral3": lambda reader: _key(reader, "rope.scaling_beta"),
    "nemotron_h_moe": lambda reader: _layer_tensor(reader, ".ffn_latent_in.weight", ".ffn_latent_in"),
    "qwen35": lambda reader: _key(reader, "ssm.v_head_reordered") or _layer_tensor(reader, ".ssm_dt"),
    "qwen35moe": lambda reader: _key(reader, "ssm.v_head_reordered") or _layer_tensor(reader, ".ssm_dt"),
    "qwen3next": lambda reader: _layer_tensor(reader, ".ssm_dt"),
}
# What llama.cpp asks these files for, and the other engine left out.
_NEEDED_KEYS = {"qwen3vl": "rope.dimension_sections", "qwen3vlmoe": "rope.dimension_sections"}


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
    if found:
        return f"it has {found}"
    if gguf_rules.is_later_part(reader):
        return ""
    return _find_lack(reader)


def _find_lack(reader: GgufReader) -> str:
    needed = _NEEDED_KEYS.get(reader.architecture, "")
    if needed and not _key(reader, needed):
        return f"it lacks {reader.architecture}.{needed}"
    is_whole = reader.integer("split.count") <= 1
    names = {tensor.name for tensor in reader.tensors} if reader.architecture == "lfm2" and is_whole else set()
    if "output_norm.weight" in names and "token_embd_norm.weight" not in names:
        return "it has output_norm.weight in place of token_embd_norm.weight"
    return ""


def _key(reader: GgufReader, *suffixes: str) -> str:
    keys = (f"{reader.architecture}.{suffix}" for suffix in suffixes)
    return next((key for key in keys if key in reader.entries), "")


def _layer_tensor(reader: GgufReader, *suffixes: str) -> str:
    return next((tensor.name for tensor in reader.tensors if tensor.name.endswith(suffixes)), "")


def _tensor(reader: GgufReader, prefix: str) -> str:
    return next((tensor.name for tensor in reader.tensors if tensor.name.startswith(prefix)), "")
