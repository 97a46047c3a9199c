"""Loads that run out of memory for real: the address space of the process is limited, which no plan knows of."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest

from donabe.errors import LoadError
from donabe.pool.pool import ModelPool, PoolLimits
from donabe.runner.client import RunnerProcess
from donabe.types import GenerateRequest, LoadOptions, ModelDetails, ModelSpec, OutputOptions

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS binds on Linux")

# With 256 requests at once the automatic pool of the tiny model takes 512 MiB: so much is left to a process, and its
# threads' stacks and arenas take some.
LEFT_BYTES = 450 << 20
LIMIT = f"""
import ctypes, re, resource, sys
import donabe.runner.child, donabe.runner.fitting
ctypes.CDLL(None).mallopt(-8, 1)  # M_ARENA_MAX: each thread's arena reserves 64 MiB
size = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + {LEFT_BYTES},) * 2)
"""
CHILD = (sys.executable, "-c", LIMIT + "sys.exit(donabe.runner.child.main())")


@pytest.fixture
def spec(tiny_model: Callable[[str], str]) -> ModelSpec:
    return ModelSpec(name="tiny", paths=(tiny_model("llama"),), details=ModelDetails())


def options(home: Path, **given: object) -> LoadOptions:
    values = {"n_parallel": 256, "n_threads": 1, "auto_tune": "off", "prefix_cache_home": str(home)}
    return LoadOptions(**(values | given))  # type: ignore[arg-type]


async def test_load_of_the_pool_gets_smaller_until_it_fits(spec: ModelSpec, tmp_path: Path) -> None:
    pool = ModelPool(partial(RunnerProcess.start, command=CHILD), limits=PoolLimits())
    try:
        lease = await pool.lease(spec, options(tmp_path))
        assert lease.notes == ("not enough memory for tiny: its context is only 16384 tokens",)
        assert lease.runner.info.n_ctx == 16384
        events = [
            e async for e in lease.runner.generate(GenerateRequest(prompt="a", output=OutputOptions(max_tokens=2)))
        ]
        assert events[-1].reason  # type: ignore[union-attr]
    finally:
        await pool.close()


async def test_a_context_that_was_asked_for_stays_and_the_error_is_marked(spec: ModelSpec, tmp_path: Path) -> None:
    given = options(tmp_path, n_ctx=262_144, type_k="f16", type_v="f16")
    with pytest.raises(LoadError) as caught:
        await RunnerProcess.start(spec, given, command=CHILD)
    assert caught.value.is_out_of_memory
    assert "num_ctx" in (caught.value.hint or "")
    pool = ModelPool(partial(RunnerProcess.start, command=CHILD), limits=PoolLimits())
    with pytest.raises(LoadError):
        await pool.lease(spec, given)
    await pool.close()


def test_a_file_that_is_no_model_is_not_marked(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    from donabe.runner.load import load_model

    with pytest.raises(LoadError) as caught:
        load_model(ModelSpec(name="x", paths=(str(path),), details=ModelDetails()), LoadOptions())
    assert not caught.value.is_out_of_memory


def test_load_in_the_own_process_gets_smaller_too(spec: ModelSpec, tmp_path: Path) -> None:
    """As `LLM` loads."""
    program = f"""
from donabe.runner.local import LocalRunner
import msgspec
from donabe.types import LoadOptions, ModelSpec
spec = msgspec.json.decode({msgspec.json.encode(spec)!r}, type=ModelSpec)
options = msgspec.json.decode({msgspec.json.encode(options(tmp_path))!r}, type=LoadOptions)
runner = LocalRunner.load(spec, options)
print(runner.info.n_ctx)
runner.close_now()
"""
    done = subprocess.run(
        [sys.executable, "-c", LIMIT + program], capture_output=True, encoding="utf-8", timeout=120, check=False
    )
    assert (done.stdout, done.returncode) == ("16384\n", 0), done.stderr
    assert "not enough memory for tiny: its context is only 16384 tokens" in done.stderr
