"""OpenTelemetry: the spans of an answer, errors, parents, and that nothing is imported while it is off."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from tests.fakes.live import running
from tests.fakes.runner import Script, hello
from tests.fakes.server import FakeServer, make_server

from donabe.errors import RunnerDiedError, SettingsError
from donabe.server.tracing import Tracing, tracing_from
from donabe.types import Delta

MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def serve(exporter: InMemorySpanExporter) -> Callable[..., FakeServer]:
    def make(script: Script = hello) -> FakeServer:
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        return make_server(script=script, tracing=Tracing(provider))

    return make


def spans(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


@pytest.mark.parametrize(
    ("path", "body", "operation", "streams"),
    [
        ("/api/chat", {"messages": MESSAGES}, "chat", True),
        ("/api/generate", {"prompt": "hi"}, "text_completion", False),
        ("/v1/chat/completions", {"messages": MESSAGES}, "chat", False),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 9}, "chat", True),
    ],
)
async def test_answer_has_a_span_for_every_phase(serve, exporter, path, body, operation, streams) -> None:
    body = {"model": "C", "stream": streams, **body}
    await serve().post(path, body, headers={"x-request-id": "mine"})
    found = spans(exporter)
    request, answer = found[f"POST {path}"], found[f"{operation} C:latest"]
    assert request.kind is SpanKind.SERVER
    assert request.attributes["donabe.request.id"] == "mine"
    assert request.attributes["http.response.status_code"] == 200
    assert request.status.status_code is not StatusCode.ERROR
    assert answer.parent.span_id == request.context.span_id
    assert answer.attributes["gen_ai.operation.name"] == operation
    assert answer.attributes["gen_ai.request.model"] == "C:latest"
    assert answer.attributes["gen_ai.usage.input_tokens"] == 11
    assert answer.attributes["gen_ai.usage.output_tokens"] == 3
    phases = [found[name] for name in ("load", "queue", "prefill", "decode")]
    assert {phase.parent.span_id for phase in phases} == {answer.context.span_id}
    for earlier, later in itertools.pairwise(phases):
        assert earlier.start_time <= earlier.end_time == later.start_time
    prefill, decode = phases[2:]
    assert prefill.end_time - prefill.start_time == 12_500_000
    assert decode.end_time - decode.start_time == 30_250_000


async def test_trace_goes_on_with_that_of_the_caller(serve, exporter) -> None:
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    body = {"model": "C", "messages": MESSAGES}
    await serve().post("/api/chat", body, headers={"traceparent": f"00-{trace}-{parent}-01"})
    request = spans(exporter)["POST /api/chat"]
    assert f"{request.context.trace_id:032x}" == trace
    assert f"{request.parent.span_id:016x}" == parent


@pytest.mark.parametrize(("streams", "kind"), [(True, "incomplete_answer"), (False, "500")])
async def test_failed_answer_is_marked(serve, exporter, streams, kind) -> None:
    server = serve(lambda _: [Delta(text="x"), RunnerDiedError("gone")])
    await server.post("/api/chat", {"model": "C", "messages": MESSAGES, "stream": streams})
    request = spans(exporter)["POST /api/chat"]
    assert request.status.status_code is StatusCode.ERROR
    assert request.attributes["error.type"] == kind


async def test_refused_request_is_no_failure_of_the_server(serve, exporter) -> None:
    await serve().post("/api/chat", {"model": "nobody", "messages": MESSAGES})
    [request] = exporter.get_finished_spans()
    assert request.attributes["http.response.status_code"] == 404
    assert request.status.status_code is not StatusCode.ERROR


async def test_watchers_are_not_traced(serve, exporter) -> None:
    server = serve()
    for path in ("/", "/api/version", "/metrics"):
        await server.client.get(path)
    assert exporter.get_finished_spans() == ()


class Collector(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.server.bodies.append((self.path, self.rfile.read(int(self.headers["content-length"]))))  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_spans_reach_the_endpoint_before_the_server_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        collector.bodies = []  # type: ignore[attr-defined]
        thread = Thread(target=collector.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
        with running(make_server(tracing=tracing_from(os.environ)).app) as url:
            httpx.post(f"{url}/api/generate", json={"model": "C", "prompt": "hi"})
        collector.shutdown()
        thread.join()
    [(path, body)] = collector.bodies  # type: ignore[attr-defined]
    assert path == "/v1/traces"
    for text in (b"text_completion C:latest", b"prefill", b"service.name", b"donabe"):
        assert text in body


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_off(environ) -> None:
    assert tracing_from(environ) is None


def test_unknown_protocol_is_refused() -> None:
    with pytest.raises(SettingsError, match="must be http/protobuf or grpc, not 'carrier pigeon'"):
        tracing_from(
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "carrier pigeon"}
        )


def test_missing_extra_is_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    assert tracing_from({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1/v1/traces"}) is None
    assert "pip install 'donabe[otel]'" in caplog.text


def test_nothing_is_imported_while_it_is_off() -> None:
    program = (
        "import sys, tests.fakes.server as fakes\n"
        "fakes.make_server()\n"
        "import donabe.server.wiring\n"
        "assert donabe.server.wiring.tracing_from({}) is None\n"
        # some versions of FastAPI import the small API package themselves
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))])"
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
