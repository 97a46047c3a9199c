"""Starts and stops the servers that are compared, on free loopback ports, one at a time.

A server's output goes to a log file whose tail is shown when it does not come up.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from benchmarks.load import Target

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / "build" / "dev-tools"
START_DEADLINE_S = 120.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.1)
    process.kill()
    raise RuntimeError(f"server did not come up; end of its log:\n{log.read_text(errors='replace')[-2000:]}")


@contextlib.contextmanager
def _running(command: list[str], ready_url: str, env: dict[str, str]) -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, env={**os.environ, **env})
        try:
            _wait_ready(ready_url, process, log)
            yield
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def donabe(model: Path, n_parallel: int) -> Iterator[Target]:
    port = free_port()
    env = {"DONABE_HOST": f"127.0.0.1:{port}", "DONABE_NUM_PARALLEL": str(n_parallel), "DONABE_CONTEXT_LENGTH": "16384",
           "DONABE_PREFIX_CACHE_DISK": "0"}  # fmt: skip
    command = [sys.executable, "-m", "donabe", "serve"]
    with _running(command, f"http://127.0.0.1:{port}/", env):
        yield Target("donabe", f"http://127.0.0.1:{port}", str(model), "native")


@contextlib.contextmanager
def llama_server(model: Path, n_parallel: int) -> Iterator[Target]:
    port = free_port()
    command = [str(TOOLS / "llama-server"), "-m", str(model), "--port", str(port), "-np", str(n_parallel),
               "-c", "16384", "--no-webui"]  # fmt: skip
    with _running(command, f"http://127.0.0.1:{port}/health", {}):
        yield Target("llama-server", f"http://127.0.0.1:{port}", "default", "openai")


def llama_bench(model: Path) -> float:
    """Tokens per second of `llama-bench` generating 128 tokens (tg128), mean of its repetitions."""
    command = [str(TOOLS / "llama-bench"), "-m", str(model), "-p", "0", "-n", "128", "-r", "3", "-o", "json"]
    output = subprocess.run(command, check=True, capture_output=True, timeout=300).stdout
    return float(json.loads(output)[0]["avg_ts"])
