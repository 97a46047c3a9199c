"""The metrics page: counts of requests, tokens and times, and the runners' own counters."""

from __future__ import annotations

import re

from tests.fakes.server import make_server

from donabe.errors import RunnerError
from donabe.server.prometheus import Counter, Histogram, exposition


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
    assert found['donabe_inter_token_seconds_count{model="C:latest"}'] >= 2
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
