"""llama-server: of donabe's patched source, or of the source as upstream has it (`pristine`)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.load import BenchmarkError, Target
from benchmarks.peers.base import ROOT, Setup, free_port, running

PATCHED = ROOT / "build" / "dev-tools"
PRISTINE = ROOT / "build" / "pristine-tools"


def tool(folder: Path, name: str) -> Path:
    """Path of one of upstream's programs.

    Raises:
        BenchmarkError: It is not built.
    """
    path = folder / name
    if not path.exists():
        preset = "pristine" if folder == PRISTINE else "dev"
        raise BenchmarkError(
            f"{path} is not built: cmake --preset {preset} && cmake --build build/{preset} --target donabe-bench-tools"
        )
    return path


class LlamaServer:
    """Upstream's server with as many slots as donabe has parallel requests; all else at its defaults."""

    can_restart = True

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self._folder = folder

    def prepare(self) -> None:
        tool(self._folder, "llama-server")

    def version(self) -> str:
        command = [str(tool(self._folder, "llama-server")), "--version"]
        output = subprocess.run(command, check=True, capture_output=True, timeout=60, text=True)
        lines = (output.stdout + output.stderr).splitlines()
        return next((line.removeprefix("version: ") for line in lines if line.startswith("version")), "unknown")

    @contextmanager
    def start(self, model: Path, setup: Setup) -> Iterator[Target]:
        port = free_port()
        command = [str(tool(self._folder, "llama-server")), "-m", str(model), "--port", str(port), "--no-webui",
                   "-np", str(setup.n_parallel), "-c", str(setup.n_ctx), "--metrics"]  # fmt: skip
        if setup.is_embedding:
            command += ["--embeddings", "--pooling", "mean"]
        url = f"http://127.0.0.1:{port}"
        with running(command, f"{url}/health") as process:
            facts = {"steps": "llamacpp:n_decode_total"}
            yield Target(self.name, url, "default", "openai", pid=process.pid, metrics=facts)


def llama_bench(folder: Path, model: Path, *arguments: str) -> list[dict[str, float]]:
    """Rows of `llama-bench -o json`."""
    command = [str(tool(folder, "llama-bench")), "-m", str(model), "-o", "json", *arguments]
    output = subprocess.run(command, check=True, capture_output=True, timeout=1200).stdout
    rows: list[dict[str, float]] = json.loads(output)
    return rows
