"""Log lines as text and as JSON, what a request's line says, and ids of requests on every line about them."""

from __future__ import annotations

import json
import logging
from datetime import datetime, timezone

import pytest
from tests.fakes.runner import hello
from tests.fakes.server import make_server
from tests.fakes.settings import FakeSettings

from donabe.api.dialect import REQUEST_ID
from donabe.server.keys import KeyFile
from donabe.server.log_lines import JsonLines, TextLines
from donabe.server.main import configure_logging
from donabe.types import Failed

BODY = {"model": "C", "prompt": "hi"}


class Lines(logging.Handler):
    """Keeps lines as a formatter makes them, in the task that logs."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def capture():
    root, package = logging.getLogger(), logging.getLogger("donabe")
    level, found = package.level, []

    def begin(formatter: logging.Formatter) -> list[str]:
        handler = Lines(formatter)
        found.append(handler)
        root.addHandler(handler)
        package.setLevel(logging.INFO)
        return handler.lines

    yield begin
    package.setLevel(level)
    for handler in found:
        root.removeHandler(handler)


def record(message: str, *args: object, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("donabe.x", logging.WARNING, "x.py", 1, message, args, None)
    made.__dict__.update(extra)
    made.created = 1_700_000_000.25
    return made


def test_json_line_has_the_documented_names():
    fields = {"status": 200, "route": "/api/chat"}
    found = json.loads(JsonLines().format(record('said "%s"\n', "x\ud800", request_id="req_1", fields=fields)))
    assert found == {
        "time": "2023-11-14T22:13:20.250+00:00",
        "level": "warning",
        "logger": "donabe.x",
        "message": 'said "x?"\n',
        "request_id": "req_1",
        "status": 200,
        "route": "/api/chat",
    }
    assert datetime.fromisoformat(found["time"]) == datetime.fromtimestamp(1_700_000_000.25, timezone.utc)


def test_json_line_is_one_line_with_the_traceback_in_it():
    try:
        raise ValueError("no")
    except ValueError as error:
        made = record("failed")
        made.exc_info = (ValueError, error, error.__traceback__)
    line = JsonLines().format(made)
    assert "\n" not in line
    assert json.loads(line)["exception"].endswith("ValueError: no")


def test_text_line_ends_with_the_id_of_its_request():
    assert TextLines().format(record("done")).endswith("WARNING donabe.x: done")
    assert TextLines().format(record("done", request_id="req_1")).endswith("WARNING donabe.x: done id=req_1")


def test_a_line_written_in_the_task_of_a_request_has_its_id():
    token = REQUEST_ID.set("req_2")
    try:
        assert json.loads(JsonLines().format(record("done")))["request_id"] == "req_2"
        assert json.loads(JsonLines().format(record("done", request_id="req_1")))["request_id"] == "req_1"
    finally:
        REQUEST_ID.reset(token)
    assert "request_id" not in json.loads(JsonLines().format(record("done")))


@pytest.mark.parametrize("stream", [True, False])
async def test_the_line_of_an_answer_says_what_is_known(tmp_path, capture, stream):
    key, text = KeyFile(tmp_path / "keys.json").create("mine")
    server, lines = make_server(settings=FakeSettings(home=tmp_path)), capture(JsonLines())
    headers = {"authorization": f"Bearer {text}", "x-request-id": "mine"}
    response = await server.post("/api/generate", {**BODY, "stream": stream}, headers=headers)
    assert response.headers["x-request-id"] == "mine"
    [found] = [line for line in map(json.loads, lines) if line["logger"] == "donabe.requests"]
    assert 0 < found.pop("duration_s") < 10
    assert found.pop("message").startswith("POST /api/generate 200 ")
    assert found.pop("time")
    assert found == {
        "level": "info",
        "logger": "donabe.requests",
        "request_id": "mine",
        "method": "POST",
        "path": "/api/generate",
        "route": "/api/generate",
        "status": 200,
        "client": "127.0.0.1",
        "model": "C",
        "key": key.id,
    }
    assert text not in "".join(lines)


@pytest.mark.parametrize(("path", "status"), [("/api/generate", 429), ("/metrics", 403)])
async def test_the_line_of_a_refused_request_has_its_key(tmp_path, capture, path, status):
    key, text = KeyFile(tmp_path / "keys.json").create("mine", requests_per_minute=1)
    server, lines = make_server(settings=FakeSettings(home=tmp_path)), capture(JsonLines())
    headers = {"authorization": f"Bearer {text}"}
    await server.post("/api/generate", BODY, headers=headers)
    response = await server.client.request("GET" if status == 403 else "POST", path, json=BODY, headers=headers)
    assert response.status_code == status
    *_, found = (line for line in map(json.loads, lines) if line["logger"] == "donabe.requests")
    assert (found["status"], found["key"]) == (status, key.id)


async def test_loading_is_logged_with_the_request_that_caused_it(capture):
    server, lines = make_server(), capture(JsonLines())
    await server.post("/api/generate", BODY, headers={"x-request-id": "first"})
    [found] = [line for line in map(json.loads, lines) if line["message"].startswith("loaded C")]
    assert found["request_id"] == "first"


async def test_an_error_within_a_stream_is_in_its_line(capture):
    server = make_server(script=lambda request: [*hello(request)[:1], Failed(kind="RunnerDiedError", message="gone")])
    lines = capture(TextLines())
    await server.post("/api/generate", BODY, headers={"x-request-id": "mine"})
    [line] = [line for line in lines if "donabe.requests" in line]
    assert " POST /api/generate 200 " in line
    assert line.endswith("client=127.0.0.1 model=C key=- error=RunnerDiedError id=mine")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/embed", {"input": "hi"}),
        ("/api/tokenize", {"text": "hi"}),
        ("/api/detokenize", {"tokens": [1]}),
        ("/tokenize", {"content": "hi"}),
        ("/v1/embeddings", {"input": "hi"}),
        ("/v1/responses", {"input": "hi"}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}),
    ],
)
async def test_every_api_logs_its_model(tmp_path, capture, path, body):
    server, lines = make_server(settings=FakeSettings(home=tmp_path)), capture(JsonLines())
    await server.post(path, {"model": 'evil"\n name', **body})
    assert [json.loads(line).get("model") for line in lines if "donabe.requests" in line] == ['evil"??name']


@pytest.mark.parametrize(("name", "formatter"), [("text", TextLines), ("json", JsonLines)])
def test_the_setting_chooses_the_form(monkeypatch, name, formatter):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    before = {
        logger: logger.level
        for logger in (root, *map(logging.getLogger, ("donabe", "uvicorn.error", "httpx", "httpcore")))
    }
    try:
        configure_logging(logging.INFO, name)
        assert type(root.handlers[0].formatter) is formatter
    finally:
        for logger, level in before.items():
            logger.setLevel(level)
