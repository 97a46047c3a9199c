"""Listening: a taken port names its holder; a server answers, drains and stops."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import httpx
import pytest
from tests.fakes.live import running
from tests.fakes.server import make_server

from donabe.errors import SettingsError
from donabe.server.listening import open_socket
from donabe.server.wiring import real_collaborators
from donabe.service.response_store import ResponseStore
from donabe.settings import load_settings


def test_taken_port_names_its_holder():
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(SettingsError, match="port is taken by") as caught:
            open_socket("127.0.0.1", port)
    assert f"pid {os.getpid()}" in str(caught.value)
    assert "--port" in caught.value.hint


def test_foreign_address_is_explained():
    with pytest.raises(SettingsError, match="no such address"):
        open_socket("203.0.113.1", 0)


async def test_small_writes_do_not_wait_for_acknowledgements():
    """TCP_NODELAY is set on accepted connections; asyncio does so only where the listener says that it is TCP."""
    found = asyncio.get_running_loop().create_future()

    async def accepted(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        found.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    listener = open_socket("127.0.0.1", 0)
    async with await asyncio.start_server(accepted, sock=listener):
        _reader, writer = await asyncio.open_connection(*listener.getsockname())
        assert await asyncio.wait_for(found, 10) != 0
        writer.close()
        await writer.wait_closed()


def test_server_answers_and_stops():
    fake = make_server()
    with running(fake.app) as url:
        assert httpx.get(url).text == "Ollama is running"
        httpx.post(f"{url}/api/generate", json={"model": "C"})
    assert fake.runners.last.n_closes == 1


@pytest.mark.parametrize("is_wanted", [True, False])
def test_setting_decides_about_the_spare_runner(tmp_path: Path, is_wanted: bool):
    settings = load_settings({"spare_runner": is_wanted}, environ={"DONABE_HOME": str(tmp_path)})
    assert (real_collaborators(settings).spare is not None) is is_wanted


async def test_the_rest_is_closed_when_the_pool_fails_to(monkeypatch):
    app, closed = make_server().app, []
    monkeypatch.setattr(ResponseStore, "close", lambda _self: closed.append("responses"))

    async def fail(**_options):
        raise OSError("no")

    monkeypatch.setattr(app.state.pool, "close", fail)
    with pytest.raises(OSError, match="no"):
        async with app.router.lifespan_context(app):
            pass
    assert closed == ["responses"]
