"""What `donabe fit` predicts beside what a runner process really holds."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil
import pytest
from tests.model_store import GEMMA3, SMOLLM2, ensure_spec

from donabe.runner.client import RunnerProcess
from donabe.runner.memory_plan import MemoryPlan
from donabe.types import GenerateRequest, LoadOptions, ModelDetails, ModelSpec, OutputOptions

TOLERANCE = 0.05


def predicted(spec: ModelSpec, options: LoadOptions) -> MemoryPlan:
    request = msgspec.json.encode({"spec": spec, "options": options})
    command = [sys.executable, "-m", "donabe.runner.plan_child"]
    done = subprocess.run(command, input=request, capture_output=True, check=True, timeout=60)
    return msgspec.convert(msgspec.json.decode(done.stdout)["plan"], MemoryPlan)


async def measured(spec: ModelSpec, options: LoadOptions, n_prompt: int) -> int:
    """Resident bytes of a runner that has answered a prompt of many tokens."""
    runner = await RunnerProcess.start(spec, options)
    try:
        prompt = tuple(10 + i % 60 for i in range(n_prompt))
        request = GenerateRequest(prompt=prompt, add_special=False, output=OutputOptions(max_tokens=2, ignore_eos=True))
        async for _ in runner.generate(request):
            pass
        return int(psutil.Process(runner.info.pid).memory_info().rss)
    finally:
        await runner.close()


def compare(spec: ModelSpec, n_ctx: int, home: Path, *, n_prompt: int) -> None:
    options = LoadOptions(n_ctx=n_ctx, auto_tune="off", prefix_cache_disk_bytes=0, prefix_cache_home=str(home))
    plan = predicted(spec, options)
    resident = asyncio.run(measured(spec, options, n_prompt))
    print(f"{spec.name} n_ctx {n_ctx}: planned {plan.resident_bytes / 1e6:.1f} MB, measured {resident / 1e6:.1f} MB")
    assert plan.n_ctx == n_ctx
    assert plan.resident_bytes == pytest.approx(resident, rel=TOLERANCE)


@pytest.mark.parametrize("n_ctx", [1024, 4096, 16384])
@pytest.mark.parametrize("architecture", ["llama", "gemma3", "granitehybrid"])
def test_tiny_models(tiny_model: Callable[[str], str], tmp_path: Path, architecture: str, n_ctx: int) -> None:
    spec = ModelSpec(name=architecture, paths=(tiny_model(architecture),), details=ModelDetails())
    compare(spec, n_ctx, tmp_path, n_prompt=n_ctx * 7 // 8)


@pytest.mark.models
@pytest.mark.parametrize("n_ctx", [2048, 4096, 16384])
@pytest.mark.parametrize("name", [SMOLLM2, GEMMA3])
def test_real_models(tmp_path: Path, name: str, n_ctx: int) -> None:
    compare(ensure_spec(name), n_ctx, tmp_path, n_prompt=600)
