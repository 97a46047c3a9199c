"""Parameters that `/set parameter` accepts, and their types."""

from __future__ import annotations

from donabe.setting_values import Flag

_INTEGERS = frozenset(
    "dry_allowed_length dry_penalty_last_n main_gpu mirostat num_batch num_ctx num_gpu num_keep num_predict num_thread "
    "repeat_last_n seed top_k".split()
)
_NUMBERS = frozenset(
    "dry_base dry_multiplier frequency_penalty min_p mirostat_eta mirostat_tau presence_penalty repeat_penalty "
    "temperature top_p typical_p xtc_probability xtc_threshold".split()
)
_FLAGS = frozenset({"use_mmap"})

Parameter = int | float | bool | list[str]


def parse_parameter(name: str, words: list[str]) -> Parameter:
    """The value of a parameter from the words typed after it.

    Raises:
        ValueError: The name is unknown or the value has the wrong type.
    """
    if name == "stop":
        return words
    text = " ".join(words)
    if name in _INTEGERS:
        return _converted(int, text, "int")
    if name in _NUMBERS:
        return _converted(float, text, "float")
    if name in _FLAGS:
        try:
            return bool(Flag()(text))
        except ValueError:
            raise ValueError(f"invalid bool value [{text}]") from None
    raise ValueError(f"unknown parameter '{name}'")


def _converted(kind: type[int] | type[float], text: str, label: str) -> int | float:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"invalid {label} value [{text}]") from None
