"""What a loaded model says of itself: the bytes of its caches, where they are, and the options that donabe chose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from donabe import _core
from donabe.runner.load import Loaded, load_model
from donabe.types import LoadOptions, ModelDetails, ModelInfo, ModelSpec


@pytest.fixture
def loaded(tiny_model: Callable[[str], str], tmp_path: Path) -> Callable[..., object]:
    @contextmanager
    def load(architecture: str, *, draft: bool = False, **given: object) -> Iterator[tuple[ModelInfo, Loaded]]:
        values = {"n_ctx": 512, "n_parallel": 2, "auto_tune": "off", "prefix_cache_home": str(tmp_path)} | given
        path = tiny_model(architecture)
        spec = ModelSpec(name="m", paths=(path,), draft=path if draft else None, details=ModelDetails())
        model = load_model(spec, LoadOptions(**values))  # type: ignore[arg-type]
        try:
            yield model.info, model
        finally:
            model.close()

    return load


@pytest.mark.parametrize(
    ("architecture", "draft", "caches"),
    [
        ("llama", False, {"attention"}),
        ("llama", True, {"attention", "draft"}),
        ("gemma3", False, {"attention", "window"}),
        ("gemma3", True, {"attention", "window", "draft"}),
        ("granitehybrid", False, {"attention", "state"}),
        ("mamba2", False, {"state"}),
    ],
)
def test_every_cache_is_told(loaded: Callable[..., object], architecture: str, draft: bool, caches: set[str]) -> None:
    with loaded(architecture, draft=draft) as (info, model):  # type: ignore[attr-defined]
        found = {name: n_bytes for name, n_bytes in info.cache_bytes.items() if n_bytes}
        rows = model._engine.memory_breakdown()
    assert set(found) == caches
    assert sum(found.values()) == sum(row[2] for row in rows)
    assert info.device_bytes == {"CPU": info.size_bytes}
    assert info.size_bytes == sum(sum(row[1:]) for row in rows)


def test_automatic_options_are_told_as_they_came_out(loaded: Callable[..., object]) -> None:
    with loaded("llama", draft=True) as (info, model):  # type: ignore[attr-defined]
        context = model._engine._context
        expected = (context.n_batch, context.n_ubatch, context.flash_attention)
    came_out = info.loaded
    assert came_out is not None
    assert (came_out.n_batch, came_out.n_ubatch, came_out.flash_attention) == expected
    assert (came_out.n_threads, came_out.use_mmap, came_out.main_gpu) == (_core.n_physical_cores(), True, 0)
    assert (came_out.type_k, came_out.type_v, came_out.n_parallel) == ("f16", "f16", 2)
    assert (came_out.draft or "").endswith(".gguf")
    assert (came_out.n_draft_max, came_out.n_gpu_layers, info.n_gpu_layers, info.n_layers) == (8, 0, 0, 3)


def test_given_options_are_told_as_given(loaded: Callable[..., object]) -> None:
    given = {"n_threads": 1, "use_mmap": False, "n_batch": 64, "n_ubatch": 32, "type_k": "q8_0", "n_draft_max": 0}
    with loaded("llama", **given) as (info, _):  # type: ignore[attr-defined]
        came_out = info.loaded
    assert {name: getattr(came_out, name) for name in given} == given
    assert came_out is not None
    assert came_out.draft == ""
