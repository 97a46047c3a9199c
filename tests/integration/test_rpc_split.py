"""Which of two RPC workers gets what: shares of layers, one device alone, and the draft model beside them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from tests.llama_gguf import LAYER_BYTES, random_llama
from tests.rpc_workers import RpcWorker, rpc_worker

from donabe.cli.native_child import ask_child
from donabe.runner.client import RunnerProcess
from donabe.types import (
    Delta,
    GenerateRequest,
    LoadOptions,
    ModelDetails,
    ModelInfo,
    ModelSpec,
    OutputOptions,
    SamplingOptions,
)

N_LAYER = 7  # and the output counts as one
LOAD: dict[str, Any] = {
    "n_ctx": 512,
    "n_parallel": 1,
    "n_threads": 1,
    "flash_attention": False,
    "auto_tune": "off",
    "prefix_cache_disk_bytes": 0,
    "n_gpu_layers": -1,
}


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RpcWorker, RpcWorker]]:
    with rpc_worker(tmp_path_factory.mktemp("one")) as one, rpc_worker(tmp_path_factory.mktemp("two")) as two:
        yield one, two


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    path = random_llama(N_LAYER).write(tmp_path_factory.mktemp("model") / "deep.gguf")
    return ModelSpec(name="deep", paths=(str(path),), details=ModelDetails())


def planned(spec: ModelSpec, **options: Any) -> dict[str, dict[str, int]]:
    """What `donabe fit` plans, by the id of the device."""
    request = {"spec": msgspec.to_builtins(spec), "options": LOAD | options}
    plan = ask_child("donabe.runner.plan_child", request, timeout_s=120)["plan"]
    return {device["id"]: device for device in plan["devices"]}


async def loaded(spec: ModelSpec, **options: Any) -> tuple[list[int], ModelInfo]:
    """(greedy tokens, what the runner says of itself)"""
    runner = await RunnerProcess.start(spec, LoadOptions(**(LOAD | options)))
    try:
        sampling, output = SamplingOptions(temperature=0.0), OutputOptions(max_tokens=16, ignore_eos=True)
        request = GenerateRequest(prompt="layers", sampling=sampling, output=output)
        events = [event async for event in runner.generate(request)]
        return [token for event in events if isinstance(event, Delta) for token in event.tokens], runner.info
    finally:
        await runner.close()


def ids(workers: tuple[RpcWorker, RpcWorker]) -> tuple[str, str]:
    return f"RPC0[{workers[0].address}]", f"RPC0[{workers[1].address}]"


@pytest.mark.parametrize(("shares", "layers"), [((3.0, 1.0), (6, 1)), ((1.0, 3.0), (2, 5)), ((1.0, 0.0), (7, 0))])
async def test_layers_are_shared_as_asked(
    workers: tuple[RpcWorker, RpcWorker], spec: ModelSpec, shares: tuple[float, float], layers: tuple[int, int]
) -> None:
    """Of 7 layers and the output, which goes with the last."""
    rpc = tuple(worker.address for worker in workers)
    plan = planned(spec, rpc=rpc, tensor_split=shares)
    tokens, info = await loaded(spec, rpc=rpc, tensor_split=shares)
    assert tokens == (await loaded(spec, n_gpu_layers=0))[0]
    assert (info.n_gpu_layers, info.n_layers) == (N_LAYER + 1, N_LAYER + 1)
    for id, n in zip(ids(workers), layers, strict=True):
        weights = plan.get(id, {}).get("weights_bytes", 0)
        assert n * LAYER_BYTES <= weights < (n + 1) * LAYER_BYTES
        part = plan.get(id, {})
        total = sum(part.get(f"{kind}_bytes", 0) for kind in ("weights", "cache", "compute", "draft"))
        assert info.device_bytes.get(id, 0) == pytest.approx(total, rel=0.05)


@pytest.mark.parametrize("main_gpu", [0, 1])
async def test_main_gpu_holds_the_model_alone(
    workers: tuple[RpcWorker, RpcWorker], spec: ModelSpec, main_gpu: int
) -> None:
    rpc = tuple(worker.address for worker in workers)
    tokens, info = await loaded(spec, rpc=rpc, main_gpu=main_gpu)
    mine, other = ids(workers)[main_gpu], ids(workers)[1 - main_gpu]
    assert info.device_bytes[mine] > N_LAYER * LAYER_BYTES
    assert info.device_bytes.get(other, 0) == 0
    assert info.loaded is not None
    assert info.loaded.main_gpu == main_gpu
    assert tokens == (await loaded(spec, n_gpu_layers=0))[0]
    plan = planned(spec, rpc=rpc, main_gpu=main_gpu)
    assert plan[mine]["weights_bytes"] > N_LAYER * LAYER_BYTES
    assert other not in plan or plan[other]["weights_bytes"] == 0


async def test_draft_model_goes_to_the_device_whole(workers: tuple[RpcWorker, RpcWorker], spec: ModelSpec) -> None:
    """However many layers the large model has there."""
    rpc = (workers[0].address,)
    with_draft = msgspec.structs.replace(spec, draft=spec.paths[0])
    id = ids(workers)[0]
    plan = planned(with_draft, rpc=rpc, n_gpu_layers=1)
    assert plan[id]["draft_bytes"] > N_LAYER * LAYER_BYTES
    _, alone = await loaded(spec, rpc=rpc, n_gpu_layers=1)
    _, drafting = await loaded(with_draft, rpc=rpc, n_gpu_layers=1)
    taken = drafting.device_bytes[id] - alone.device_bytes[id]
    assert taken == pytest.approx(plan[id]["draft_bytes"], rel=0.05)
    assert planned(with_draft, rpc=rpc, n_gpu_layers=0).keys() == {"CPU"}
