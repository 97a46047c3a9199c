"""Sampling and output options as arguments of the native `SamplerParams` and of an engine request, range-checked. Pure.

Numbers come from outside: NaN, infinities and values a sampler would misbehave on are refused here, naming the field,
so that the native side never sees them.
"""

from __future__ import annotations

import math
from typing import Any

from donabe.errors import InvalidRequestError
from donabe.types import OutputOptions, SamplingOptions

MAX_SEED = 2**32 - 2  # 2**32 - 1 means "random" to the native sampler
MAX_STOPS = 256
MAX_STOP_BYTES = 16384
MAX_TOP_LOGPROBS = 20
MAX_COMPLETIONS = 64
_MAX_INT = 2**31 - 1

# Closed ranges. Integers where both ends are int.
_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 1000.0),
    "top_k": (-1, _MAX_INT),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "typical_p": (0.0, 1.0),
    "repeat_last_n": (-1, _MAX_INT),
    "repeat_penalty": (1e-6, 1000.0),
    "presence_penalty": (-1000.0, 1000.0),
    "frequency_penalty": (-1000.0, 1000.0),
    "xtc_probability": (0.0, 1.0),
    "xtc_threshold": (0.0, 1.0),
    "dry_multiplier": (0.0, 1000.0),
    "dry_base": (0.0, 1000.0),
    "dry_allowed_length": (0, _MAX_INT),
    "dry_penalty_last_n": (-1, _MAX_INT),
    "mirostat": (0, 2),
    "mirostat_tau": (0.0, 1000.0),
    "mirostat_eta": (0.0, 1000.0),
}


def sampler_arguments(sampling: SamplingOptions, output: OutputOptions, *, n_vocab: int) -> dict[str, Any]:
    """Keyword arguments for `SamplerParams`, without grammar and seed.

    Raises:
        InvalidRequestError: A value is out of range.
    """
    arguments: dict[str, Any] = {
        name: check_range(name, getattr(sampling, name), low, high) for name, (low, high) in _RANGES.items()
    }
    arguments["top_k"] = max(0, arguments["top_k"])  # -1 and 0 both say "off" in the wild
    arguments["dry_sequence_breakers"] = list(sampling.dry_sequence_breakers)
    if sampling.logit_bias:
        arguments["logit_bias"] = _logit_bias(sampling.logit_bias, n_vocab)
    if output.logprobs or output.top_logprobs:
        arguments["n_logprobs"] = int(check_range("top_logprobs", output.top_logprobs, 0, MAX_TOP_LOGPROBS))
    return arguments


def seed_of(sampling: SamplingOptions) -> int | None:
    """Any integer is a seed: large and negative ones wrap around."""
    return None if sampling.seed is None else sampling.seed % (MAX_SEED + 1)


def stop_bytes(output: OutputOptions, extra: tuple[str, ...] = ()) -> tuple[bytes, ...]:
    """The stop strings of a request and of its template, without duplicates.

    Raises:
        InvalidRequestError: There are too many, or one is too long.
    """
    if len(output.stop) > MAX_STOPS:
        raise InvalidRequestError(
            f"stop has {len(output.stop)} strings, more than the {MAX_STOPS} allowed", field="stop"
        )
    stops = [stop.encode("utf-8", "replace") for stop in (*output.stop, *extra) if stop]
    if any(len(stop) > MAX_STOP_BYTES for stop in stops):
        raise InvalidRequestError(f"a stop string is longer than {MAX_STOP_BYTES} bytes", field="stop")
    return tuple(dict.fromkeys(stops))


def output_limit(output: OutputOptions) -> int | None:
    """`max_tokens`, checked."""
    if output.max_tokens is None:
        return None
    return int(check_range("max_tokens", output.max_tokens, 0, _MAX_INT))


def completion_count(n: int) -> int:
    return int(check_range("n", n, 1, MAX_COMPLETIONS))


def best_of_count(best_of: int, n: int) -> int:
    """How many completions are made so that the best n can be kept."""
    if best_of < n:
        raise InvalidRequestError(f"best_of must be at least n, which is {n}", field="best_of")
    return int(check_range("best_of", best_of, 1, MAX_COMPLETIONS))


def check_range(name: str, value: float, low: float, high: float) -> float:
    """The value, if it is a number in [low, high].

    Raises:
        InvalidRequestError: It is not.
    """
    is_integral = isinstance(low, int) and isinstance(high, int)
    if isinstance(value, bool) or not isinstance(value, int if is_integral else (int, float)):
        kind = "an integer" if is_integral else "a number"
        raise InvalidRequestError(f"{name} must be {kind}, not {value!r}", field=name)
    if not (math.isfinite(value) and low <= value <= high):
        raise InvalidRequestError(f"{name} must be between {low:g} and {high:g}, not {value!r}", field=name)
    return value


def _logit_bias(bias: dict[int, float], n_vocab: int) -> dict[int, float]:
    for token, value in bias.items():
        if not 0 <= token < n_vocab:
            raise InvalidRequestError(
                f"logit_bias names token {token}, but the model has tokens 0 to {n_vocab - 1}", field="logit_bias"
            )
        if math.isnan(value) or value == math.inf:
            raise InvalidRequestError(
                f"logit_bias of token {token} must be a number, not {value!r}", field="logit_bias"
            )
    return dict(bias)
