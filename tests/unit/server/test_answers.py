"""Disconnects, concurrency and back-pressure: what happens to the work behind a response."""

from __future__ import annotations

import asyncio

import pytest
from tests.fakes.connection import Connection, until
from tests.fakes.runner import USAGE
from tests.fakes.server import make_server
from tests.fakes.settings import FakeSettings

from donabe.types import Delta, Finished, FinishReason

END = Finished(reason=FinishReason.STOP, usage=USAGE)


def endless(_request):
    while True:
        yield Delta(text="x")
        yield 0.001


def stuck(_request):
    yield 1000.0


@pytest.mark.parametrize("stream", ["true", "false"])
@pytest.mark.parametrize("script", [endless, stuck])
async def test_disconnect_stops_the_work_and_frees_the_runner(stream, script):
    server = make_server(script=script)
    body = b'{"model":"C","prompt":"hi","stream":%s}' % stream.encode()
    connection = Connection(server.app, "/api/generate", body)
    await until(lambda: server.runners.runners and server.runners.last.n_open_streams == 1)
    connection.leave()
    await asyncio.wait_for(connection.done, 2)
    assert server.runners.last.n_open_streams == 0
    assert server.runners.last.n_closed_early == 1
    assert server.app.state.pool.residents()[0].n_leases == 0


async def test_disconnect_while_the_model_loads_gives_up_waiting_but_not_the_load():
    server = make_server()
    server.runners.gate = asyncio.Event()
    connection = Connection(server.app, "/api/generate", b'{"model":"C","prompt":"hi"}')
    await until(lambda: server.runners.loads)
    connection.leave()
    await asyncio.wait_for(connection.done, 2)
    server.runners.gate.set()
    await until(server.app.state.pool.residents)
    assert server.runners.last.requests == []


async def test_disconnect_stops_a_pull():
    server = make_server()
    release = asyncio.Event()

    class SlowPull:
        n_stopped = 0

        def __call__(self, name, *, insecure=False, limit_rate=0):
            return self._run()

        async def _run(self):
            from donabe.types import PullProgress

            try:
                yield PullProgress(status="pulling manifest")
                await release.wait()
            finally:
                SlowPull.n_stopped += 1

    pull = SlowPull()
    from tests.fakes.store import read_fake_header

    from donabe.server.app import Collaborators, create_app

    app = create_app(
        FakeSettings(),
        Collaborators(store=server.store, pull=pull, read_metadata=read_fake_header, start_runner=server.runners),
    )
    connection = Connection(app, "/api/pull", b'{"model":"tiny"}')
    await until(lambda: connection.chunks)
    connection.leave()
    await asyncio.wait_for(connection.done, 2)
    assert SlowPull.n_stopped == 1


async def test_many_streams_share_one_runner_and_end_whole():
    def script(_request):
        for i in range(20):
            yield Delta(text=f"{i} ")
            yield 0.0
        yield END

    server = make_server(script=script)
    bodies = [{"model": "C", "prompt": str(i), "stream": i % 2 == 0} for i in range(40)]
    responses = await asyncio.gather(*(server.post("/api/generate", body) for body in bodies))
    assert {response.status_code for response in responses} == {200}
    assert len(server.runners.loads) == 1
    assert server.app.state.pool.residents()[0].n_leases == 0


async def test_full_server_answers_503_with_retry_after():
    server = make_server(settings=FakeSettings(max_queue=0))
    server.runners.gate = asyncio.Event()
    first = asyncio.create_task(server.post("/api/generate", {"model": "C", "prompt": "hi"}))
    await until(lambda: server.runners.loads)
    response = await server.post("/api/generate", {"model": "T", "prompt": "hi"})
    assert response.status_code == 503
    assert response.json() == {"error": "server busy, please try again.  maximum pending requests exceeded"}
    assert int(response.headers["retry-after"]) >= 1
    server.runners.gate.set()
    assert (await first).status_code == 200


async def test_slow_reader_holds_the_answer_back():
    produced = 0

    def counting(_request):
        nonlocal produced
        while True:
            produced += 1
            yield Delta(text="x")

    server = make_server(script=counting)
    connection = Connection(server.app, "/api/generate", b'{"model":"C","prompt":"hi"}')
    connection.reading = asyncio.Event()
    await until(lambda: produced)
    await asyncio.sleep(0.02)
    assert produced == 1
    connection.leave()
    await asyncio.wait_for(connection.done, 2)
