"""plan_memory() on models without weights tells what a real context then takes, and such models do nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from donabe import _core
from donabe.errors import InvalidArgumentError, UnsupportedError

TinyModel = Callable[[str], str]


def params(n_ctx: int, n_seq_max: int = 4) -> _core.ContextParams:
    return _core.ContextParams(n_ctx=n_ctx, n_batch=512, n_ubatch=512, n_seq_max=n_seq_max, n_outputs_max=16)


def planned(path: str, n_ctx: int) -> dict[str, object]:
    return _core.plan_memory(_core.Model(path, _core.ModelParams(no_alloc=True)), params(n_ctx))


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "mamba2", "granitehybrid", "jamba"])
@pytest.mark.parametrize("n_ctx", [512, 2048, 4096])
def test_plan_equals_what_a_real_context_takes(tiny_model: TinyModel, architecture: str, n_ctx: int) -> None:
    path = tiny_model(architecture)
    plan = planned(path, n_ctx)
    model = _core.Model(path, _core.ModelParams(load_mode="none"))
    context = _core.Context(model, params(n_ctx))
    real = context.memory_breakdown()
    uses = plan["uses"]
    assert isinstance(uses, list)
    assert sum(use[3] for use in uses) == sum(row[1] for row in real)
    assert sum(use[4] for use in uses) == sum(row[2] for row in real)
    assert sum(use[5] for use in uses) == pytest.approx(sum(row[3] for row in real), rel=0.02)
    assert plan["n_ctx"] == context.n_ctx
    assert plan["flash_attention"] == context.flash_attention


@pytest.mark.parametrize(
    ("architecture", "parts"),
    [
        ("llama", {"attention_bytes"}),
        ("gemma3", {"attention_bytes", "window_bytes"}),
        ("mamba2", {"state_bytes"}),
        ("granitehybrid", {"attention_bytes", "state_bytes"}),
    ],
)
def test_cache_is_told_by_kind_of_layer(tiny_model: TinyModel, architecture: str, parts: set[str]) -> None:
    plan = planned(tiny_model(architecture), 2048)
    kinds = ("attention_bytes", "window_bytes", "state_bytes")
    assert {kind for kind in kinds if plan[kind]} == parts
    uses = plan["uses"]
    assert isinstance(uses, list)
    assert sum(int(str(plan[kind])) for kind in kinds) == sum(use[4] for use in uses)


def test_model_without_weights_can_not_compute(tiny_model: TinyModel) -> None:
    model = _core.Model(tiny_model("llama"), _core.ModelParams(no_alloc=True))
    assert model.n_layer > 0
    assert model.vocab.n_tokens > 0
    with pytest.raises(UnsupportedError, match="no_alloc"):
        _core.Context(model, params(512))
    with pytest.raises(UnsupportedError, match="no_alloc"):
        model.load_adapter("any.gguf")


def test_plan_checks_its_parameters(tiny_model: TinyModel) -> None:
    model = _core.Model(tiny_model("llama"), _core.ModelParams(no_alloc=True))
    with pytest.raises(InvalidArgumentError, match="n_seq_max"):
        _core.plan_memory(model, params(4, n_seq_max=8))
    with pytest.raises(UnsupportedError, match="rank"):
        _core.plan_memory(model, _core.ContextParams(n_ctx=512, pooling="rank"))


def test_experts_are_counted(tiny_model: TinyModel) -> None:
    assert _core.Model(tiny_model("llama"), _core.ModelParams(no_alloc=True)).n_expert == 0
    assert _core.Model(tiny_model("gpt-oss"), _core.ModelParams(no_alloc=True)).n_expert > 0
