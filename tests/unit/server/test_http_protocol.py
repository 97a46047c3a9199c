"""What a connection may send before there is a request: bounded in bytes and in time."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from starlette.responses import Response
from tests.fakes.live import running
from tests.fakes.server import make_server

from donabe.server import http_protocol
from donabe.server.http_protocol import MAX_HEAD_BYTES

HEAD = b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n"
DEADLINE_S = 10.0


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    with running(make_server().app) as url:
        parts = urlsplit(url)
        assert parts.hostname and parts.port
        yield parts.hostname, parts.port


def answer(connection: socket.socket) -> tuple[int, bytes]:
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, response.read()


def send(address: tuple[str, int], *pieces: bytes) -> tuple[int, bytes]:
    with socket.create_connection(address, timeout=DEADLINE_S) as connection:
        for piece in pieces:
            connection.sendall(piece)
        return answer(connection)


def test_large_head_is_taken_up_to_the_bound(address):
    padding = b"Cookie: " + b"c" * (MAX_HEAD_BYTES - 200) + b"\r\n\r\n"
    assert send(address, HEAD + padding)[0] == 200


@pytest.mark.parametrize(
    "pieces",
    [
        (HEAD, b"Cookie: ", *[b"c" * 4096] * 9),  # no end in sight
        (HEAD + b"Cookie: " + b"c" * MAX_HEAD_BYTES + b"\r\n\r\n",),
        (HEAD, *[b"X-%d: y\r\n" % i for i in range(MAX_HEAD_BYTES // 8)]),
        (b"GET /" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",),
    ],
    ids=["endless header", "one long header", "many headers", "long path"],
)
def test_head_over_the_bound_is_refused_and_the_connection_closed(address, pieces):
    with socket.create_connection(address, timeout=DEADLINE_S) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            return  # closed while it was still sending
        status, _ = answer(connection)
        assert status == 400
        with contextlib.suppress(ConnectionResetError):  # closed with bytes of ours unread
            assert connection.recv(1) == b""


def test_bound_counts_for_each_request_of_a_connection(address):
    head = HEAD + b"Cookie: " + b"c" * (MAX_HEAD_BYTES // 2) + b"\r\n\r\n"
    with socket.create_connection(address, timeout=DEADLINE_S) as connection:
        for _ in range(4):
            connection.sendall(head)
            assert answer(connection)[0] == 200


def test_body_is_not_counted_as_head(address):
    body = b'{"model": "C", "stream": false, "prompt": "%s"}' % (b"word " * MAX_HEAD_BYTES)
    request = b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert send(address, request, body)[0] == 200


@pytest.mark.parametrize("start", [b"", HEAD, b"GET /api/version HTTP/1.1\r\nHo"], ids=["nothing", "a line", "half"])
def test_head_that_does_not_arrive_in_time_ends_the_connection(monkeypatch, start):
    monkeypatch.setattr(http_protocol, "HEAD_DEADLINE_S", 0.1)
    with running(make_server().app) as url:
        parts = urlsplit(url)
        with socket.create_connection((parts.hostname, parts.port), timeout=DEADLINE_S) as connection:
            connection.sendall(start)
            assert connection.recv(1) == b""


def test_answer_that_outlives_the_deadline_is_not_cut(monkeypatch):
    """Neither by its own head's timer nor by that of a pipelined request that has only begun."""
    monkeypatch.setattr(http_protocol, "HEAD_DEADLINE_S", 0.05)

    async def slow(_request):
        await asyncio.sleep(0.4)
        return Response(b"done")

    app = make_server().app
    app.add_route("/slow", slow)
    with running(app) as url:
        parts = urlsplit(url)
        with socket.create_connection((parts.hostname, parts.port), timeout=DEADLINE_S) as connection:
            connection.sendall(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n" + HEAD)
            assert answer(connection) == (200, b"done")
