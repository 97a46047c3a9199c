"""A split model, pulled from a registry as several blobs, is the whole model to the engine."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fakes.registry_oci import fake_registry
from tests.native.lab import Lab, assert_close, random_tokens

from donabe.convert import gguf_write
from donabe.registry.jobs import Puller, pull_model_sync
from donabe.registry.references import parse_reference
from donabe.registry.sources import PullOptions
from donabe.service.create import ModelCreator
from donabe.service.create_call import CreateCall
from donabe.store.gguf import GgufReader
from donabe.store.gguf_tables import INT32, MAGIC, UINT16
from donabe.store.models import ModelStore


def split_gguf(source: Path, count: int) -> list[bytes]:
    """The files of a split set, made as upstream's tools do: all metadata in the first."""
    with GgufReader(source) as reader:
        data = source.read_bytes()
        first_info = data.index(struct.pack("<Q", len(reader.tensors[0].name)) + reader.tensors[0].name.encode())
        keys, n_keys, files = data[24:first_info], len(reader.entries), []
        for number in range(count):
            tensors = reader.tensors[number::count]
            split = b"".join(
                struct.pack("<Q", len(key)) + key + struct.pack(f"<I{code}", kind, value)
                for key, kind, code, value in (
                    (b"split.no", UINT16, "H", number),
                    (b"split.count", UINT16, "H", count),
                    (b"split.tensors.count", INT32, "i", len(reader.tensors)),
                )
            )
            n_own = n_keys if number == 0 else 0
            out = MAGIC + struct.pack("<IQQ", 3, len(tensors), n_own + 3) + (keys if number == 0 else b"") + split
            offset, content = 0, b""
            for tensor in tensors:
                out += gguf_write._tensor_info(tensor, offset)
                start = reader.data_start + tensor.offset
                padded = data[start : start + tensor.n_bytes] + b"\0" * (-tensor.n_bytes % reader.alignment)
                content, offset = content + padded, offset + len(padded)
            files.append(out + b"\0" * (-len(out) % reader.alignment) + content)
    return files


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def pull_split(whole: str, store: ModelStore, folder: Path) -> str:
    """The model, pulled as three blobs; its name."""
    with fake_registry() as registry:
        registry.add_files("lib/big:t", split_gguf(Path(whole), 3)[::-1])
        name = f"{registry.host}/lib/big:t"
        options = PullOptions(insecure=True, private_hosts=("*",), key_folder=folder / "home")
        assert list(pull_model_sync(parse_reference(name), store, options))[-1].status == "success"
    return name


def test_pulled_split_set_computes_what_the_whole_model_does(tiny_model: Callable[[str], str], tmp_path: Path) -> None:
    whole = tiny_model("llama")
    store = ModelStore(tmp_path / "models")
    spec = store.resolve(pull_split(whole, store, tmp_path))
    assert len(spec.paths) == 3
    tokens = random_tokens(20)
    assert_close(Lab(list(spec.paths)).fresh(tokens), Lab(whole).fresh(tokens))


async def test_split_set_is_quantised_as_the_whole_model_is(tiny_model: Callable[[str], str], tmp_path: Path) -> None:
    whole = Path(tiny_model("llama"))
    store = ModelStore(tmp_path / "models")
    name = await asyncio.to_thread(pull_split, str(whole), store, tmp_path)
    creator = ModelCreator(store, pull=Puller(store))
    digest = str(store.blobs.add_bytes(await asyncio.to_thread(whole.read_bytes))[0])
    for call in (
        CreateCall(model="split", from_=name, quantize="q8_0"),
        CreateCall(model="whole", files={"whole.gguf": digest}, quantize="q8_0"),
    ):
        assert [event.status async for event in creator.create(call)][-1] == "success"
    split, expected = store.resolve("split"), store.resolve("whole")
    assert split.details == expected.details
    tokens = random_tokens(20)
    assert_close(Lab(list(split.paths)).fresh(tokens), Lab(list(expected.paths)).fresh(tokens))
