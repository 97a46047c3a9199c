"""A draft model that the model names is loaded with it and guesses; options can name another, or none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from donabe.errors import ModelFileError
from donabe.runner.load import load_model
from donabe.types import LoadOptions, ModelDetails, ModelSpec


def has_draft(spec: ModelSpec, home: Path, **given: object) -> bool:
    options = LoadOptions(n_threads=1, n_ctx=512, n_parallel=2, prefix_cache_home=str(home), **given)  # type: ignore[arg-type]
    loaded = load_model(spec, options)
    try:
        assert loaded._engine is not None
        return loaded._engine._draft is not None
    finally:
        loaded.close()


def spec_of(path: str, draft: str | None) -> ModelSpec:
    return ModelSpec(name="m", paths=(path,), draft=draft, details=ModelDetails())


def test_draft_model_is_the_models_own_unless_options_say_otherwise(
    tiny_model: Callable[[str], str], tmp_path: Path
) -> None:
    path = tiny_model("llama")
    named = spec_of(path, path)
    assert has_draft(named, tmp_path)
    assert not has_draft(named, tmp_path, draft="")
    assert not has_draft(named, tmp_path, n_draft_max=0)
    assert not has_draft(spec_of(path, None), tmp_path)
    assert has_draft(spec_of(path, None), tmp_path, draft=path)
    with pytest.raises(ModelFileError, match=r"gone\.gguf does not exist"):
        has_draft(spec_of(path, str(tmp_path / "gone.gguf")), tmp_path)


@pytest.mark.parametrize("architecture", ["mamba2", "granitehybrid", "lfm2"])
def test_memory_that_can_not_take_guesses_back_gets_no_draft_model(
    tiny_model: Callable[[str], str], tmp_path: Path, architecture: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tiny_model(architecture)
    assert not has_draft(spec_of(path, path), tmp_path)
    assert "can't take guesses back" in caplog.text
