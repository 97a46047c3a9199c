"""Plans of whole loads: the draft model as far as a load would use it, the projector, and what needs no plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tests.bert_gguf import MEAN, RANK, random_bert

from donabe.errors import ModelFileError
from donabe.runner import memory_plan
from donabe.runner.draft import draft_options
from donabe.runner.load import load_model
from donabe.runner.memory_plan import Planner
from donabe.runner.plans import MemoryPlan, ProjectorPlan
from donabe.runner.probe import Probed
from donabe.types import LoadOptions, ModelDetails, ModelSpec

TinyModel = Callable[[str], str]


@pytest.fixture
def options(tmp_path: Path) -> LoadOptions:
    return LoadOptions(n_threads=1, n_ctx=512, n_parallel=2, auto_tune="off", prefix_cache_home=str(tmp_path))


def spec_of(path: str, **values: object) -> ModelSpec:
    return ModelSpec(name="m", paths=(path,), details=ModelDetails(), **values)  # type: ignore[arg-type]


def draft_bytes(plan: MemoryPlan) -> int:
    return sum(device.draft_bytes for device in plan.devices)


def test_draft_model_counts_as_it_is_loaded(tiny_model: TinyModel, options: LoadOptions) -> None:
    spec = spec_of(tiny_model("llama"), draft=tiny_model("llama"))
    plan = Planner(spec, options).plan()
    without = Planner(spec, msgspec.structs.replace(options, draft="")).plan()
    loaded = load_model(spec, msgspec.structs.replace(options, use_mmap=False))
    assert loaded._engine is not None
    assert loaded._engine._draft is not None
    real = sum(sum(row[1:]) for row in loaded._engine._draft.memory_breakdown())
    drafted = plan.resident_bytes - without.resident_bytes
    loaded.close()
    assert draft_bytes(plan) == pytest.approx(real, rel=0.05)
    assert drafted >= draft_bytes(plan)
    assert draft_bytes(without) == 0


@pytest.mark.parametrize(("model", "draft"), [("mamba2", "mamba2"), ("llama", "mamba2")])
def test_draft_model_that_a_load_would_not_use_costs_nothing(
    tiny_model: TinyModel, options: LoadOptions, model: str, draft: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The large model can't take guesses back, or the small one can't."""
    assert draft_bytes(Planner(spec_of(tiny_model(model), draft=tiny_model(draft)), options).plan()) == 0
    assert not caplog.records  # the load says why


def test_missing_draft_file_is_an_error(tiny_model: TinyModel, options: LoadOptions, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"gone\.gguf does not exist"):
        Planner(spec_of(tiny_model("llama"), draft=str(tmp_path / "gone.gguf")), options)


def test_projector_is_told_and_not_counted(tiny_model: TinyModel, options: LoadOptions, tmp_path: Path) -> None:
    projector = tmp_path / "mmproj.gguf"
    projector.write_bytes(bytes(1000))
    spec = spec_of(tiny_model("llama"))
    plain = Planner(spec, options).plan()
    plan = Planner(msgspec.structs.replace(spec, projector=str(projector)), options).plan()
    assert plain.projector is None
    assert plan.projector == ProjectorPlan(file_bytes=1000, is_loaded=False)
    assert plan.resident_bytes == plain.resident_bytes


def test_projector_counts_once_it_is_loaded(
    tiny_model: TinyModel, options: LoadOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    projector = tmp_path / "mmproj.gguf"
    projector.write_bytes(bytes(1000))
    spec = spec_of(tiny_model("llama"), projector=str(projector))
    plain = Planner(spec, options).plan()
    monkeypatch.setattr(memory_plan, "LOADS_PROJECTORS", True)
    assert Planner(spec, options).plan().resident_bytes == plain.resident_bytes + 1000


@pytest.mark.parametrize("kind", ["llama", "mean", "rank"])
def test_embedding_is_planned_with_its_own_context(
    tiny_model: TinyModel, options: LoadOptions, kind: str, tmp_path: Path
) -> None:
    if kind == "llama":
        path = tiny_model(kind)
    else:
        path = str(random_bert(MEAN if kind == "mean" else RANK).write(tmp_path / "bert.gguf"))
    given = msgspec.structs.replace(options, n_ctx=None, embedding=True)
    plan = Planner(spec_of(path), given).plan()
    loaded = load_model(spec_of(path), given)
    assert plan.n_ctx_per_request == loaded.info.n_ctx_per_request
    assert sum(device.weights_bytes for device in plan.devices) == pytest.approx(loaded.info.size_bytes, rel=0.05)
    loaded.close()


def test_plenty_of_memory_needs_no_plan_and_numbers_do(
    tiny_model: TinyModel, options: LoadOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(tiny_model("llama"))
    free = [100 << 30]
    monkeypatch.setattr(memory_plan, "free_memory_bytes", lambda: free[0])
    assert Planner(spec, options).has_plenty
    for large in ({"n_ctx": 16384}, {"n_ctx_per_request": 16384}, {"n_parallel": 64}, {"n_ubatch": 4096}):
        assert not Planner(spec, msgspec.structs.replace(options, **large)).has_plenty
    free[0] = 2 << 30
    assert not Planner(spec, options).has_plenty


def test_caches_beyond_all_memory_are_known(
    tiny_model: TinyModel, options: LoadOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = msgspec.structs.replace(options, n_ctx=1 << 24)
    monkeypatch.setattr(memory_plan, "free_memory_bytes", lambda: 1 << 30)
    monkeypatch.setattr(memory_plan, "free_swap_bytes", lambda: 0)
    assert Planner(spec_of(tiny_model("llama")), large).plan().exceeds_memory
    assert not Planner(spec_of(tiny_model("llama")), options).plan().exceeds_memory


@pytest.mark.parametrize(("use_mmap", "expected"), [(True, False), (False, True)])
def test_weights_beyond_all_memory_exceed_it_unless_they_are_mapped(
    tiny_model: TinyModel, options: LoadOptions, monkeypatch: pytest.MonkeyPatch, use_mmap: bool, expected: bool
) -> None:
    given = msgspec.structs.replace(options, use_mmap=use_mmap)
    planner = Planner(spec_of(tiny_model("llama")), given)
    plan = planner.plan()
    weights = sum(device.weights_bytes for device in plan.devices)
    monkeypatch.setattr(memory_plan, "free_swap_bytes", lambda: 0)
    monkeypatch.setattr(memory_plan, "free_memory_bytes", lambda: plan.resident_bytes - plan.process_bytes - 1)
    assert weights > 1
    assert planner.plan().exceeds_memory is expected


def test_draft_model_has_layers_of_its_own() -> None:
    """Those of the large model would split it, or send layers that it does not have."""
    large = LoadOptions(n_gpu_layers=7, n_cpu_moe=3, main_gpu=1)
    assert draft_options(large) == LoadOptions(n_gpu_layers=-1, n_cpu_moe=None, main_gpu=1)
    assert draft_options(LoadOptions(n_gpu_layers=0)).n_gpu_layers == 0


def test_draft_model_takes_room_of_its_device() -> None:
    """So that automatic layers leave it some."""
    use = ("CUDA0", "CUDA0", False, 100, 20, 3)
    host = ("CUDA_Host", "CUDA0", True, 1000, 0, 0)
    large = Probed(None, {"uses": [use, host]}, None, 1, 1)  # type: ignore[arg-type]
    assert large.device_bytes() == {"CUDA0": 123}
    assert dataclasses.replace(large, draft_plan={"uses": [use]}).device_bytes() == {"CUDA0": 246}
