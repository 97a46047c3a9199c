"""A real registry server for tests: the distribution project's `docker-registry` program, on loopback.

DONABE_TEST_REGISTRY=host:port uses a running one. Otherwise the program is started; when it is missing and this is a
Debian system where we may install packages, it is installed first.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_CONFIG = """version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {folder}}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


@contextmanager
def real_registry(folder: Path) -> Iterator[str]:
    """Run a registry that keeps its data in `folder`; gives `host:port`."""
    running = os.environ.get("DONABE_TEST_REGISTRY")
    if running:
        yield running
        return
    program = _program()
    port = _free_port()
    config = folder / "config.yml"
    folder.mkdir(parents=True, exist_ok=True)
    config.write_text(_CONFIG.format(folder=folder / "data", port=port))
    process = subprocess.Popen([program, "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, process)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _program() -> str:
    found = shutil.which("docker-registry")
    if found is None and shutil.which("apt-get") and os.geteuid() == 0:
        subprocess.run(["apt-get", "install", "-y", "-q", "docker-registry"], check=False, capture_output=True)
        found = shutil.which("docker-registry")
    if found is None:
        pytest.skip("needs docker-registry, or DONABE_TEST_REGISTRY=host:port")
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail("docker-registry did not start")
