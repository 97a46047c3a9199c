"""`create --quantize` gives what the vendored `llama-quantize` gives: the same tensors bit for bit, the same metadata.

Where an architecture's rules keep some tensors at a finer type, upstream's program is told so with `--tensor-type`.
"""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.native.conftest import HOW, TOOLS

from donabe.convert.quantization import tensor_types
from donabe.convert.quantize import QuantizeJob, quantize
from donabe.registry.jobs import Puller
from donabe.service.create import ModelCreator
from donabe.service.create_call import CreateCall
from donabe.store.gguf import GgufReader
from donabe.store.models import ModelStore

pytestmark = pytest.mark.peers

PROGRAM = TOOLS / "llama-quantize"


@pytest.fixture
def as_f16(tiny_model: Callable[[str], str], tmp_path: Path) -> Callable[[str], Path]:
    """A tiny model of an architecture, as F16."""

    def make(architecture: str) -> Path:
        target = tmp_path / f"{architecture}-f16.gguf"

        async def convert() -> None:
            async for _ in quantize(QuantizeJob(Path(tiny_model(architecture)), target, "F16", n_threads=1)):
                pass

        asyncio.run(convert())
        return target

    return make


def _by_upstream(source: Path, kind: str) -> Path:
    if not PROGRAM.exists():
        pytest.fail(f"{PROGRAM} is missing; {HOW}")
    target = source.with_name(f"peer-{kind}.gguf")
    with GgufReader(source) as reader:
        rules = tensor_types(reader.architecture, reader.tensors, kind)
    options = [option for pattern, kept in rules for option in ("--tensor-type", f"{pattern}={kept}")]
    subprocess.run([PROGRAM, *options, source, target, kind, "1"], check=True, capture_output=True, timeout=120)
    return target


def _by_create(source: Path, kind: str) -> Path:
    store = ModelStore(source.parent / "store")
    digest, _ = store.blobs.add_bytes(source.read_bytes())
    call = CreateCall(model="m", files={"m.gguf": str(digest)}, quantize=kind)

    async def create() -> None:
        async for _ in ModelCreator(store, pull=Puller(store)).create(call):
            pass

    asyncio.run(create())
    return Path(store.resolve("m").paths[0])


def _content(path: Path) -> tuple[dict[str, object], dict[str, tuple[object, ...]]]:
    """Metadata, and shape, type and digest of every tensor's data."""
    with GgufReader(path) as reader, open(path, "rb") as file:
        metadata = {key: reader.get(key) for key in reader.entries}
        tensors = {}
        for tensor in reader.tensors:
            file.seek(reader.data_start + tensor.offset)
            digest = hashlib.sha256(file.read(tensor.n_bytes)).hexdigest()
            tensors[tensor.name] = (tensor.shape, tensor.type.name, digest)
    return metadata, tensors


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [("llama", "q4_K_M"), ("llama", "q4_K_S"), ("llama", "q8_0"), ("gemma3", "q4_K_M"), ("deepseek2", "q4_K_M")],
)
def test_create_quantises_as_upstream_does(as_f16: Callable[[str], Path], architecture: str, kind: str) -> None:
    source = as_f16(architecture)
    theirs_metadata, theirs = _content(_by_upstream(source, kind.upper()))
    ours_metadata, ours = _content(_by_create(source, kind))
    assert ours == theirs
    assert ours_metadata == theirs_metadata
    assert len({kind for _, kind, _ in ours.values()}) > 1  # something was quantised, something left
