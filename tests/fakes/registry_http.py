"""A small HTTP server for tests of downloads: serves files with ranges, and misbehaves on request."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Request:
    """What a client sent."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]  # names in lower case
    body: bytes = b""


@dataclass
class Reply:
    """What to answer. With `length` set, it is announced in place of the body's true length."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None


Route = Callable[[Request], Reply]


@dataclass
class FakeServer:
    """Knobs of a running server; change them any time."""

    host: str = ""
    scheme: str = "http"
    files: dict[str, bytes] = field(default_factory=dict)
    routes: dict[str, Route] = field(default_factory=dict)  # by path prefix, longest first
    pages: dict[str, bytes] = field(default_factory=dict)  # HTML
    requests: list[Request] = field(default_factory=list)
    supports_ranges: bool = True
    cut_after: list[int] = field(default_factory=list)  # end the next bodies after this many bytes
    fail_with: list[int] = field(default_factory=list)  # answer the next file requests with these statuses
    chunk_delay_s: float = 0.0
    stall_next: int = 0  # this many file bodies stop after half, connection open
    sent_bytes: int = 0
    released: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    def seen(self, method: str, prefix: str = "/") -> list[Request]:
        return [request for request in self.requests if request.method == method and request.path.startswith(prefix)]

    @staticmethod
    def is_payload(path: str) -> bool:
        """Whether the knobs apply: large files, not pages and manifests."""
        return path.endswith(".whl") or "/blobs/" in path

    def answer(self, request: Request) -> Reply:
        """The reply to a request, before body knobs."""
        for prefix in sorted(self.routes, key=len, reverse=True):
            if request.path.startswith(prefix):
                return self.routes[prefix](request)
        if request.path in self.pages:
            return Reply(200, self.pages[request.path], {"Content-Type": "text/html"})
        if request.path not in self.files:
            return Reply(404, b"not found")
        if self.fail_with and self.is_payload(request.path):
            return Reply(self.fail_with.pop(0), b"asked to fail")
        return ranged(request, self.files[request.path], self.supports_ranges)


def ranged(request: Request, data: bytes, supports_ranges: bool = True) -> Reply:
    """A file, or the part of it that the request asks for."""
    wanted = request.headers.get("range", "")
    if not wanted or not supports_ranges:
        return Reply(200, data, {"Accept-Ranges": "bytes"} if supports_ranges else {})
    first, last = wanted.removeprefix("bytes=").split("-")
    start, end = int(first), min(int(last) + 1 if last else len(data), len(data))
    return Reply(206, data[start:end], {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"})


def _handler(server: FakeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, parts.path, parse_qs(parts.query), headers, body)
            server.requests.append(request)
            reply = server.answer(request)
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body) if reply.length is None else reply.length))
            self.end_headers()
            if self.command != "HEAD":
                self._send(reply.body, is_file=server.is_payload(request.path))

        def _send(self, body: bytes, *, is_file: bool) -> None:
            if is_file and len(body) > 64 and server.cut_after:
                body, self.close_connection = body[: server.cut_after.pop(0)], True
            stalls = is_file and len(body) > 64 and server.stall_next > 0
            if stalls:
                server.stall_next -= 1
                body, self.close_connection = body[: len(body) // 2], True
            for start in range(0, len(body), 65_536):
                chunk = body[start : start + 65_536]
                self.wfile.write(chunk)
                server.sent_bytes += len(chunk) if is_file else 0
                if is_file and server.chunk_delay_s:
                    time.sleep(server.chunk_delay_s)
            if stalls:
                self.wfile.flush()
                server.released.wait(10)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

        def log_message(self, *args: Any) -> None:
            pass

    return Handler


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients that went away are part of the tests


@contextmanager
def fake_server(host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> Iterator[FakeServer]:
    """Run a server on a free port."""
    state = FakeServer(scheme="https" if tls else "http")
    httpd = _QuietServer((host, 0), _handler(state))
    if tls:
        httpd.socket = tls.wrap_socket(httpd.socket, server_side=True, do_handshake_on_connect=False)
    state.host = f"{host}:{httpd.server_address[1]}"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.released.set()
        httpd.shutdown()
        httpd.server_close()
        thread.join()
