"""RPC workers as processes of their own, for tests: `donabe rpc-server` on a free port, killed and started again."""

from __future__ import annotations

import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
START_TIMEOUT_S = 90.0


class RpcWorker:
    """A running worker. `prefix` is a program that runs the command, such as `ip netns exec NAME`."""

    def __init__(self, home: Path, *options: str, port: int = 0, prefix: tuple[str, ...] = ()) -> None:
        self._home = home
        self._options = options
        self._prefix = prefix
        self.log: list[str] = []
        self.address = ""
        self.start(port)

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def start(self, port: int | None = None) -> None:
        """Start, on the port that it had before if none is named, and wait until it listens."""
        path = os.pathsep.join([str(ROOT), str(ROOT / "python"), os.environ.get("PYTHONPATH", "")])
        own = {name: value for name, value in os.environ.items() if not name.startswith(("DONABE_", "OLLAMA_"))}
        options = ["--port", str(self.port if port is None else port), "--device", "CPU", "--threads", "1"]
        self.process = subprocess.Popen(
            [*self._prefix, sys.executable, "-m", "donabe", "rpc-server", *options, *self._options],
            env=own | {"PYTHONPATH": path, "DONABE_HOME": str(self._home)},
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, args=(self.process, lines), daemon=True)
        self._reader.start()
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                self.kill()
                raise AssertionError(f"the worker did not start: {self.log}") from None
            if found := re.search(r"RPC worker on (\S+), protocol", line):
                self.address = found[1]
                return
            assert line, f"the worker ended at start: {self.log}"

    def kill(self) -> None:
        """End it at once, with the processes of its connections; idempotent."""
        self.process.kill()
        self.process.wait(30)
        self._reader.join(30)  # its children have the same stderr: they have ended, too
        assert not self._reader.is_alive()

    def wait_for_log(self, pattern: str, timeout_s: float = 30.0) -> str:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for line in self.log:
                if re.search(pattern, line):
                    return line
            time.sleep(0.02)
        raise AssertionError(f"no line {pattern!r} in {self.log}")

    def _read(self, process: subprocess.Popen[str], lines: queue.SimpleQueue[str]) -> None:
        assert process.stderr is not None
        with process.stderr as stream:
            for line in stream:
                self.log.append(line.rstrip())
                lines.put(line)
        lines.put("")


@contextmanager
def rpc_worker(home: Path, *options: str, port: int = 0, prefix: tuple[str, ...] = ()) -> Iterator[RpcWorker]:
    """A worker on a loopback port; killed at the end."""
    worker = RpcWorker(home, *options, port=port, prefix=prefix)
    try:
        yield worker
    finally:
        worker.kill()
