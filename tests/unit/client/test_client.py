from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.http_server import FakeServer

from donabe.client import AsyncClient, Client
from donabe.errors import ResponseError, ServerUnavailableError, SettingsError

HELLO = [
    {"model": "m", "response": "Hel", "done": False},
    {"model": "m", "response": "lo", "done": False},
    {"model": "m", "response": "", "done": True, "done_reason": "stop"},
]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.close()


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with Client(server.host) as client:
        yield client


def test_generate_streamed_yields_every_event(server: FakeServer, client: Client) -> None:
    server.reply("POST", "/api/generate", HELLO)
    events = list(client.generate("m", "hi", stream=True, options={"seed": 1}, keep_alive="5m"))
    assert "".join(event["response"] for event in events) == "Hello"
    assert server.bodies("/api/generate") == [
        {"model": "m", "prompt": "hi", "stream": True, "options": {"seed": 1}, "keep_alive": "5m"}
    ]


def test_generate_whole_returns_one_object(server: FakeServer, client: Client) -> None:
    server.reply("POST", "/api/generate", [{"response": "Hello", "done": True}])
    assert client.generate("m", "hi")["response"] == "Hello"
    assert server.bodies("/api/generate")[0]["stream"] is False


def test_fields_that_are_none_are_not_sent(server: FakeServer, client: Client) -> None:
    server.reply("POST", "/api/generate", [{"done": True}])
    client.generate("m", "hi", system=None, think=False)  # type: ignore[arg-type]
    assert server.bodies("/api/generate") == [{"model": "m", "prompt": "hi", "stream": False, "think": False}]


def test_unknown_field_is_a_type_error(client: Client) -> None:
    with pytest.raises(TypeError, match="temprature"):
        client.generate("m", "hi", temprature=1)  # type: ignore[call-overload]


def test_images_are_sent_as_base64(server: FakeServer, client: Client, tmp_path: Path) -> None:
    server.reply("POST", "/api/chat", [{"done": True}])
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG")
    messages = [{"role": "user", "content": "?", "images": [b"raw", path, "Zm9v"]}]
    client.chat("m", messages)
    sent = server.bodies("/api/chat")[0]["messages"][0]["images"]
    assert [base64.b64decode(item) for item in sent] == [b"raw", b"\x89PNG", b"foo"]
    assert messages[0]["images"] == [b"raw", path, "Zm9v"], "the caller's message must not change"


def test_error_status_carries_message_status_and_hint(server: FakeServer, client: Client) -> None:
    server.reply("POST", "/api/show", [{"error": "model 'x' not found", "hint": "pull it"}], status=404)
    with pytest.raises(ResponseError, match="model 'x' not found") as caught:
        client.show("x")
    assert (caught.value.status_code, caught.value.hint) == (404, "pull it")


def test_error_status_of_a_stream_is_raised(server: FakeServer, client: Client) -> None:
    server.reply("POST", "/api/generate", [{"error": "bad option"}], status=400)
    with pytest.raises(ResponseError, match="bad option") as caught:
        list(client.generate("m", "hi", stream=True))
    assert caught.value.status_code == 400


def test_error_inside_a_stream_is_raised_after_the_text(server: FakeServer, client: Client) -> None:
    server.reply("POST", "/api/generate", [HELLO[0], {"error": "boom"}])
    stream = client.generate("m", "hi", stream=True)
    assert next(stream)["response"] == "Hel"
    with pytest.raises(ResponseError, match="boom") as caught:
        next(stream)
    assert caught.value.status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_warnings_of_the_server_are_logged(
    server: FakeServer, client: Client, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    header = ("Warning", '299 donabe "unknown field \\"temprature\\""')
    server.reply("POST", "/api/generate", [{"response": "", "done": True}], headers=(header, header))
    list(client.generate("m", "hi", stream=stream))
    assert [record.getMessage() for record in caplog.records if record.name == "donabe.client"] == [
        'unknown field "temprature"'
    ] * 2


def test_stream_without_last_event_is_an_error(server: FakeServer, client: Client) -> None:
    server.reply("POST", "/api/generate", HELLO[:2])
    with pytest.raises(ResponseError, match="before the answer was complete"):
        list(client.generate("m", "hi", stream=True))


def test_dropped_connection_is_server_unavailable(server: FakeServer, client: Client) -> None:
    server.reply("POST", "/api/generate", HELLO[:1], cut=True)
    with pytest.raises(ServerUnavailableError, match="broke"):
        list(client.generate("m", "hi", stream=True))


def test_leaving_a_stream_closes_the_connection(server: FakeServer, client: Client) -> None:
    server.reply("POST", "/api/generate", HELLO[:1], hold=True)
    stream = client.generate("m", "hi", stream=True)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert server.left.wait(5)


def test_html_page_of_a_proxy_is_a_response_error(server: FakeServer, client: Client) -> None:
    server.reply("GET", "/api/tags", ["<html>"])
    with pytest.raises(ResponseError, match="no JSON"):
        client.list()


def test_no_server_is_server_unavailable_with_hint() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(ServerUnavailableError, match=r"127\.0\.0\.1:1") as caught:
        client.heartbeat()
    assert caught.value.hint == "run 'donabe serve' to start it"


def test_bad_host_names_the_setting() -> None:
    with pytest.raises(SettingsError, match="port") as caught:
        Client("localhost:99999")
    assert caught.value.setting == "host"


def test_host_and_key_come_from_the_environment(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", server.host)
    monkeypatch.delenv("DONABE_HOST", raising=False)
    monkeypatch.setenv("DONABE_API_KEY", "sk-1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with Client() as client:
        client.heartbeat()
    assert server.calls[0].headers["Authorization"] == "Bearer sk-1"
    assert server.calls[0].headers["User-Agent"].startswith("donabe/")


@pytest.mark.parametrize(
    ("method", "path", "run", "body"),
    [
        ("GET", "/api/tags", lambda c: c.list(), None),
        ("GET", "/api/ps", lambda c: c.ps(), None),
        ("GET", "/api/version", lambda c: c.version(), None),
        ("POST", "/api/show", lambda c: c.show("m", verbose=True), {"model": "m", "verbose": True}),
        ("POST", "/api/embed", lambda c: c.embed("m", ["a"]), {"model": "m", "input": ["a"]}),
        ("POST", "/api/pull", lambda c: c.pull("m"), {"model": "m", "stream": False}),
        ("POST", "/api/push", lambda c: c.push("m", insecure=True), {"model": "m", "stream": False, "insecure": True}),
        (
            "POST",
            "/api/pull",
            lambda c: c.pull("m", limit_rate=5_000_000),
            {"model": "m", "stream": False, "limit_rate": 5_000_000},
        ),
        ("POST", "/api/copy", lambda c: c.copy("a", "b"), {"source": "a", "destination": "b"}),
        ("DELETE", "/api/delete", lambda c: c.delete("m"), {"model": "m"}),
        ("POST", "/api/create", lambda c: c.create("m", from_="n"), {"model": "m", "stream": False, "from": "n"}),
    ],
)
def test_call_uses_its_method_path_and_body(server, client, method, path, run, body) -> None:  # type: ignore[no-untyped-def]
    server.reply(method, path, [{"status": "success"}])
    run(client)
    assert [(call.method, call.path, call.body) for call in server.calls] == [(method, path, body)]


async def test_async_client_streams_and_raises(server: FakeServer) -> None:
    server.reply("POST", "/api/generate", HELLO)
    server.reply("POST", "/api/generate", [{"error": "no such model"}], status=404)
    async with AsyncClient(server.host) as client:
        texts = [event["response"] async for event in await client.generate("m", "hi", stream=True)]
        assert "".join(texts) == "Hello"
        with pytest.raises(ResponseError, match="no such model"):
            await client.generate("m", "hi")
