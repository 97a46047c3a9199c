"""The app measures models it has answered with once nothing is loaded, and lets requests go first."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from tests.fakes.connection import until
from tests.fakes.runner import hello
from tests.fakes.server import FakeServer, make_server
from tests.fakes.settings import FakeSettings

from donabe.runner.tune_process import TuneOutcome
from donabe.service import idle_tuning
from donabe.types import LoadOptions, ModelSpec


class Endless:
    """A measurement that only a request ends."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.has_begun = asyncio.Event()

    async def __call__(self, spec: ModelSpec, options: LoadOptions) -> TuneOutcome:
        self.events.append(f"begun {spec.name}")
        self.has_begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.events.append("ended")
        raise AssertionError("unreachable")


@pytest.fixture
async def serve(tmp_path, monkeypatch):
    monkeypatch.setattr(idle_tuning, "IDLE_S", 0.02)
    monkeypatch.setattr(idle_tuning, "LOOK_EVERY_S", 0.005)
    async with AsyncExitStack() as stack:

        async def begin(auto_tune: str, measure: Endless, keep_alive_s: float = 0.0) -> FakeServer:
            settings = FakeSettings(home=tmp_path, auto_tune=auto_tune, keep_alive_s=keep_alive_s)
            server = make_server(settings=settings, measure=measure)
            await stack.enter_async_context(server.app.router.lifespan_context(server.app))
            return server

        yield begin


async def test_request_ends_the_measurement_of_a_model_used_before(serve):
    measure = Endless()
    server = await serve("idle", measure)
    assert (await server.post("/api/generate", {"model": "C", "prompt": "x", "stream": False})).status_code == 200
    await asyncio.wait_for(measure.has_begun.wait(), 5)
    assert measure.events == ["begun C:latest"]
    assert (await server.post("/api/embed", {"model": "E", "input": "x"})).status_code == 200
    assert measure.events == ["begun C:latest", "ended"]


@pytest.mark.parametrize(("auto_tune", "keep_alive_s"), [("cached", 0.0), ("off", 0.0), ("on", 0.0), ("idle", 300.0)])
async def test_nothing_is_measured_unless_the_setting_says_so_and_no_model_is_loaded(serve, auto_tune, keep_alive_s):
    measure = Endless()
    server = await serve(auto_tune, measure, keep_alive_s)
    await server.post("/api/generate", {"model": "C", "prompt": "x", "stream": False})
    await asyncio.sleep(0.1)
    assert measure.events == []
    assert server.runners.loads[0][1].auto_tune == auto_tune


async def test_nothing_is_measured_beside_a_model_that_is_still_on_its_way_out(serve):
    measure = Endless()
    server = await serve("idle", measure)
    may_end = asyncio.Event()

    def hold(_request):
        server.runners.last.close = may_end.wait
        return hello(_request)

    server.runners.script = hold
    assert (await server.post("/api/generate", {"model": "C", "prompt": "x", "stream": False})).status_code == 200
    await asyncio.sleep(0.1)
    events = list(measure.events)
    may_end.set()
    assert events == []
    await asyncio.wait_for(measure.has_begun.wait(), 5)


async def test_nothing_is_measured_beside_a_load_whose_caller_left(serve):
    measure = Endless()
    server = await serve("idle", measure)
    body = {"model": "C", "prompt": "x", "stream": False}
    assert (await server.post("/api/generate", body)).status_code == 200
    server.runners.gate = asyncio.Event()
    caller = asyncio.create_task(server.post("/api/generate", body))
    await until(lambda: len(server.runners.loads) == 2)
    caller.cancel()
    await asyncio.sleep(0.1)
    events = list(measure.events)
    server.runners.gate.set()
    assert events == []
    await asyncio.wait_for(measure.has_begun.wait(), 5)


async def test_end_of_the_server_ends_the_measurement(tmp_path, monkeypatch):
    monkeypatch.setattr(idle_tuning, "IDLE_S", 0.02)
    monkeypatch.setattr(idle_tuning, "LOOK_EVERY_S", 0.005)
    measure = Endless()
    server = make_server(settings=FakeSettings(home=tmp_path, auto_tune="idle", keep_alive_s=0.0), measure=measure)
    async with server.app.router.lifespan_context(server.app):
        await server.post("/api/generate", {"model": "C", "prompt": "x", "stream": False})
        await asyncio.wait_for(measure.has_begun.wait(), 5)
    assert measure.events == ["begun C:latest", "ended"]
