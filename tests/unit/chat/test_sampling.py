"""Options as native arguments: values pass through, anything odd is refused by name."""

from __future__ import annotations

import math

import msgspec
import pytest

from donabe.chat import sampling
from donabe.errors import InvalidRequestError
from donabe.types import OutputOptions, SamplingOptions


def arguments(**changes: object) -> dict[str, object]:
    output = {k: changes.pop(k) for k in ("logprobs", "top_logprobs") if k in changes}
    return sampling.sampler_arguments(SamplingOptions(**changes), OutputOptions(**output), n_vocab=100)


def test_every_sampling_field_reaches_the_sampler() -> None:
    names = set(SamplingOptions.__struct_fields__) - {"seed"}  # the engine adds the seed
    assert set(arguments(logit_bias={1: 0.5})) == names
    assert arguments(temperature=0.3)["temperature"] == 0.3


def test_top_k_off_is_zero() -> None:
    assert arguments(top_k=-1)["top_k"] == 0


def test_logprobs_only_when_asked() -> None:
    assert "n_logprobs" not in arguments()
    assert arguments(logprobs=True)["n_logprobs"] == 0
    assert arguments(logprobs=True, top_logprobs=5)["n_logprobs"] == 5


@pytest.mark.parametrize("name", sorted(sampling._RANGES))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 2.0**63, -(2.0**63), "1", True, None])
def test_odd_value_of_any_field_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        arguments(**{name: value})
    assert caught.value.field == name
    assert name in str(caught.value)


@pytest.mark.parametrize("name", sorted(sampling._RANGES))
def test_ends_of_each_range_are_allowed_and_beyond_is_not(name: str) -> None:
    low, high = sampling._RANGES[name]
    for value in (low, high):
        arguments(**{name: value})
    for value in (low - 1, high + 1):
        with pytest.raises(InvalidRequestError, match="between"):
            arguments(**{name: value})


@pytest.mark.parametrize("bias", [{100: 1.0}, {-1: 1.0}, {1: math.nan}, {1: math.inf}])
def test_bad_logit_bias_is_refused(bias: dict[int, float]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        arguments(logit_bias=bias)
    assert caught.value.field == "logit_bias"


def test_banning_a_token_is_allowed() -> None:
    assert arguments(logit_bias={1: -math.inf})["logit_bias"] == {1: -math.inf}


@pytest.mark.parametrize(("seed", "expected"), [(None, None), (0, 0), (7, 7), (2**32 - 1, 0), (-1, 2**32 - 2)])
def test_any_integer_is_a_seed(seed: int | None, expected: int | None) -> None:
    assert sampling.seed_of(SamplingOptions(seed=seed)) == expected


def test_stops_are_bytes_without_duplicates_and_empties() -> None:
    output = OutputOptions(stop=("é", "", "x", "x"))
    assert sampling.stop_bytes(output, ("END", "x")) == ("é".encode(), b"x", b"END")


def test_too_many_or_too_long_stops_are_refused() -> None:
    for stop in (tuple(str(i) for i in range(sampling.MAX_STOPS + 1)), ("x" * (sampling.MAX_STOP_BYTES + 1),)):
        with pytest.raises(InvalidRequestError) as caught:
            sampling.stop_bytes(OutputOptions(stop=stop))
        assert caught.value.field == "stop"


@pytest.mark.parametrize("value", [-1, 2**31, 1.5, "5"])
def test_bad_max_tokens_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequestError, match="max_tokens"):
        sampling.output_limit(msgspec.structs.replace(OutputOptions(), max_tokens=value))


@pytest.mark.parametrize("n", [0, -1, sampling.MAX_COMPLETIONS + 1])
def test_bad_number_of_completions_is_refused(n: int) -> None:
    with pytest.raises(InvalidRequestError, match="n must be"):
        sampling.completion_count(n)
