"""Fixtures of the sampling and chat tests: vendored vocabularies, tiny models that write text, a seeded generator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.native.conftest import tiny_model, vendored_source
from tests.native_sampling.text_model import write_text_model

from donabe import _core

__all__ = ["tiny_model", "vendored_source"]


@pytest.fixture(scope="session", autouse=True)
def backend() -> None:
    _core.init()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture(scope="session")
def vocab_model(vendored_source: Path) -> _core.Model:
    """Qwen2's vocabulary: 151,936 tokens, control tokens, no weights."""
    path = vendored_source / "models" / "ggml-vocab-qwen2.gguf"
    return _core.Model(str(path), _core.ModelParams(vocab_only=True))


@pytest.fixture(scope="session")
def small_vocab_model(vendored_source: Path) -> _core.Model:
    """Llama's vocabulary: 32,000 tokens, with byte tokens."""
    path = vendored_source / "models" / "ggml-vocab-llama-spm.gguf"
    return _core.Model(str(path), _core.ModelParams(vocab_only=True))


@pytest.fixture(scope="session")
def text_model(
    tiny_model: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], _core.Model]:
    """text_model("llama") has random weights and a small vocabulary of characters, words, bytes and an end token."""
    folder = tmp_path_factory.mktemp("text-models")
    models: dict[str, _core.Model] = {}

    def get(architecture: str) -> _core.Model:
        if architecture not in models:
            path = folder / f"{architecture}.gguf"
            write_text_model(Path(tiny_model(architecture)), path)
            models[architecture] = _core.Model(str(path))
        return models[architecture]

    return get
