"""Fixtures of the native tests: tiny random models of every memory kind, made once by the vendored generator.

The generator and the vendored source are built with DONABE_DEV_TOOLS=ON. Without them these tests fail rather than
pass by not running.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.fakes.registry_gguf import FLOAT32, FakeGguf, FakeTensor, Value, text

TOOLS = Path(__file__).resolve().parents[2] / "build" / "dev-tools"
STDEV = "0.3"  # of the weights: with the generator's own, attention moves logits by less than a test would notice
SEED = "7"  # the program picks another at every start by itself
HOW = "build the test programs: cmake --preset dev && cmake --build --preset dev (DONABE_DEV_TOOLS=ON)"


def cache_dir() -> Path:
    base = os.environ.get("DONABE_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "donabe-tests" / "tiny-models"


@pytest.fixture(scope="session")
def vendored_source() -> Path:
    """Root of the vendored llama.cpp tree."""
    pointer = TOOLS / "ggml-source.txt"
    if not pointer.exists():
        pytest.fail(f"{pointer} is missing; {HOW}")
    return Path(pointer.read_text().strip())


@pytest.fixture(scope="session")
def tiny_model() -> Callable[[str], str]:
    """tiny_model("gemma3") is the path of a random model of that architecture, a few MB, 128 tokens of vocabulary."""
    given = os.environ.get("DONABE_TINY_MODELS")
    program = TOOLS / "donabe-tiny-models"
    if given is None and not program.exists():
        pytest.fail(f"{program} is missing; {HOW}, or let DONABE_TINY_MODELS name a folder with its output")
    if given is None:
        build = hashlib.sha256(program.read_bytes()).hexdigest()[:16]
        folder = cache_dir() / f"{build}-{STDEV}-{SEED}"
    else:
        folder = Path(given)
    folder.mkdir(parents=True, exist_ok=True)

    def find(architecture: str) -> Path | None:
        for kind in ("dense", "moe"):
            path = folder / f"{architecture}-{kind}.gguf"
            if path.exists():
                return path
        return None

    def get(architecture: str) -> str:
        path = find(architecture)
        if path is None and given is None:
            command = [str(program), "-a", architecture, "-d", STDEV, "-s", SEED, "-o", str(folder)]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            path = find(architecture)
        if path is None:
            pytest.fail(f"no tiny model of architecture {architecture} in {folder}")
        return str(path)

    return get


@pytest.fixture(scope="session")
def adapter_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random rank-2 adapter of the tiny llama's first query projection."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=2 * 256 * 2).astype(np.float32)
    values = (
        ("general.architecture", text("llama")),
        ("general.type", text("adapter")),
        ("adapter.type", text("lora")),
        ("adapter.lora.alpha", Value(FLOAT32, 2.0)),
    )
    tensors = (FakeTensor("blk.0.attn_q.weight.lora_a", (256, 2)), FakeTensor("blk.0.attn_q.weight.lora_b", (2, 256)))
    file = FakeGguf(values, tensors, data_bytes=0, tail=weights.tobytes())
    return str(file.write(tmp_path_factory.mktemp("adapter") / "lora.gguf"))
