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
from donabe.types import Delta, Finished, RunnerStatus, Usage

_LATENCY_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_GAP_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)

# name of the runner's counter -> (metric, help)
_RUNNER_COUNTERS = {
    "n_steps": ("donabe_engine_steps_total", "Steps of the engine"),
    "n_graphs_reused": ("donabe_engine_graphs_reused_total", "Steps that could reuse the graph of the one before"),
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
        self.errors = Counter(
            "donabe_errors_total", "Requests that failed, before or within their answer", ("route", "kind")
        )
        self.request_seconds = Histogram(
            "donabe_request_seconds", "Time of whole requests", ("route",), _LATENCY_BOUNDS
        )
        self.first_token_seconds = Histogram(
            "donabe_time_to_first_token_seconds",
            "Time to the first output of answers that did not fail before",
            ("model",),
            _LATENCY_BOUNDS,
        )
        self.gap_seconds = Histogram(
            "donabe_inter_token_seconds",
            "Time from a completion's token to its next; tokens that came together share theirs",
            ("model",),
            _GAP_BOUNDS,
        )
        self.queue_seconds = Histogram(
            "donabe_queue_seconds", "Time requests waited in the runner", ("model",), _LATENCY_BOUNDS
        )
        self.prompt_tokens = Counter(
            "donabe_prompt_tokens_total", "Prompt tokens, evaluated or taken from the prefix cache", ("model", "source")
        )
        self.prefix_requests = Counter(
            "donabe_prefix_requests_total",
            "Completions by whether the prompt began with cached tokens",
            ("model", "result"),
        )
        self.output_tokens = Counter(
            "donabe_output_tokens_total", "Generated tokens, also of answers that did not end", ("model",)
        )
        self.truncated_tokens = Counter(
            "donabe_truncated_tokens_total", "Prompt tokens cut off as too long", ("model",)
        )
        self._loads = Counter("donabe_model_loads_total", "Models loaded")
        self._load_failures = Counter("donabe_model_load_failures_total", "Loads that failed")
        self._evictions = Counter("donabe_model_evictions_total", "Idle models unloaded to make room")
        self._pool_waiting = Gauge("donabe_load_waiting_requests", "Requests waiting for their model to be loaded")
        self._memory = Gauge("donabe_model_memory_bytes", "Memory of loaded models", ("model", "kind"))
        self._leases = Gauge("donabe_model_requests", "Requests that hold a model", ("model",))
        self._counters = {key: Counter(name, help, ("model",)) for key, (name, help) in _RUNNER_COUNTERS.items()}
        self._gauges = {key: Gauge(name, help, ("model",)) for key, (name, help) in _RUNNER_GAUGES.items()}

    def answer_finished(self, model: str, usage: Usage) -> None:
        """Count what is known of a completion when it is done."""
        self.prompt_tokens.add(usage.n_prompt_tokens - usage.n_cached_tokens, model, "evaluated")
        self.prompt_tokens.add(usage.n_cached_tokens, model, "cached")
        self.prefix_requests.add(1, model, "hit" if usage.n_cached_tokens else "miss")
        self.queue_seconds.observe(usage.queue_s, model)
        if usage.n_truncated_tokens:
            self.truncated_tokens.add(usage.n_truncated_tokens, model)

    async def page(self, request: Request) -> Response:
        """`GET /metrics`."""
        residents = self._pool.residents()
        statuses = await asyncio.gather(*(resident.status() for resident in residents))
        self._loads.set(self._pool.n_loads)
        self._load_failures.set(self._pool.n_load_failures)
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

    Tokens are counted and charged as they come, so that an answer which fails, or whose caller leaves, counts as far as
    it was known; what the events did not show (a stop token, completions that `best_of` dropped) comes with the usage.

    Args:
        charge: Takes the answer's output tokens as they come, for the caller's limit; None without one.
        trace: Is told of the answer's beginning and end.
    """

    __slots__ = (
        "_charge",
        "_gap_seconds",
        "_has_output",
        "_last",
        "_load_s",
        "_metrics",
        "_model",
        "_n_output",
        "_started",
        "_trace",
    )

    def __init__(
        self, metrics: ServerMetrics, charge: Callable[[int], None] | None = None, trace: RequestTrace | None = None
    ) -> None:
        self._metrics = metrics
        self._charge = charge
        self._trace = trace
        self._gap_seconds = metrics.gap_seconds
        self._model = ""
        self._load_s = 0.0
        self._has_output = False
        self._last: dict[int, float] = {}  # time of a completion's last token
        self._n_output: dict[int, int] = {}
        self._started = time.monotonic()

    def began(self, model: str, load_s: float) -> None:
        self._model, self._load_s = model, load_s

    def delta(self, event: Delta) -> None:
        now = time.monotonic()
        if not self._has_output:
            self._first(now)
        n_tokens, index = len(event.tokens), event.index
        if n_tokens == 0:
            return
        last = self._last.get(index)
        if last is not None:  # the time since then was that of all tokens of this event
            self._gap_seconds.observe((now - last) / n_tokens, self._model, n=n_tokens)
        self._last[index] = now
        self._count(index, n_tokens)

    def finished(self, event: Finished) -> None:
        if not self._has_output:
            self._first(time.monotonic())
        usage = event.usage
        self._metrics.answer_finished(self._model, usage)
        self._count(event.index, max(0, usage.n_output_tokens - self._n_output.get(event.index, 0)))
        if self._trace is not None:
            self._trace.finished(usage)

    def ended(self) -> None:
        n_tokens = sum(self._n_output.values())
        if n_tokens:
            self._metrics.output_tokens.add(n_tokens, self._model)

    def _first(self, now: float) -> None:
        """It is no error, then."""
        self._has_output = True
        if self._trace is not None:
            self._trace.began(self._model, self._load_s)
        self._metrics.first_token_seconds.observe(now - self._started, self._model)

    def _count(self, index: int, n_tokens: int) -> None:
        self._n_output[index] = self._n_output.get(index, 0) + n_tokens
        if self._charge is not None:
            self._charge(n_tokens)
