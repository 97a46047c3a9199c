"""Models on RPC workers, processes of their own: the text is that of one process, a lost worker is one error."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from tests.fakes.rpc_peer import count_reply, hello_reply, rpc_peer
from tests.fakes.server_process import ServerProcess, started
from tests.model_store import SMOLLM2, ensure_spec
from tests.native.conftest import tiny_model
from tests.native.lab import ARCHITECTURE_BY_KIND
from tests.native_sampling.text_model import write_text_model
from tests.rpc_workers import RpcWorker, rpc_worker

from donabe.errors import RunnerStartError
from donabe.runner.client import RunnerProcess
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

GREEDY = SamplingOptions(temperature=0.0)
LOAD: dict[str, Any] = {
    "n_ctx": 512,
    "n_parallel": 1,
    "n_threads": 1,
    "flash_attention": False,  # chosen by device otherwise
    "auto_tune": "off",
    "prefix_cache_disk_bytes": 0,
}


@pytest.fixture(scope="module")
def spec_of(tiny_model: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ModelSpec]:
    folder = tmp_path_factory.mktemp("text-models")

    def get(architecture: str) -> ModelSpec:
        path = folder / f"{architecture}.gguf"
        if not path.exists():
            write_text_model(Path(tiny_model(architecture)), path)
        return ModelSpec(name=architecture, paths=(str(path),), details=ModelDetails())

    return get


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RpcWorker]:
    """One for the tests that leave it running."""
    with rpc_worker(tmp_path_factory.mktemp("worker")) as worker:
        yield worker


@pytest.fixture
def own_worker(tmp_path: Path) -> Iterator[RpcWorker]:
    """One that a test may kill."""
    with rpc_worker(tmp_path / "worker") as worker:
        yield worker


@asynccontextmanager
async def running(spec: ModelSpec, **options: Any) -> AsyncIterator[RunnerProcess]:
    runner = await RunnerProcess.start(spec, LoadOptions(**(LOAD | options)))
    try:
        yield runner
    finally:
        await runner.close()


async def greedy_tokens(runner: RunnerProcess, prompt: str = "abc stop the name", n: int = 24) -> list[int]:
    request = GenerateRequest(prompt=prompt, sampling=GREEDY, output=OutputOptions(max_tokens=n, ignore_eos=True))
    events = [event async for event in runner.generate(request)]
    assert not isinstance(events[-1], Failed), events[-1]
    return [token for event in events if isinstance(event, Delta) for token in event.tokens]


# --- the same text ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(ARCHITECTURE_BY_KIND))
async def test_tokens_are_those_of_one_process(
    kind: str, worker: RpcWorker, spec_of: Callable[[str], ModelSpec]
) -> None:
    spec = spec_of(ARCHITECTURE_BY_KIND[kind])
    async with running(spec) as alone:
        expected = await greedy_tokens(alone)
    async with running(spec, rpc=(worker.address,), n_gpu_layers=-1) as remote:
        assert await greedy_tokens(remote) == expected
        assert remote.info.devices == (f"RPC0[{worker.address}]",)
        assert remote.info.size_vram_bytes > 0
    assert len(expected) == 24


async def test_some_layers_and_two_workers(
    worker: RpcWorker, own_worker: RpcWorker, spec_of: Callable[[str], ModelSpec]
) -> None:
    spec = spec_of("llama")
    async with running(spec) as alone, running(spec, rpc=(worker.address,), n_gpu_layers=1) as part:
        expected = await greedy_tokens(alone)
        assert await greedy_tokens(part) == expected
        part_bytes = part.info.size_vram_bytes
        assert 0 < part_bytes < part.info.size_bytes
    both = {"rpc": (worker.address, own_worker.address), "n_gpu_layers": -1, "tensor_split": (1.0, 1.0)}
    async with running(spec, **both) as split:
        assert await greedy_tokens(split) == expected
        assert split.info.devices == (f"RPC0[{worker.address}]", f"RPC1[{own_worker.address}]")
        own_worker.wait_for_log(r"127\.0\.0\.1:\d+ connected")


async def test_several_models_use_one_worker_at_once(worker: RpcWorker, spec_of: Callable[[str], ModelSpec]) -> None:
    remote = {"rpc": (worker.address,), "n_gpu_layers": -1}
    async with running(spec_of("llama"), **remote) as first, running(spec_of("gemma3"), **remote) as second:
        one, two = await asyncio.gather(greedy_tokens(first), greedy_tokens(second))
    assert len(one) == len(two) == 24


async def test_layers_that_stay_here_need_no_worker(spec_of: Callable[[str], ModelSpec]) -> None:
    async with running(spec_of("llama"), rpc=("127.0.0.1:1",), n_gpu_layers=0) as runner:
        assert runner.info.devices == ("CPU",)


@pytest.mark.models
async def test_smollm2_gives_the_text_of_one_process_and_is_sent_once(tmp_path: Path) -> None:
    spec, prompt = ensure_spec(SMOLLM2), "The capital of France is"
    cache = tmp_path / "rpc-cache"
    with rpc_worker(tmp_path, "--cache") as worker:
        async with running(spec) as alone:
            expected = await greedy_tokens(alone, prompt)
        written = []
        for _ in range(2):  # the second load takes the large tensors from the cache
            async with running(spec, rpc=(worker.address,), n_gpu_layers=-1) as remote:
                assert await greedy_tokens(remote, prompt) == expected
            await asyncio.to_thread(wait_until, lambda: not (cache / "in-use").exists())
            written.append({path.name: path.stat().st_mtime_ns for path in cache.iterdir() if path.name != "lock"})
        assert written[0]
        assert written[0] == written[1]
        assert not any("goes without" in line for line in worker.log)


def wait_until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


# --- workers that can't be used --------------------------------------------------------------------------------------


async def test_unreachable_worker_is_named(spec_of: Callable[[str], ModelSpec]) -> None:
    with pytest.raises(RunnerStartError, match=r"the RPC worker 127\.0\.0\.1:1 can't be reached: connection refused"):
        async with running(spec_of("llama"), rpc=("127.0.0.1:1",), n_gpu_layers=-1):
            pass


async def test_worker_of_another_version_is_refused(spec_of: Callable[[str], ModelSpec]) -> None:
    with rpc_peer(hello_reply((6, 2, 1)), count_reply(1)) as address, pytest.raises(RunnerStartError) as error:
        async with running(spec_of("llama"), rpc=(address,), n_gpu_layers=-1):
            pass
    assert f"the RPC worker {address} speaks version 6.2.1 of ggml's RPC protocol, this donabe " in error.value.message


def command(*arguments: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("DONABE_", "OLLAMA_"))}
    return subprocess.run(
        [sys.executable, "-m", "donabe", *arguments],
        env=own | {"DONABE_HOME": str(home), "DONABE_HOST": "127.0.0.1:1"} | environment,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


def test_doctor_shows_workers_and_what_is_wrong_with_them(worker: RpcWorker, tmp_path: Path) -> None:
    done = command("doctor", "--json", home=tmp_path, DONABE_RPC=f"{worker.address},127.0.0.1:1")
    findings = {item["subject"]: item for item in json.loads(done.stdout)["findings"]}
    assert worker.address in findings["device RPC0"]["message"]
    assert findings["device RPC0"]["message"].endswith("used: of another machine")
    assert "connection refused" in findings["worker 127.0.0.1:1"]["message"]


def test_port_in_use_and_unknown_devices_are_refused(worker: RpcWorker, tmp_path: Path) -> None:
    done = command("rpc-server", "--port", str(worker.port), home=tmp_path)
    assert (done.returncode, "can't listen on" in done.stderr) == (1, True)
    done = command("rpc-server", "--port", "0", "--device", "CUDA9", home=tmp_path)
    assert (done.returncode, "there is no device CUDA9" in done.stderr) == (1, True)


def test_open_address_is_refused(tmp_path: Path) -> None:
    done = command("rpc-server", "--host", "0.0.0.0", "--port", "0", home=tmp_path)
    assert (done.returncode, "no authentication" in done.stderr) == (1, True)


def test_worker_leaves_no_process_behind(tmp_path: Path) -> None:
    with rpc_worker(tmp_path) as worker:
        with socket.create_connection(("127.0.0.1", worker.port), timeout=30):
            worker.wait_for_log("connected$")
            children = psutil.Process(worker.process.pid).children()
            assert len(children) == 1
            worker.process.send_signal(signal.SIGTERM)
            assert worker.process.wait(30) == 0
        _, left = psutil.wait_procs(children, timeout=30)
        assert left == []


# --- a lost worker ---------------------------------------------------------------------------------------------------


class Answer:
    """A streamed answer of a server."""

    def __init__(self, client: httpx.AsyncClient, body: dict[str, Any]) -> None:
        self.lines: list[dict[str, Any]] = []
        self.begun = asyncio.Event()
        self._task = asyncio.create_task(self._read(client, body))

    async def _read(self, client: httpx.AsyncClient, body: dict[str, Any]) -> None:
        async with client.stream("POST", "/api/generate", json=body) as response:
            async for line in response.aiter_lines():
                self.lines.append(json.loads(line))
                self.begun.set()

    async def ended(self, timeout_s: float = 60.0) -> list[dict[str, Any]]:
        await asyncio.wait_for(self._task, timeout_s)
        return self.lines


@asynccontextmanager
async def server_with(worker: str, home: Path) -> AsyncIterator[tuple[ServerProcess, httpx.AsyncClient]]:
    settings = {
        "DONABE_RPC": worker,
        "DONABE_GPU_LAYERS": "all",
        "DONABE_CONTEXT_LENGTH": "16384",
        "DONABE_NUM_PARALLEL": "2",
        "DONABE_FLASH_ATTENTION": "off",
        "DONABE_SPARE_RUNNER": "0",
        "DONABE_PREFIX_CACHE_DISK": "0",
    }
    async with (
        started(home, command=(sys.executable, "-m", "donabe", "serve"), **settings) as server,
        httpx.AsyncClient(base_url=server.url, timeout=120) as client,
    ):
        yield server, client


def body(spec: ModelSpec, n: int) -> dict[str, Any]:
    return {
        "model": spec.paths[0],
        "prompt": "abc stop the name",
        "raw": True,
        "options": {"temperature": 0, "num_predict": n, "num_ctx": 16384, "ignore_eos": True},
    }


async def check_loss_and_return(spec: ModelSpec, worker: RpcWorker, home: Path, lose: Callable[[], None]) -> None:
    """Two answers run, the worker is lost, both end with one error; it returns, and so does the text."""
    async with server_with(worker.address, home) as (_, client):
        short = body(spec, 8) | {"stream": False}
        first = (await client.post("/api/generate", json=short)).json()
        assert first["response"], first
        [loaded] = (await client.get("/api/ps")).json()["models"]
        assert loaded["devices"] == [f"RPC0[{worker.address}]"]
        answers = [Answer(client, body(spec, -1)) for _ in range(2)]
        for answer in answers:
            await asyncio.wait_for(answer.begun.wait(), 60)
        await asyncio.to_thread(lose)
        for answer in answers:
            lines = await answer.ended()
            errors = [line for line in lines if "error" in line]
            assert lines[-1:] == errors, lines[-3:]
            assert f"lost the RPC worker {worker.address}" in errors[0]["error"]
        gone = await client.post("/api/generate", json=short)
        assert gone.status_code >= 500
        assert f"the RPC worker {worker.address} can't be reached" in gone.json()["error"]
        await asyncio.to_thread(worker.start)
        again = (await client.post("/api/generate", json=short)).json()
        assert again["response"] == first["response"]


async def test_killed_worker_is_one_error_and_the_model_is_back_when_it_is(
    own_worker: RpcWorker, spec_of: Callable[[str], ModelSpec], tmp_path: Path
) -> None:
    await check_loss_and_return(spec_of("llama"), own_worker, tmp_path / "home", own_worker.kill)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)


@contextmanager
def network_namespace(name: str, host: str, peer: str) -> Iterator[None]:
    """A namespace with one end of a cable; ours has the address `host`, its end `peer`."""
    link = f"{name}h"
    ip("netns", "add", name)
    try:
        ip("link", "add", link, "type", "veth", "peer", "name", f"{name}p", "netns", name)
        ip("addr", "add", f"{host}/30", "dev", link)
        ip("link", "set", link, "up")
        ip("-n", name, "addr", "add", f"{peer}/30", "dev", f"{name}p")
        ip("-n", name, "link", "set", f"{name}p", "up")
        ip("-n", name, "link", "set", "lo", "up")  # every machine has it
        yield
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True, timeout=30)


needs_namespaces = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("ip") is None,
    reason="network namespaces need root and iproute2",
)


@needs_namespaces
async def test_worker_in_another_network(spec_of: Callable[[str], ModelSpec], tmp_path: Path) -> None:
    """As between two machines: another address, and a cable that is pulled without a word to either side."""
    name, peer = f"donabe{os.getpid() % 10000}", "198.18.77.2"
    with network_namespace(name, "198.18.77.1", peer):
        options = ("--host", peer, "--insecure")
        with rpc_worker(tmp_path / "worker", *options, prefix=("ip", "netns", "exec", name)) as worker:
            assert worker.address.startswith(f"{peer}:")
            spec = spec_of("llama")
            async with running(spec) as alone, running(spec, rpc=(worker.address,), n_gpu_layers=-1) as remote:
                assert await greedy_tokens(remote) == await greedy_tokens(alone)
                request = GenerateRequest(
                    prompt="ab", sampling=GREEDY, output=OutputOptions(ignore_eos=True, context_shift=True)
                )
                stream = remote.generate(request)
                assert isinstance(await anext(stream), Delta)
                await asyncio.to_thread(ip, "link", "set", f"{name}h", "down")
                rest = [event async for event in stream]
            assert isinstance(rest[-1], Failed)
            assert rest[-1].message == f"lost the RPC worker {worker.address}"
            worker.wait_for_log("left$", 60)
