"""What signals do to a server process: answers may end, late ones are ended in-band, the second signal ends at once."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import psutil
import pytest
from tests.fakes.server_process import started

CHAT = {"model": "C", "messages": [{"role": "user", "content": "hi"}], "stream": True}
REASON = "the server is shutting down"
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stream:
    """One streamed answer whose lines are gathered while it comes."""

    def __init__(self, client: httpx.AsyncClient, path: str, body: dict) -> None:
        self.lines: list[str] = []
        self.begun = asyncio.Event()
        self.task = asyncio.create_task(self._read(client, path, body))

    async def _read(self, client: httpx.AsyncClient, path: str, body: dict) -> None:
        async with client.stream("POST", path, json=body) as response:
            assert response.status_code == 200
            async for line in response.aiter_lines():
                if line:
                    self.lines.append(line)
                    self.begun.set()

    async def whole(self) -> list[str]:
        await asyncio.wait_for(self.task, 30)
        return self.lines

    @classmethod
    async def running(cls, client: httpx.AsyncClient, path: str, body: dict) -> Stream:
        stream = cls(client, path, body)
        await asyncio.wait_for(stream.begun.wait(), 30)
        return stream


async def is_refused(url: str) -> None:
    """Wait until the server takes no new connections."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            async with httpx.AsyncClient() as client:
                await client.get(url)
        except httpx.TransportError:
            return
        await asyncio.sleep(0.02)
    pytest.fail("the server still accepts connections")


def assert_gone(processes: list[psutil.Process]) -> None:
    assert processes
    _, left = psutil.wait_procs(processes, timeout=30)
    assert left == []


@pytest.mark.parametrize("number", STOP_SIGNALS)
async def test_running_answers_may_end(tmp_path: Path, number: signal.Signals) -> None:
    gate = tmp_path / "gate"
    async with AsyncExitStack() as stack:
        limits = {"DONABE_SHUTDOWN_TIMEOUT": "60s", "DONABE_TEST_GATE": str(gate)}
        server = await stack.enter_async_context(started(tmp_path, "until_gate", **limits))
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=server.url, timeout=30))
        stream = await Stream.running(client, "/api/generate", {"model": "C", "prompt": "one two", "raw": True})
        server.send_signal(number)
        await is_refused(server.url)
        assert not stream.task.done()
        gate.touch()
        events = [json.loads(line) for line in await stream.whole()]
        await server.ended()
    assert events[-1]["done"] is True
    assert "error" not in "".join(stream.lines)
    assert "".join(event["response"] for event in events) == "onetwo"


async def test_late_answers_are_ended_in_the_words_of_their_dialect(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(started(tmp_path, "endless", DONABE_SHUTDOWN_TIMEOUT="100ms"))
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=server.url, timeout=30))
        native = await Stream.running(client, "/api/chat", CHAT)
        openai = await Stream.running(client, "/v1/chat/completions", CHAT)
        anthropic = await Stream.running(client, "/v1/messages", {**CHAT, "max_tokens": 9})
        responses = await Stream.running(client, "/v1/responses", {"model": "C", "input": "hi", "stream": True})
        unsent = asyncio.create_task(client.post("/api/chat", json={**CHAT, "stream": False}))
        while 'donabe_model_requests{model="C:latest"} 5' not in (await client.get("/metrics")).text:
            pass
        children = psutil.Process(server.process.pid).children()
        server.send_signal(signal.SIGTERM)
        whole = await asyncio.wait_for(unsent, 30)
        assert json.loads((await native.whole())[-1])["error"] == REASON
        *_, error, done = await openai.whole()
        assert json.loads(error.removeprefix("data: "))["error"]["message"] == REASON
        assert done == "data: [DONE]"
        event, data = (await anthropic.whole())[-2:]
        assert event == "event: error"
        assert json.loads(data.removeprefix("data: "))["error"]["message"] == REASON
        failed = json.loads((await responses.whole())[-1].removeprefix("data: "))
        assert failed["type"] in ("error", "response.failed")
        assert REASON in json.dumps(failed)
        assert whole.status_code == 503
        assert int(whole.headers["retry-after"]) > 0
        await server.ended()
    assert any("ended 5 answers" in line for line in server.log)
    assert_gone(children)


@pytest.mark.parametrize("second", STOP_SIGNALS)
async def test_second_signal_ends_at_once(tmp_path: Path, second: signal.Signals) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(started(tmp_path, "endless", DONABE_SHUTDOWN_TIMEOUT="-1"))
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=server.url, timeout=30))
        stream = await Stream.running(client, "/api/chat", CHAT)
        children = psutil.Process(server.process.pid).children()
        server.send_signal(signal.SIGTERM)
        await is_refused(server.url)
        assert not stream.task.done()
        server.send_signal(second)
        assert await server.ended() == -second
        with pytest.raises(httpx.TransportError):
            await stream.whole()
    assert_gone(children)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_spare_runner_is_no_model_and_ends_with_the_server(tmp_path: Path, number: signal.Signals) -> None:
    async with started(tmp_path) as server, httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        process = psutil.Process(server.process.pid)
        while not (spares := process.children()):
            await client.get("/api/version")
        assert (await client.get("/api/ps")).json() == {"models": []}
        await client.post("/api/generate", json={"model": "C"})
        assert [child.pid for child in process.children()] == [spares[0].pid]  # it became the model's own
        server.send_signal(number)
        await server.ended()
    assert_gone(spares)


async def test_without_a_spare_runner(tmp_path: Path) -> None:
    async with (
        started(tmp_path, DONABE_SPARE_RUNNER="off") as server,
        httpx.AsyncClient(base_url=server.url, timeout=30) as client,
    ):
        assert (await client.post("/api/generate", json={"model": "C"})).json()["done"] is True
        assert len(psutil.Process(server.process.pid).children()) == 1
