"""The metrics page: counts of requests, tokens and times, and the runners' own counters."""

from __future__ import annotations

import re

import pytest
from tests.fakes.connection import Connection, until
from tests.fakes.server import make_server

from donabe.errors import LoadError, RunnerError
from donabe.server.metrics import AnswerObserver
from donabe.server.prometheus import Counter, Histogram, exposition
from donabe.types import Delta, Failed, Finished, FinishReason, Usage

MODEL = '{model="C:latest"}'
ANSWERS = (
    ("/api/generate", {"prompt": "hi"}),
    ("/api/chat", {"messages": [{"role": "user", "content": "hi"}]}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
    ("/v1/completions", {"prompt": "hi"}),
    ("/v1/responses", {"input": "hi"}),
    ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}),
)
DIED = Failed(kind="RunnerDiedError", message="gone")


async def page(server) -> dict[str, float]:
    response = await server.client.get("/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = [line for line in response.text.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r'[a-z_]+(\{([a-z_]+="[^"]*",?)+\})? \S+', line) for line in lines)
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines}


async def test_answers_are_counted():
    server = make_server()
    for stream in (True, False):
        await server.post("/api/generate", {"model": "C", "prompt": "hi", "stream": stream})
    await server.post("/api/generate", {"model": "nope", "prompt": "hi"})
    await server.client.get("/nothing")
    found = await page(server)
    assert found['donabe_requests_total{route="/api/generate",method="POST",status="200"}'] == 2
    assert found['donabe_requests_total{route="/api/generate",method="POST",status="404"}'] == 1
    assert found['donabe_requests_total{route="other",method="GET",status="404"}'] == 1
    assert found['donabe_output_tokens_total{model="C:latest"}'] == 6
    assert found['donabe_prompt_tokens_total{model="C:latest",source="evaluated"}'] == 22
    assert found['donabe_time_to_first_token_seconds_count{model="C:latest"}'] == 2
    assert found['donabe_inter_token_seconds_count{model="C:latest"}'] == 2  # of two tokens each, the second's
    assert found["donabe_model_loads_total"] == 1
    assert found['donabe_kv_cells{model="C:latest"}'] == 4096
    assert found['donabe_running_requests{model="C:latest"}'] == 0
    assert found['donabe_engine_python_seconds_total{model="C:latest"}'] == 0.25
    assert found['donabe_prefix_forks_total{model="C:latest"}'] == 3
    assert found['donabe_draft_tokens_total{model="C:latest"}'] == 12
    assert found['donabe_draft_accepted_total{model="C:latest"}'] == 9
    assert found['donabe_model_memory_bytes{model="C:latest",kind="all"}'] == 896


async def test_unloaded_models_leave_the_gauges():
    server = make_server()
    await server.post("/api/generate", {"model": "C"})
    await page(server)
    await server.post("/api/generate", {"model": "C", "keep_alive": 0})
    assert not [name for name in await page(server) if "kv_cells" in name]


async def test_a_runner_that_does_not_answer_does_not_hold_the_page(monkeypatch):
    server = make_server()
    await server.post("/api/generate", {"model": "C"})

    async def fail():
        raise RunnerError("busy")

    monkeypatch.setattr(server.runners.last, "status", fail)
    found = await page(server)
    assert 'donabe_kv_cells{model="C:latest"}' not in found
    assert found['donabe_model_requests{model="C:latest"}'] == 0


def test_exposition_escapes_and_accumulates():
    counter = Counter("a_total", "A.", ("x",))
    counter.add(1, 'q"\\\n')
    histogram = Histogram("h", "H.", (), (1, 2))
    for value in (0.5, 1, 1.5, 9):
        histogram.observe(value)
    assert exposition([counter, histogram]).decode() == (
        '# HELP a_total A.\n# TYPE a_total counter\na_total{x="q\\"\\\\\\n"} 1\n'
        "# HELP h H.\n# TYPE h histogram\n"
        'h_bucket{le="1"} 2\nh_bucket{le="2"} 3\nh_bucket{le="+Inf"} 4\nh_sum 12.0\nh_count 4\n'
    )


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("path", "body"), ANSWERS)
async def test_failure_within_an_answer_is_an_error_of_its_route(path, body, stream):
    server = make_server(script=lambda _: [Delta(text="x", tokens=(1,)), DIED])
    response = await server.post(path, {"model": "C", "stream": stream, **body})
    assert response.status_code == (200 if stream else 500)
    found = await page(server)
    assert found[f'donabe_errors_total{{route="{path}",kind="RunnerDiedError"}}'] == 1
    assert found["donabe_output_tokens_total" + MODEL] == 1


async def test_errors_are_counted_once_by_route_and_kind():
    server = make_server()
    server.pull.error = RunnerError("half way")
    await server.post("/api/pull", {"model": "tiny"})
    await server.post("/api/generate", {"model": "nope"})
    await server.post("/api/generate", b"{")
    await server.client.get("/nothing")
    await server.post("/api/generate", {"model": "C", "prompt": "hi"})
    found = {name: n for name, n in (await page(server)).items() if name.startswith("donabe_errors_total")}
    assert found == {
        'donabe_errors_total{route="/api/pull",kind="RunnerError"}': 1,
        'donabe_errors_total{route="/api/generate",kind="ModelNotFoundError"}': 1,
        'donabe_errors_total{route="/api/generate",kind="InvalidRequestError"}': 1,
        'donabe_errors_total{route="other",kind="Http404"}': 1,
    }


async def test_failed_loads_are_counted():
    server = make_server()
    server.runners.error = LoadError("no")
    await server.post("/api/generate", {"model": "C", "prompt": "hi"})
    found = await page(server)
    assert found["donabe_model_load_failures_total"] == 1
    assert found["donabe_model_loads_total"] == 0


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_that_fails_at_once_has_no_time_to_first_token(stream):
    server = make_server(script=lambda _: [DIED])
    await server.post("/api/generate", {"model": "C", "prompt": "hi", "stream": stream})
    assert not [name for name in await page(server) if name.startswith("donabe_time_to_first")]


@pytest.mark.parametrize("stream", [True, False])
async def test_an_empty_answer_has_a_time_but_no_gap(stream):
    server = make_server(script=lambda _: [Finished(reason=FinishReason.STOP, usage=Usage(n_prompt_tokens=1))])
    await server.post("/api/generate", {"model": "C", "prompt": "hi", "stream": stream})
    found = await page(server)
    assert found["donabe_time_to_first_token_seconds_count" + MODEL] == 1
    assert not [name for name in found if name.startswith("donabe_inter_token")]


async def test_prefix_hits_and_misses_are_counted():
    n_cached = iter((0, 7, 7))

    def script(_request):
        return [Finished(reason=FinishReason.STOP, usage=Usage(n_prompt_tokens=9, n_cached_tokens=next(n_cached)))]

    server = make_server(script=script)
    for _ in range(3):
        await server.post("/api/generate", {"model": "C", "prompt": "hi"})
    found = await page(server)
    assert found['donabe_prefix_requests_total{model="C:latest",result="hit"}'] == 2
    assert found['donabe_prefix_requests_total{model="C:latest",result="miss"}'] == 1
    assert found['donabe_prompt_tokens_total{model="C:latest",source="cached"}'] == 14
    assert found['donabe_prompt_tokens_total{model="C:latest",source="evaluated"}'] == 13


async def test_tokens_of_an_answer_that_nobody_waits_for_are_counted():
    def endless(_request):
        while True:
            yield Delta(text="x", tokens=(1,))
            yield 0.001

    server = make_server(script=endless)
    connection = Connection(server.app, "/api/generate", b'{"model":"C","prompt":"hi"}')
    await until(lambda: len(connection.chunks) >= 3)
    connection.leave()
    await connection.done
    found = await page(server)
    assert found["donabe_output_tokens_total" + MODEL] >= 3
    assert not [name for name in found if name.startswith("donabe_errors_total")]  # leaving is no error


class Measured:
    """Observes an answer whose events come when the test says."""

    def __init__(self, monkeypatch) -> None:
        self.now = 0.0
        self.charged: list[int] = []
        monkeypatch.setattr("donabe.server.metrics.time.monotonic", lambda: self.now)
        self.metrics = make_server().app.state.metrics
        self.observer = AnswerObserver(self.metrics, self.charged.append)
        self.observer.began("M", 0.0)

    def at(self, now: float, n_tokens: int, index: int = 0) -> None:
        self.now = now
        self.observer.delta(Delta(text="x", tokens=(1,) * n_tokens, index=index))

    def lines(self, histogram) -> dict[str, float]:
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in histogram.lines())}


def test_tokens_that_come_together_share_the_time_since_the_one_before(monkeypatch):
    measured = Measured(monkeypatch)
    measured.at(1.0, 1)
    measured.at(1.08, 4)  # 4 x 0.02
    measured.at(1.09, 0)  # text that was held back: no token
    measured.at(1.11, 1, index=1)  # another completion begins
    measured.at(1.12, 1)  # 0.04 since this completion's last token
    found = measured.lines(measured.metrics.gap_seconds)
    assert found['donabe_inter_token_seconds_count{model="M"}'] == 5
    assert found['donabe_inter_token_seconds_sum{model="M"}'] == pytest.approx(0.12)
    assert found['donabe_inter_token_seconds_bucket{model="M",le="0.03"}'] == 4
    assert (
        measured.lines(measured.metrics.first_token_seconds)['donabe_time_to_first_token_seconds_sum{model="M"}'] == 1
    )


def test_every_token_is_charged_once(monkeypatch):
    measured = Measured(monkeypatch)
    measured.at(1.0, 2)
    measured.at(1.1, 3, index=1)
    for index, n_tokens in ((0, 4), (1, 3)):  # two tokens of the first completion had no event
        usage = Usage(n_output_tokens=n_tokens)
        measured.observer.finished(Finished(reason=FinishReason.STOP, usage=usage, index=index, last=index == 1))
    measured.observer.ended()
    assert sum(measured.charged) == 7
    assert list(measured.metrics.output_tokens.lines()) == ['donabe_output_tokens_total{model="M"} 7']
