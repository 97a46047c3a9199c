"""What `donabe fit` predicts beside what a runner process really holds, and what a device does."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from tests.model_store import GEMMA3, SMOLLM2, ensure_spec
from tests.rpc_workers import RpcWorker, rpc_worker

from donabe.runner.client import RunnerProcess
from donabe.runner.memory_plan import MemoryPlan
from donabe.types import GenerateRequest, LoadOptions, ModelDetails, ModelSpec, OutputOptions

TOLERANCE = 0.05


def predicted(spec: ModelSpec, options: LoadOptions) -> MemoryPlan:
    request = msgspec.json.encode({"spec": spec, "options": options})
    command = [sys.executable, "-m", "donabe.runner.plan_child"]
    done = subprocess.run(command, input=request, capture_output=True, check=True, timeout=60)
    return msgspec.convert(msgspec.json.decode(done.stdout)["plan"], MemoryPlan)


Measure = Callable[[RunnerProcess], int]


async def measured(spec: ModelSpec, options: LoadOptions, n_prompt: int, measure: Measure) -> int:
    """What `measure` says of a runner, once it has answered a prompt of many tokens and then as many
    shorter ones at once as it takes: buffers are resident once all of their rows have been used."""
    runner = await RunnerProcess.start(spec, options)

    async def answer(seed: int, n_tokens: int) -> None:
        prompt = tuple(10 + i * seed % 60 for i in range(n_tokens))
        request = GenerateRequest(prompt=prompt, add_special=False, output=OutputOptions(max_tokens=2, ignore_eos=True))
        async for _ in runner.generate(request):
            pass

    try:
        await answer(1, n_prompt)
        await asyncio.gather(*(answer(seed + 2, n_prompt // 10) for seed in range(runner.info.n_parallel)))
        return measure(runner)
    finally:
        await runner.close()


def resident_bytes(runner: RunnerProcess) -> int:
    return int(psutil.Process(runner.info.pid).memory_info().rss)


def options_for(n_ctx: int, home: Path, **fields: Any) -> LoadOptions:
    """Nothing but the model: kept prefixes come on top of what is predicted."""
    return LoadOptions(
        n_ctx=n_ctx,
        auto_tune="off",
        prefix_cache_ram_bytes=0,
        prefix_cache_disk_bytes=0,
        prefix_cache_home=str(home),
        **fields,
    )


def compare(spec: ModelSpec, n_ctx: int, home: Path, *, n_prompt: int) -> None:
    options = options_for(n_ctx, home)
    plan = predicted(spec, options)
    resident = asyncio.run(measured(spec, options, n_prompt, resident_bytes))
    print(f"{spec.name} n_ctx {n_ctx}: planned {plan.resident_bytes / 1e6:.1f} MB, measured {resident / 1e6:.1f} MB")
    assert plan.n_ctx == n_ctx
    assert plan.resident_bytes == pytest.approx(resident, rel=TOLERANCE)


@pytest.mark.parametrize("n_ctx", [1024, 4096, 16384])
@pytest.mark.parametrize("architecture", ["llama", "gemma3", "granitehybrid"])
def test_tiny_models(tiny_model: Callable[[str], str], tmp_path: Path, architecture: str, n_ctx: int) -> None:
    spec = ModelSpec(name=architecture, paths=(tiny_model(architecture),), details=ModelDetails())
    compare(spec, n_ctx, tmp_path, n_prompt=n_ctx * 7 // 8)


def connections(worker: RpcWorker) -> list[int]:
    """Resident bytes of the worker's processes, one for each connection."""
    return [int(child.memory_info().rss) for child in psutil.Process(worker.process.pid).children()]


def allocated(runner: RunnerProcess) -> int:
    """Bytes that the loaded model has on its one device."""
    (n_bytes,) = (n_bytes for name, n_bytes in runner.info.device_bytes.items() if name != "CPU")
    return n_bytes


def idle_bytes(worker: RpcWorker) -> int:
    """What a connection's process holds before anything is asked of it."""
    host, _, port = worker.address.rpartition(":")
    deadline = time.monotonic() + 60
    with socket.create_connection((host, int(port)), timeout=10):
        before, found = [0], connections(worker)
        while before != found or len(found) != 1:  # until it has started
            assert time.monotonic() < deadline, f"the connection's process does not settle: {found}"
            time.sleep(0.5)
            before, found = found, connections(worker)
    while connections(worker):
        assert time.monotonic() < deadline, "the connection's process does not end"
        time.sleep(0.1)
    return found[0]


@pytest.mark.parametrize("n_ctx", [4096, 16384])
@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_bytes_of_a_device(tiny_model: Callable[[str], str], tmp_path: Path, architecture: str, n_ctx: int) -> None:
    """What is allocated there; it is another process here, so that it can be seen that it holds as much."""
    spec = ModelSpec(name=architecture, paths=(tiny_model(architecture),), details=ModelDetails())
    with rpc_worker(tmp_path / "worker") as worker:
        options = options_for(n_ctx, tmp_path, rpc=(worker.address,), n_gpu_layers=-1)
        plan = predicted(spec, options)
        (device,) = [item for item in plan.devices if item.name != "CPU"]
        idle = idle_bytes(worker)

        def measure(runner: RunnerProcess) -> int:
            held = sum(found - idle for found in connections(worker))
            # On top comes the largest message of the connection: the mask of a micro-batch over the pool.
            assert allocated(runner) * (1 - TOLERANCE) < held < allocated(runner) + 512 * n_ctx * 2 + 8e6
            return allocated(runner)

        found = asyncio.run(measured(spec, options, n_ctx * 7 // 8, measure))
    print(f"{architecture} n_ctx {n_ctx}: planned {device.total_bytes / 1e6:.1f} MB, allocated {found / 1e6:.1f} MB")
    assert device.cache_bytes > 0
    assert device.total_bytes == pytest.approx(found, rel=TOLERANCE)


@pytest.mark.models
@pytest.mark.parametrize("n_ctx", [2048, 4096, 16384])
@pytest.mark.parametrize("name", [SMOLLM2, GEMMA3])
def test_real_models(tmp_path: Path, name: str, n_ctx: int) -> None:
    compare(ensure_spec(name), n_ctx, tmp_path, n_prompt=600)
