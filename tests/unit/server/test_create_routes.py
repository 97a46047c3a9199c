"""Uploading files and creating models over HTTP: statuses, events, and errors before and after the first event."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from tests.fakes.registry_gguf import F16, FakeGguf, FakeTensor, tiny_model, u32
from tests.fakes.runner import RunnerFactory, hello
from tests.fakes.settings import FakeSettings
from tests.fakes.store import FakePull

from donabe.convert.quantize import QuantizeJob
from donabe.errors import ModelNotFoundError
from donabe.server.app import Collaborators, create_app
from donabe.service.create import ModelCreator
from donabe.service.uploads import Uploads
from donabe.store.metadata import read_metadata
from donabe.store.models import ModelStore
from donabe.types import PullProgress


async def fake_quantize(job: QuantizeJob) -> AsyncGenerator[tuple[int, int], None]:
    yield 1, 2
    tiny_model(general__file_type=u32(15)).write(job.target)
    yield 2, 2


async def fake_push(name: str, *, insecure: bool = False, limit_rate: int = 0) -> AsyncIterator[PullProgress]:
    yield PullProgress(status="retrieving manifest")
    if name == "missing":
        raise ModelNotFoundError("model 'missing' not found", name=name)
    yield PullProgress(status=f"pushing {name} {insecure} {limit_rate}", digest="sha256:0", total=2, completed=1)
    yield PullProgress(status="success")


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


@pytest.fixture
async def client(store: ModelStore) -> AsyncIterator[httpx.AsyncClient]:
    pull = FakePull()
    app = create_app(
        FakeSettings(),
        Collaborators(
            store=store,  # type: ignore[arg-type]  # takes more kinds of names than the protocol asks for
            pull=pull,
            read_metadata=read_metadata,
            start_runner=RunnerFactory(hello),
            creator=ModelCreator(store, pull=pull, quantize=fake_quantize),
            uploads=Uploads(store),
            push=fake_push,
        ),
    )
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:11434") as client:
        yield client


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


async def upload(client: httpx.AsyncClient, data: bytes) -> str:
    response = await client.post(f"/api/blobs/{digest_of(data)}", content=data)
    assert response.status_code == 201, response.text
    return digest_of(data)


async def create(client: httpx.AsyncClient, **body: Any) -> list[dict[str, Any]]:
    response = await client.post("/api/create", json=body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    return [msgspec.json.decode(line) for line in response.content.splitlines()]


# --- blobs -----------------------------------------------------------------------------------------------------------


async def test_blob_is_new_once_then_known(client: httpx.AsyncClient) -> None:
    digest = digest_of(b"data")
    assert (await client.head(f"/api/blobs/{digest}")).status_code == 404
    first = await client.post(f"/api/blobs/{digest}", content=b"data")
    second = await client.post(f"/api/blobs/{digest}", content=b"other")
    assert (first.status_code, first.content, second.status_code) == (201, b"", 200)
    assert (
        await client.head(f"/api/blobs/{digest.replace(':', '-').upper().replace('SHA', 'sha')}")
    ).status_code == 200


async def test_other_content_is_refused_and_not_kept(client: httpx.AsyncClient, store: ModelStore) -> None:
    digest = digest_of(b"data")
    response = await client.post(f"/api/blobs/{digest}", content=b"other")
    assert response.status_code == 400
    assert response.json()["error"] == f'digest mismatch, expected "{digest}", got "{digest_of(b"other")}"'
    assert list(store.layout.blobs.iterdir()) == []


@pytest.mark.parametrize("digest", ["x", "sha256:abc", "sha256:" + "g" * 64, "md5:" + "0" * 32])
async def test_malformed_digest_is_refused(client: httpx.AsyncClient, digest: str) -> None:
    response = await client.post(f"/api/blobs/{digest}", content=b"data")
    assert (response.status_code, response.json()["error"]) == (400, "invalid digest format")


async def test_path_in_place_of_a_digest_is_no_route(client: httpx.AsyncClient, store: ModelStore) -> None:
    response = await client.post("/api/blobs/..%2f..%2fetc%2fpasswd", content=b"data")
    assert response.status_code == 404
    assert not store.layout.root.exists()


async def test_get_of_a_blob_is_not_allowed(client: httpx.AsyncClient) -> None:
    response = await client.get(f"/api/blobs/{digest_of(b'')}")
    assert (response.status_code, response.headers["allow"]) == (405, "HEAD, POST")


async def test_large_blob_arrives_whole(client: httpx.AsyncClient, store: ModelStore) -> None:
    data = bytes(range(256)) * 40_000
    await upload(client, data)
    assert [path.read_bytes() for path in store.layout.blobs.iterdir()] == [data]


# --- create ----------------------------------------------------------------------------------------------------------


async def test_created_model_is_shown_with_all_its_texts(client: httpx.AsyncClient) -> None:
    events = await create(
        client,
        model="mine",
        files={"m.gguf": await upload(client, tiny_model().encode())},
        system="Be brief.",
        template="{{ .Prompt }} {{ .Tools }}",
        license=["MIT", "more"],
        parameters={"stop": ["<end>"], "temperature": 0.5},
        messages=[{"role": "user", "content": "hi"}],
    )
    assert events[0] == {"status": "parsing GGUF"}
    assert events[-1] == {"status": "success"}
    shown = (await client.post("/api/show", json={"model": "mine"})).json()
    assert (shown["system"], shown["license"]) == ("Be brief.", "MIT\nmore")
    assert shown["template"] == "{{ .Prompt }} {{ .Tools }}"
    assert shown["messages"] == [{"role": "user", "content": "hi"}]
    assert 'stop                           "<end>"' in shown["parameters"]


async def test_progress_of_quantising_has_totals(client: httpx.AsyncClient) -> None:
    model = FakeGguf(tiny_model().values, (FakeTensor("token_embd.weight", (4, 3), F16),)).encode()
    events = await create(client, model="q", files={"m.gguf": await upload(client, model)}, quantize="q4_K_M")
    (first, second) = [event for event in events if event["status"].startswith("quantizing")]
    assert first == {
        "status": "quantizing F16 model to Q4_K_M",
        "digest": "0000000000000000000",
        "total": len(model),
        "completed": len(model) // 2,
    }
    assert second["completed"] == len(model)


async def test_without_stream_only_the_end_is_told(client: httpx.AsyncClient) -> None:
    files = {"m.gguf": await upload(client, tiny_model().encode())}
    response = await client.post("/api/create", json={"name": "m", "files": files, "stream": False})
    assert (response.status_code, response.json()) == (200, {"status": "success"})


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "missing request body"),
        (b'{"model":"bad name!","from":"x"}', "invalid model name"),
        (b'{"model":"m"}', "neither 'from' or 'files' was specified"),
        (b'{"model":"m","files":{"../x":"sha256:0"}}', "file path must be relative"),
        (b'{"model":"m","files":{"x":""}}', "invalid digest format"),
        (b'{"model":"m","from":"x","template":"{{ .Prompt"}', "template error: template: :1: unclosed action"),
        (b'{"model":"m","from":"x","info":{"context_length":"1"}}', 'info field "context_length" must be a number'),
        (b'{"model":"m","from":"x","license":3}', "license must be a string or a list of strings, got number"),
        (
            b'{"model":"m","files":{"x":1}}',
            "cannot unmarshal number into Go struct field CreateRequest.files of type string",
        ),
    ],
)
async def test_bad_request_has_its_status_and_text(client: httpx.AsyncClient, body: bytes, error: str) -> None:
    response = await client.post("/api/create", content=body)
    assert response.status_code == 400
    assert error in response.json()["error"]


async def test_error_before_the_first_event_has_its_own_status(client: httpx.AsyncClient) -> None:
    response = await client.post("/api/create", json={"model": "m", "files": {"config.json": digest_of(b"")}})
    assert (response.status_code, response.json()["error"]) == (400, "unknown type")


async def test_error_after_the_first_event_is_the_last_line(client: httpx.AsyncClient) -> None:
    events = await create(client, model="m", files={"m.gguf": await upload(client, b"GGUF\x03\0\0\0")})
    assert events[0] == {"status": "parsing GGUF"}
    assert events[-1]["error"].startswith("m.gguf: ")


async def test_unknown_field_is_reported_in_a_header(client: httpx.AsyncClient) -> None:
    files = {"m.gguf": await upload(client, tiny_model().encode())}
    response = await client.post("/api/create", json={"model": "m", "files": files, "modelfile": "FROM x"})
    assert "modelfile" in response.headers["warning"]


async def test_unknown_parameter_is_reported_in_a_header(client: httpx.AsyncClient) -> None:
    files = {"m.gguf": await upload(client, tiny_model().encode())}
    body = {"model": "m", "files": files, "parameters": {"temprature": 1, "top_k": 3}, "stream": False}
    response = await client.post("/api/create", json=body)
    assert (response.status_code, response.headers["warning"]) == (200, '299 donabe "unknown parameter temprature"')


# --- push ------------------------------------------------------------------------------------------------------------


async def test_push_streams_its_progress(client: httpx.AsyncClient) -> None:
    response = await client.post("/api/push", json={"name": "me/x", "insecure": True, "limit_rate": 9, "password": ""})
    assert [msgspec.json.decode(line) for line in response.content.splitlines()] == [
        {"status": "retrieving manifest"},
        {"status": "pushing me/x True 9", "digest": "sha256:0", "total": 2, "completed": 1},
        {"status": "success"},
    ]
    whole = await client.post("/api/push", json={"model": "me/x", "stream": False})
    assert whole.json() == {"status": "success"}


async def test_push_of_nothing_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.post("/api/push", json={})
    assert (response.status_code, response.json()["error"]) == (400, "model is required")


async def test_push_of_a_missing_model_ends_with_its_error(client: httpx.AsyncClient) -> None:
    response = await client.post("/api/push", json={"model": "missing"})
    assert msgspec.json.decode(response.content.splitlines()[-1])["error"] == "model 'missing' not found"
