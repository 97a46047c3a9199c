"""Options: checked against the one table, merged over stored parameters and defaults, spelled as the engine wants."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from donabe.errors import InvalidRequestError
from donabe.service.load_options import LoadDefaults, load_options
from donabe.service.parameters import PARAMETERS, SEED_MODULUS, check, check_options, merge_options
from donabe.types import ModelDetails, ModelSpec


def test_later_layers_win():
    options = merge_options({"temperature": 0.5, "top_k": 7}, {"top_k": 9}, defaults={"temperature": 1.0, "top_p": 1.0})
    sampling = options.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.5, 9, 1.0)


@pytest.mark.parametrize(
    ("requested", "part", "field", "value"),
    [
        ({"num_ctx": 0}, "load", "n_ctx_per_request", None),
        ({"num_ctx": 1}, "load", "n_ctx_per_request", 4),
        ({"num_gpu": -1}, "load", "n_gpu_layers", None),
        ({"num_gpu": 0}, "load", "n_gpu_layers", 0),
        ({"num_thread": 0}, "load", "n_threads", None),
        ({"kv_cache_type": "q8_0"}, "load", "type_k", "q8_0"),
        ({"kv_cache_type": "q8_0"}, "load", "type_v", "q8_0"),
        ({"seed": -1}, "sampling", "seed", None),
        ({"seed": 2**32 - 1}, "sampling", "seed", 0),
        ({"top_k": -1}, "sampling", "top_k", 0),
        ({"num_predict": -1}, "output", "max_tokens", None),
        ({"num_predict": 0}, "output", "max_tokens", 0),
        ({"stop": ["", "x"]}, "output", "stop", ("x",)),
    ],
)
def test_special_values(requested, part, field, value):
    known, _ = check_options(requested)
    assert getattr(getattr(merge_options({}, known), part), field) == value


def test_kv_cache_type_is_one_of_a_list():
    with pytest.raises(InvalidRequestError, match=r"kv_cache_type.* must be one of f32, f16, .*, got 'q9_9'"):
        check_options({"kv_cache_type": "q9_9"})
    with pytest.raises(InvalidRequestError, match="must be of type string"):
        check_options({"kv_cache_type": 8})


def test_kv_cache_type_of_the_model_wins_over_the_server_s():
    spec = ModelSpec(name="m", paths=("/m.gguf",), details=ModelDetails())
    defaults = LoadDefaults(kv_cache_type="q4_0")
    stored = merge_options({"kv_cache_type": "q8_0"}, {}).load
    loaded, _ = load_options(spec, stored, defaults)
    assert (loaded.type_k, loaded.type_v) == ("q8_0", "q8_0")
    loaded, _ = load_options(spec, merge_options({}, {}).load, defaults)
    assert (loaded.type_k, loaded.type_v) == ("q4_0", "q4_0")


def test_keep_and_unknown_names():
    known, unknown = check_options({"num_keep": -5, "mystery": 1, "seed": None})
    assert (merge_options({}, known).n_keep, unknown) == (-1, ("mystery",))
    assert "seed" not in known


def test_stored_parameters_of_a_bad_type_are_named():
    with pytest.raises(InvalidRequestError, match='stored parameter "temperature" must be of type float32'):
        merge_options({"temperature": "hot"}, {})
    assert merge_options({"stop": "<end>", "unheard_of": 1}, {}).output.stop == ("<end>",)


def test_error_uses_the_callers_name_for_the_field():
    with pytest.raises(InvalidRequestError) as caught:
        check("num_predict", "x", field="max_tokens")
    assert (str(caught.value), caught.value.field) == ("max_tokens must be of type integer", "max_tokens")


@given(st.integers())
def test_every_seed_is_one_the_sampler_takes(seed):
    parameter = PARAMETERS["seed"]
    if parameter.low <= seed <= parameter.high:
        known, _ = check_options({"seed": seed})
        found = merge_options({}, known).sampling.seed
        assert found is None or 0 <= found < SEED_MODULUS


@given(st.sampled_from(sorted(PARAMETERS)), st.one_of(st.integers(), st.floats(), st.text(), st.booleans(), st.none()))
def test_no_value_gets_past_its_range(name, value):
    parameter = PARAMETERS[name]
    try:
        found = check(name, value)
    except InvalidRequestError as error:
        assert name in str(error)
        return
    if parameter.kind in ("integer", "float32"):
        assert parameter.low <= found <= parameter.high
