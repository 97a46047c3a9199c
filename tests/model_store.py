"""The real models that `models`-marked tests run on: pulled once into a store outside the checkout, then reused.

DONABE_TEST_MODELS names the store's folder; the default is ~/.cache/donabe/test-models. Nothing here is a fake: models
come through donabe's own pull.
"""

from __future__ import annotations

import os
from pathlib import Path

from donabe.store.models import ModelStore
from donabe.store.resolve import resolve_model
from donabe.types import ModelSpec

SMOLLM2 = "smollm2:135m"
GEMMA3 = "gemma3:270m"


def store_folder() -> Path:
    return Path(os.environ.get("DONABE_TEST_MODELS") or Path.home() / ".cache" / "donabe" / "test-models")


def shared_store() -> ModelStore:
    """The shared store of the tests."""
    return ModelStore(store_folder())


def ensure_spec(name: str) -> ModelSpec:
    """The model's spec, pulling it on first use."""
    return resolve_model(name, store=shared_store())


def ensure_model(name: str) -> Path:
    """The model's GGUF file, pulling it on first use."""
    return Path(ensure_spec(name).paths[0])
