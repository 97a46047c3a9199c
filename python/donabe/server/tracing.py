"""Spans of requests for OpenTelemetry: request -> answer -> load, queue, prefill, decode, named as the conventions for
generative models name them.

On when the standard OTEL_* variables name an endpoint and the extra `otel` is installed; otherwise nothing of it is
imported. The phases are known when an answer is done, so they are recorded then, and no token costs anything.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from starlette.types import Scope

from donabe.errors import SettingsError
from donabe.types import Usage

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

logger = logging.getLogger("donabe.server")

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_EXPORTERS = {
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "grpc": "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
}
FLUSH_S = 3.0
_NS = 1_000_000_000
# Asked every few seconds by those who watch; nobody wants them traced.
_UNTRACED = frozenset(("/", "/health", "/metrics", "/api/version", "/api/ps"))
_COMPLETIONS = ("/api/generate", "/v1/completions", "/infill")


class Tracing:
    """Makes the spans of one server."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("donabe")

    def begin(self, scope: Scope, request_id: str) -> RequestTrace | None:
        """The trace of a request, a part of the caller's if it says so; None for requests that are not traced."""
        if scope["path"] in _UNTRACED:
            return None
        return RequestTrace(self._tracer, scope, request_id)

    async def close(self) -> None:
        """Send what is left, for a few seconds at most."""
        sender = threading.Thread(target=self._provider.shutdown, name="donabe-traces", daemon=True)
        sender.start()
        await asyncio.to_thread(sender.join, FLUSH_S)


class RequestTrace:
    """The spans of one request."""

    def __init__(self, tracer: Tracer, scope: Scope, request_id: str) -> None:
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self._tracer = tracer
        self._method = scope["method"]
        self._started_ns = time.time_ns()
        self._model = ""
        self._load_s = 0.0
        self._usages: list[tuple[Usage, int]] = []  # with the time at which each came
        self._span = tracer.start_span(
            self._method,
            context=extract(headers),
            kind=SpanKind.SERVER,
            start_time=self._started_ns,
            attributes={
                "http.request.method": self._method,
                "url.path": scope["path"],
                "url.scheme": scope["scheme"],
                "donabe.request.id": request_id,
            },
        )

    def began(self, model: str, load_s: float) -> None:
        """The answer's first event is there."""
        self._model, self._load_s = model, load_s

    def finished(self, usage: Usage) -> None:
        """A choice of the answer is complete."""
        self._usages.append((usage, time.time_ns()))

    def end(self, route: str, status: int) -> None:
        """The request is over, however it went."""
        span = self._span
        span.update_name(f"{self._method} {route}")
        span.set_attributes({"http.route": route, "http.response.status_code": status})
        if status >= 500:
            _mark_failed(span, str(status))
        elif self._model and not self._usages:
            _mark_failed(span, "incomplete_answer")
        if self._usages:
            self._record_answer(route)
        span.end()

    def _record_answer(self, route: str) -> None:
        from opentelemetry.trace import set_span_in_context

        operation = "text_completion" if route in _COMPLETIONS else "chat"
        usages = [usage for usage, _ in self._usages]
        usage, ended_ns = self._usages[-1]
        answer = self._tracer.start_span(
            f"{operation} {self._model}",
            context=set_span_in_context(self._span),
            start_time=self._started_ns,
            attributes={
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": "donabe",
                "gen_ai.request.model": self._model,
                "gen_ai.response.model": self._model,
                "gen_ai.usage.input_tokens": sum(each.n_prompt_tokens for each in usages),
                "gen_ai.usage.output_tokens": sum(each.n_output_tokens for each in usages),
                "gen_ai.usage.cache_read.input_tokens": sum(each.n_cached_tokens for each in usages),
            },
        )
        decode_ns = ended_ns - int(usage.output_s * _NS)
        prefill_ns = decode_ns - int(usage.prompt_s * _NS)
        queue_ns = prefill_ns - int(usage.queue_s * _NS)
        phases = (
            ("load", queue_ns - int(self._load_s * _NS), queue_ns),
            ("queue", queue_ns, prefill_ns),
            ("prefill", prefill_ns, decode_ns),
            ("decode", decode_ns, ended_ns),
        )
        parent = set_span_in_context(answer)
        for name, start_ns, end_ns in phases:
            self._tracer.start_span(name, context=parent, start_time=start_ns).end(end_ns)
        answer.end(ended_ns)


def _mark_failed(span: Span, kind: str) -> None:
    from opentelemetry.trace import StatusCode

    span.set_status(StatusCode.ERROR)
    span.set_attribute("error.type", kind)


def tracing_from(environ: Mapping[str, str]) -> Tracing | None:
    """Tracing as the standard variables ask for it; None when they don't, or when the extra is not installed.

    Raises:
        SettingsError: The protocol is none that is known.
    """
    is_off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none"
    if is_off or not any(environ.get(name) for name in ENDPOINTS):
        return None
    protocol = next((environ[name] for name in PROTOCOLS if environ.get(name)), "http/protobuf")
    if protocol not in _EXPORTERS:
        known = " or ".join(_EXPORTERS)
        raise SettingsError(f"{PROTOCOLS[1]} must be {known}, not {protocol!r}", setting=PROTOCOLS[1])
    try:
        exporter: SpanExporter = importlib.import_module(_EXPORTERS[protocol]).OTLPSpanExporter()
        return Tracing(make_provider(exporter, environ))
    except ImportError as error:
        logger.warning("requests are not traced, though an endpoint is set: %s; pip install 'donabe[otel]'", error)
        return None


def make_provider(exporter: SpanExporter, environ: Mapping[str, str]) -> TracerProvider:
    """A provider that sends in the background; sampling and limits come from the standard variables."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    is_named = environ.get("OTEL_SERVICE_NAME") or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    resource = Resource.create({} if is_named else {"service.name": "donabe"})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider
