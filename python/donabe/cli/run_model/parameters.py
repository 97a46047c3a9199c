"""Parameters that `/set parameter` accepts, and their types; the server checks ranges (donabe.service.parameters)."""

from __future__ import annotations

from donabe.setting_values import Flag

KINDS: dict[str, str] = {
    "dry_allowed_length": "int",
    "dry_base": "float",
    "dry_multiplier": "float",
    "dry_penalty_last_n": "int",
    "frequency_penalty": "float",
    "kv_cache_type": "text",
    "main_gpu": "int",
    "min_p": "float",
    "mirostat": "int",
    "mirostat_eta": "float",
    "mirostat_tau": "float",
    "num_batch": "int",
    "num_ctx": "int",
    "num_gpu": "int",
    "num_keep": "int",
    "num_predict": "int",
    "num_thread": "int",
    "presence_penalty": "float",
    "repeat_last_n": "int",
    "repeat_penalty": "float",
    "seed": "int",
    "stop": "texts",
    "temperature": "float",
    "top_k": "int",
    "top_p": "float",
    "typical_p": "float",
    "use_mmap": "bool",
    "xtc_probability": "float",
    "xtc_threshold": "float",
}

Parameter = int | float | bool | str | list[str]


def parse_parameter(name: str, words: list[str]) -> Parameter:
    """The value of a parameter from the words typed after it.

    Raises:
        ValueError: The name is unknown or the value has the wrong type.
    """
    kind = KINDS.get(name)
    text = " ".join(words)
    try:
        if kind == "texts":
            return words
        if kind == "text":
            return text
        if kind == "bool":
            return bool(Flag()(text))
        if kind is not None:
            return int(text) if kind == "int" else float(text)
    except ValueError:
        raise ValueError(f"invalid {kind} value [{text}]") from None
    raise ValueError(f"unknown parameter '{name}'")
