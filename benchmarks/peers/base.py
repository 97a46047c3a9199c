"""What a peer is, and how server processes are started and stopped: on free loopback ports, one at a time.

A server's output goes to a log file whose tail is shown when it does not come up.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.load import BenchmarkError, Target

ROOT = Path(__file__).resolve().parents[2]
START_DEADLINE_S = 120.0
STOP_DEADLINE_S = 30.0
POLL_S = 0.01  # a start is measured by how soon the server answers


@dataclass(frozen=True)
class Setup:
    """How a server is started.

    Attributes:
        n_ctx: Tokens of context over all parallel requests.
        is_embedding: The model is only asked for vectors, mean pooling.
        cache_ram: Memory for what left the KV cache; "" is the program's default. Only for donabe.
        guesses: Whether requests leave prompt lookup on. Only for donabe.
        home: Folder that outlives the server, for what it keeps over a restart; None keeps nothing.
    """

    n_parallel: int = 8
    n_ctx: int = 16384
    is_embedding: bool = False
    cache_ram: str = ""
    guesses: bool = True
    home: Path | None = None


class Peer(Protocol):
    """A program under test."""

    name: str
    can_restart: bool  # whether `start` starts a process

    def prepare(self) -> None:
        """Check that everything is there, installing what can be installed; BenchmarkError says what is missing."""

    def version(self) -> str: ...

    def start(self, model: Path, setup: Setup) -> AbstractContextManager[Target]: ...


def end_servers_when_terminated() -> None:
    """Make SIGTERM an exit like Ctrl-C, so that servers under way are stopped."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(
    command: list[str], ready_url: str, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends, from when `ready_url` answers."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                command, stdout=sink, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}
            )
        try:
            _wait_ready(ready_url, process, log)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(POLL_S)
    process.kill()
    tail = log.read_text(errors="replace")[-2000:]
    raise BenchmarkError(f"the server did not come up; end of its log:\n{tail}")
