"""Smaller ways: pools that still hold a request, what has no smaller type, and the words for it all."""

from __future__ import annotations

import pytest
from tests.fakes.machine import FakeMachine
from tests.fakes.runner import RunnerFactory

from donabe.runner.plans import MemoryPlan
from donabe.runner.smaller import AS_ASKED, Smaller, next_smaller
from donabe.types import LoadOptions


def plan(n_ctx: int = 32768, *, n_gpu_layers: int | None = None, attention_bytes: int = 1) -> MemoryPlan:
    made = FakeMachine(RunnerFactory(), ram=1).plan(LoadOptions(n_ctx=n_ctx))
    fields = {name: getattr(made, name) for name in made.__struct_fields__}
    return MemoryPlan(**fields | {"n_gpu_layers": n_gpu_layers, "attention_bytes": attention_bytes})


@pytest.mark.parametrize("has_failed", [False, True])
@pytest.mark.parametrize(
    ("asked", "now", "expected"),
    [
        (LoadOptions(), 32768, 16384),
        (LoadOptions(), 16384, 8192),
        (LoadOptions(), 3000, 2048),
        (LoadOptions(n_ctx_per_request=9000), 16384, 9216),  # contexts come in steps of 256
        (LoadOptions(n_ctx_per_request=9000), 9216, None),
        (LoadOptions(n_ctx_per_request=100), 2048, 256),
        (LoadOptions(n_ctx_per_request=100_000), 100_096, None),
    ],
)
def test_pools_shrink_and_hold_one_request(
    asked: LoadOptions, now: int, expected: int | None, has_failed: bool
) -> None:
    step = next_smaller(asked, AS_ASKED, plan(now), has_failed=has_failed)
    assert step == (Smaller(n_ctx=expected) if expected is not None else Smaller(kv_type="q8_0"))


def test_a_context_that_comes_out_larger_is_not_tried_again() -> None:
    assert next_smaller(LoadOptions(), Smaller(n_ctx=2048), plan(4096)) == Smaller(n_ctx=2048, kv_type="q8_0")


def test_recurrent_states_and_embeddings_have_no_smaller_type() -> None:
    assert next_smaller(LoadOptions(), Smaller(n_ctx=2048), plan(2048, attention_bytes=0)) is None
    assert next_smaller(LoadOptions(embedding=True), AS_ASKED, plan()) is None


def test_given_layers_keep_the_context_shrinking() -> None:
    asked = LoadOptions(n_gpu_layers=3)
    assert next_smaller(asked, AS_ASKED, plan(4096, n_gpu_layers=3)) == Smaller(n_ctx=2048)
    assert next_smaller(asked, Smaller(n_ctx=2048), plan(2048, n_gpu_layers=3)) == Smaller(n_ctx=2048, kv_type="q8_0")


def test_all_that_is_given_up_is_said() -> None:
    assert AS_ASKED.describe(plan()) == ""
    way = Smaller(n_ctx=4096, may_split=True, n_gpu_layers=0, kv_type="q8_0")
    text = "its context is only 4096 tokens, it runs on the CPU and its KV cache is kept in q8_0"
    assert way.describe() == text
    assert way.apply(LoadOptions(n_threads=3)) == LoadOptions(
        n_threads=3, n_ctx=4096, n_gpu_layers=0, type_k="q8_0", type_v="q8_0"
    )
