"""What the server measures, and the page that shows it. Request counters are kept here; the engine's own counters are
asked of every runner when the page is read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from donabe.pool.pool import ModelPool
from donabe.pool.resident import ResidentInfo
from donabe.server.prometheus import CONTENT_TYPE, Counter, Gauge, Histogram, exposition
from donabe.server.tracing import RequestTrace
from donabe.types import RunnerStatus, Usage

_LATENCY_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_GAP_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)

# name of the runner's counter -> (metric, help)
_RUNNER_COUNTERS = {
    "n_steps": ("donabe_engine_steps_total", "Steps of the engine"),
    "n_draft_tokens": ("donabe_draft_tokens_total", "Tokens proposed by speculation"),
    "n_draft_accepted": ("donabe_draft_accepted_total", "Proposed tokens that were accepted"),
    "n_preemptions": ("donabe_preemptions_total", "Sequences set aside for lack of room"),
    "n_forks": ("donabe_prefix_forks_total", "Requests that began with the cached prefix of another"),
    "step_s": ("donabe_engine_step_seconds_total", "Time inside engine steps"),
    "python_s": ("donabe_engine_python_seconds_total", "Of the time inside engine steps, what native code did not use"),
}
_RUNNER_GAUGES = {
    "n_waiting": ("donabe_waiting_requests", "Requests waiting in the runner"),
    "n_running": ("donabe_running_requests", "Requests the runner works on"),
    "n_cells": ("donabe_kv_cells", "Cells of the KV pool"),
    "n_cells_used": ("donabe_kv_cells_used", "Cells in use, by requests and cached prefixes"),
    "n_cells_cached": ("donabe_kv_cells_cached", "Cells held by cached prefixes only"),
    "cache_ram_bytes": ("donabe_cache_ram_bytes", "Prefixes kept in memory beside the KV pool"),
    "cache_disk_bytes": ("donabe_cache_disk_bytes", "Prefixes kept on disk"),
}


class ServerMetrics:
    """The metrics of one server."""

    def __init__(self, pool: ModelPool) -> None:
        self._pool = pool
        self.requests = Counter("donabe_requests_total", "Requests by route and status", ("route", "method", "status"))
        self.request_seconds = Histogram(
            "donabe_request_seconds", "Time of whole requests", ("route",), _LATENCY_BOUNDS
        )
        self.first_token_seconds = Histogram(
            "donabe_time_to_first_token_seconds", "Time to the first event of an answer", ("model",), _LATENCY_BOUNDS
        )
        self.gap_seconds = Histogram(
            "donabe_inter_token_seconds", "Time between two events of an answer", ("model",), _GAP_BOUNDS
        )
        self.queue_seconds = Histogram(
            "donabe_queue_seconds", "Time requests waited in the runner", ("model",), _LATENCY_BOUNDS
        )
        self.prompt_tokens = Counter(
            "donabe_prompt_tokens_total", "Prompt tokens, evaluated or taken from the prefix cache", ("model", "source")
        )
        self.output_tokens = Counter("donabe_output_tokens_total", "Generated tokens", ("model",))
        self.truncated_tokens = Counter(
            "donabe_truncated_tokens_total", "Prompt tokens cut off as too long", ("model",)
        )
        self._loads = Counter("donabe_model_loads_total", "Models loaded")
        self._evictions = Counter("donabe_model_evictions_total", "Idle models unloaded to make room")
        self._pool_waiting = Gauge("donabe_load_waiting_requests", "Requests waiting for their model to be loaded")
        self._memory = Gauge("donabe_model_memory_bytes", "Memory of loaded models", ("model", "kind"))
        self._leases = Gauge("donabe_model_requests", "Requests that hold a model", ("model",))
        self._counters = {key: Counter(name, help, ("model",)) for key, (name, help) in _RUNNER_COUNTERS.items()}
        self._gauges = {key: Gauge(name, help, ("model",)) for key, (name, help) in _RUNNER_GAUGES.items()}

    def answer_finished(self, model: str, usage: Usage) -> None:
        """Count a finished answer's tokens."""
        self.prompt_tokens.add(usage.n_prompt_tokens - usage.n_cached_tokens, model, "evaluated")
        self.prompt_tokens.add(usage.n_cached_tokens, model, "cached")
        self.output_tokens.add(usage.n_output_tokens, model)
        self.queue_seconds.observe(usage.queue_s, model)
        if usage.n_truncated_tokens:
            self.truncated_tokens.add(usage.n_truncated_tokens, model)

    async def page(self, request: Request) -> Response:
        """`GET /metrics`."""
        residents = self._pool.residents()
        statuses = await asyncio.gather(*(resident.status() for resident in residents))
        self._loads.set(self._pool.n_loads)
        self._evictions.set(self._pool.n_evictions)
        self._pool_waiting.set(self._pool.n_waiting)
        for metric in (self._memory, self._leases, *self._counters.values(), *self._gauges.values()):
            metric.clear()
        for resident, status in zip(residents, statuses, strict=True):
            self._read_runner(resident, status)
        response = Response(exposition(self._all()))
        response.headers["content-type"] = CONTENT_TYPE
        return response

    def _read_runner(self, resident: ResidentInfo, status: RunnerStatus | None) -> None:
        name = resident.spec.name + (" (embedding)" if resident.options.embedding else "")
        self._leases.set(resident.n_leases, name)
        if resident.info is not None:
            self._memory.set(resident.info.size_bytes, name, "all")
            self._memory.set(resident.info.size_vram_bytes, name, "vram")
        if status is not None:
            for key, metric in (*self._counters.items(), *self._gauges.items()):
                metric.set(float(getattr(status, key)), name)

    def _all(self) -> list[Counter | Histogram]:
        found: list[Counter | Histogram] = [
            value for value in vars(self).values() if isinstance(value, (Counter, Histogram))
        ]
        return [*found, *self._counters.values(), *self._gauges.values()]


class AnswerObserver:
    """Measures one answer. Called once for every event, so it does little.

    Args:
        charge: Takes the answer's output tokens, for the caller's limit.
        trace: Is told of the answer's beginning and end.
    """

    __slots__ = ("_charge", "_gap_seconds", "_last", "_metrics", "_model", "_started", "_trace")

    def __init__(
        self, metrics: ServerMetrics, charge: Callable[[int], None], trace: RequestTrace | None = None
    ) -> None:
        self._metrics = metrics
        self._charge = charge
        self._trace = trace
        self._gap_seconds = metrics.gap_seconds
        self._model = ""
        self._last = 0.0
        self._started = time.monotonic()

    def first(self, model: str, load_s: float) -> None:
        if self._trace is not None:
            self._trace.began(model, load_s)
        self._model = model
        self._last = time.monotonic()
        self._metrics.first_token_seconds.observe(self._last - self._started, model)

    def event(self) -> None:
        now = time.monotonic()
        self._gap_seconds.observe(now - self._last, self._model)
        self._last = now

    def finished(self, usage: Usage) -> None:
        self._metrics.answer_finished(self._model, usage)
        self._charge(usage.n_output_tokens)
        if self._trace is not None:
            self._trace.finished(usage)
