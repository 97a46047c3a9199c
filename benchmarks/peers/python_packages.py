"""llama-cpp-python and xllamacpp, each with its own server, in an environment of its own in the cache folder.

Only wheels are installed. Where the package index has none, the package can be installed into that environment by hand;
the error says how.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.load import BenchmarkError, Target, UnsupportedByPeerError
from benchmarks.model import cache_dir
from benchmarks.peers.base import Setup, free_port, running

XLLAMACPP_SERVER = Path(__file__).with_name("xllamacpp_server.py")


class PackagePeer:
    """A package of the Python package index that can serve; subclasses say how."""

    name = ""
    module = ""
    requirement = ""
    can_restart = True
    ready_path = "/health"
    ignores_eos = True

    @property
    def python(self) -> Path:
        folder = "Scripts" if sys.platform == "win32" else "bin"
        return cache_dir() / "venvs" / self.name / folder / "python"

    def prepare(self) -> None:
        """Install the wheel on first use.

        Raises:
            BenchmarkError: There is no wheel for this machine.
        """
        if not self.python.exists():
            venv.create(self.python.parents[1], with_pip=True)
        if self._has_module():
            return
        command = [str(self.python), "-m", "pip", "install", "--quiet", "--prefer-binary", "--only-binary", ":all:"]
        done = subprocess.run([*command, self.requirement], check=False, capture_output=True, timeout=900, text=True)
        if done.returncode or not self._has_module():
            raise BenchmarkError(
                f"{self.name} has no wheel for this machine on the package index; to build it: "
                f"{self.python} -m pip install '{self.requirement}'"
            )

    def _has_module(self) -> bool:
        command = [str(self.python), "-c", f"import {self.module}"]
        return subprocess.run(command, check=False, capture_output=True, timeout=120).returncode == 0

    def version(self) -> str:
        code = f"from importlib.metadata import version; print(version('{self.name}'))"
        return subprocess.run(
            [str(self.python), "-c", code], check=True, capture_output=True, timeout=60, text=True
        ).stdout.strip()

    def command(self, model: Path, setup: Setup, port: int) -> list[str]:
        raise NotImplementedError

    @contextmanager
    def start(self, model: Path, setup: Setup) -> Iterator[Target]:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        command = [str(self.python), *self.command(model, setup, port)]
        with running(command, url + self.ready_path, {"PYTHONPATH": ""}) as process:
            yield Target(self.name, url, "default", "openai", pid=process.pid, ignores_eos=self.ignores_eos)


class LlamaCppPython(PackagePeer):
    """`python -m llama_cpp.server`, which answers one request at a time."""

    name = "llama-cpp-python"
    module = "llama_cpp.server"
    requirement = "llama-cpp-python[server]"
    ready_path = "/v1/models"
    ignores_eos = False

    def command(self, model: Path, setup: Setup, port: int) -> list[str]:
        found = ["-m", "llama_cpp.server", "--model", str(model), "--model_alias", "default", "--port", str(port)]
        if setup.is_embedding:
            raise UnsupportedByPeerError(f"{self.name}'s server has no option for mean pooling")
        return [*found, "--n_ctx", str(setup.n_ctx // setup.n_parallel), "--interrupt_requests", "false"]


class XLlamaCpp(PackagePeer):
    """xllamacpp's `Server`: llama-server in a Python process."""

    name = "xllamacpp"
    module = "xllamacpp"
    requirement = "xllamacpp"

    def command(self, model: Path, setup: Setup, port: int) -> list[str]:
        values = [str(model), str(port), str(setup.n_parallel), str(setup.n_ctx), str(int(setup.is_embedding))]
        return [str(XLLAMACPP_SERVER), *values]
