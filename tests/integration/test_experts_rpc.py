"""A mixture-of-experts model on a device of another process, its experts here: planned, loaded, and the same text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.native.conftest import tiny_model
from tests.rpc_workers import RpcWorker, rpc_worker

from donabe import _core
from donabe.cli.native_child import ask_child
from donabe.runner.client import RunnerProcess
from donabe.store.gguf import GgufReader
from donabe.types import (
    Delta,
    Failed,
    GenerateRequest,
    LoadOptions,
    ModelDetails,
    ModelSpec,
    OutputOptions,
    SamplingOptions,
)

__all__ = ["tiny_model"]

LOAD: dict[str, Any] = {
    "n_ctx": 512,
    "n_parallel": 1,
    "n_threads": 1,
    "flash_attention": False,  # chosen by device otherwise
    "auto_tune": "off",
    "prefix_cache_disk_bytes": 0,
}


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RpcWorker]:
    if not _core.build_info().get("rpc_protocol"):
        pytest.skip("this build has no RPC backend")
    with rpc_worker(tmp_path_factory.mktemp("worker")) as worker:
        yield worker


@pytest.fixture(scope="module")
def spec(tiny_model: Callable[[str], str]) -> ModelSpec:
    return ModelSpec(name="moe", paths=(tiny_model("qwen3moe"),), details=ModelDetails())


def expert_bytes(path: str, n_layers: int) -> int:
    """Bytes of the routed experts of the first layers."""
    names = tuple(f"blk.{layer}.ffn_{part}_exps." for layer in range(n_layers) for part in ("up", "down", "gate"))
    with GgufReader(path) as reader:
        return sum(tensor.n_bytes for tensor in reader.tensors if tensor.name.startswith(names))


def device_weights(spec: ModelSpec, worker: RpcWorker, n_cpu_moe: int) -> int:
    """Weights that `donabe fit` plans for the worker."""
    options = LOAD | {"rpc": [worker.address], "n_gpu_layers": -1, "n_cpu_moe": n_cpu_moe}
    request = {"spec": {"name": spec.name, "paths": list(spec.paths), "details": {}}, "options": options}
    plan = ask_child("donabe.runner.plan_child", request, timeout_s=120)["plan"]
    assert plan["n_cpu_moe"] == n_cpu_moe
    (device,) = [part for part in plan["devices"] if part["name"] != "CPU"]
    return int(device["weights_bytes"])


def test_plan_takes_exactly_the_experts_off_the_device(spec: ModelSpec, worker: RpcWorker) -> None:
    n_layer = _core.Model(spec.paths[0], _core.ModelParams(no_alloc=True)).n_layer
    all_there = device_weights(spec, worker, 0)
    # Buffers are aligned per tensor: a few bytes more or less for each that moves.
    one, every = expert_bytes(spec.paths[0], 1), expert_bytes(spec.paths[0], n_layer)
    assert 0 < one < every < all_there
    assert all_there - device_weights(spec, worker, 1) == pytest.approx(one, rel=0.01)
    assert all_there - device_weights(spec, worker, -1) == pytest.approx(every, rel=0.01)


async def greedy_tokens(spec: ModelSpec, **options: Any) -> tuple[list[int], int]:
    """(tokens, bytes on devices)"""
    runner = await RunnerProcess.start(spec, LoadOptions(**(LOAD | options)))
    try:
        request = GenerateRequest(
            prompt=tuple(range(5, 45)),
            add_special=False,
            sampling=SamplingOptions(temperature=0.0),
            output=OutputOptions(max_tokens=24, ignore_eos=True),
        )
        events = [event async for event in runner.generate(request)]
        assert not isinstance(events[-1], Failed), events[-1]
        tokens = [token for event in events if isinstance(event, Delta) for token in event.tokens]
        return tokens, runner.info.size_vram_bytes
    finally:
        await runner.close()


async def test_text_is_the_same_wherever_the_experts_are(spec: ModelSpec, worker: RpcWorker) -> None:
    expected, _ = await greedy_tokens(spec)
    there, all_bytes = await greedy_tokens(spec, rpc=(worker.address,), n_gpu_layers=-1, n_cpu_moe=0)
    here, some_bytes = await greedy_tokens(spec, rpc=(worker.address,), n_gpu_layers=-1, n_cpu_moe=-1)
    assert len(expected) == 24
    assert there == here == expected
    assert 0 < some_bytes < all_bytes
