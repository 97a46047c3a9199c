"""Hostile registries and files over HTTP: one error each, nothing changes outside the store, the server serves on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.live import running
from tests.fakes.registry_gguf import FakeGguf, FakeTensor, Value, text, tiny_model, u32
from tests.fakes.registry_http import Reply
from tests.fakes.registry_oci import FakeRegistry, fake_registry, sha256
from tests.fakes.settings import FakeSettings

from donabe.client import Client
from donabe.errors import ResponseError
from donabe.registry.download import Patience
from donabe.registry.jobs import Puller
from donabe.registry.sources import PullOptions
from donabe.runner.client import RunnerProcess
from donabe.server.app import Collaborators, create_app
from donabe.service.create import ModelCreator
from donabe.service.uploads import Uploads
from donabe.store.check import check_store
from donabe.store.metadata import read_metadata
from donabe.store.models import ModelStore

GOOD = tiny_model().encode()
HOSTILE_FILES = {
    "cut off": GOOD[:-30],
    "header only": GOOD[:40],
    "not a gguf": b"\x7fELF" + b"\0" * 500,
    "tensor beyond the file": FakeGguf(tiny_model().values, (FakeTensor("t.weight", (4, 3), offset=1 << 40),)).encode(),
    "no layers": tiny_model(llama__block_count=u32(0)).encode(),
    "special id outside": tiny_model(tokenizer__ggml__eos_token_id=u32(1 << 30)).encode(),
    "name with a path": tiny_model(general__architecture=text("../../x")).encode(),
    "strings beyond the file": tiny_model(x=Value(9, [], 8, 1 << 40)).encode(),
}


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRegistry]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with fake_registry() as state:
        yield state


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "area" / "models")


@pytest.fixture
def client(store: ModelStore, registry: FakeRegistry, tmp_path: Path) -> Iterator[Client]:
    patience = Patience(n_tries=2, stall_s=0.3, backoff_s=0.01)
    pull = Puller(store, PullOptions(insecure=True, private_hosts=("*",), key_folder=tmp_path, patience=patience))
    app = create_app(
        FakeSettings(home=tmp_path / "home"),
        Collaborators(
            store=store,  # type: ignore[arg-type]  # takes more kinds of names than the protocol asks for
            pull=pull,
            read_metadata=read_metadata,
            start_runner=RunnerProcess.start,
            creator=ModelCreator(store, pull=pull),
            uploads=Uploads(store),
        ),
    )
    with running(app) as url, Client(url) as client:
        yield client


def _outside(store: ModelStore) -> dict[str, bytes]:
    """Every file around the store."""
    area, root = store.layout.root.parent, store.layout.root
    return {str(p): p.read_bytes() for p in area.rglob("*") if p.is_file() and root not in p.parents}


def test_server_survives_hostile_registries(client: Client, registry: FakeRegistry, store: ModelStore) -> None:
    store.layout.root.mkdir(parents=True)
    (store.layout.root.parent / "x").write_text("outside")
    before = _outside(store)
    manifest = registry.add_model("lib/evil:t", GOOD)
    escaping = json.loads(manifest)
    escaping["layers"][0]["digest"] = "sha256:../../../../x"
    for answer in (b"", b"[" * 100_000, b"{}", manifest[:-5], json.dumps(escaping).encode(), b" " * (5 << 20)):
        registry.server.routes["/v2/lib/evil/manifests/"] = lambda _, data=answer: Reply(200, data)
        with pytest.raises(ResponseError):
            client.pull(f"{registry.host}/lib/evil:t", insecure=True)
    for data in HOSTILE_FILES.values():
        registry.add_model("lib/bad:t", data)
        with pytest.raises(ResponseError):
            client.pull(f"{registry.host}/lib/bad:t", insecure=True)
    registry.add_model("lib/other:t", GOOD)
    registry.blobs[sha256(GOOD)] = GOOD[:-1] + b"!"
    with pytest.raises(ResponseError, match="digest mismatch"):
        client.pull(f"{registry.host}/lib/other:t", insecure=True)
    assert _outside(store) == before
    assert client.list()["models"] == []
    registry.add_model("lib/good:t", GOOD)
    assert client.pull(f"{registry.host}/lib/good:t", insecure=True)["status"] == "success"
    assert len(client.list()["models"]) == 1
    assert check_store(store, deep=True) == ()


@pytest.mark.parametrize("name", HOSTILE_FILES)
def test_server_survives_hostile_files(client: Client, store: ModelStore, tmp_path: Path, name: str) -> None:
    path = tmp_path / "evil.gguf"
    path.write_bytes(HOSTILE_FILES[name])
    with pytest.raises(ResponseError):
        client.create("evil", files={"evil.gguf": client.upload(path)})
    assert client.list()["models"] == []
    path.write_bytes(GOOD)
    assert client.create("good", files={"good.gguf": client.upload(path)})["status"] == "success"
    assert client.show("good")["details"]["family"] == "llama"
    assert check_store(store) == ()
