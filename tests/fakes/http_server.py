"""A scripted HTTP server on loopback: plays the native API for tests of the client and the CLI.

Replies are set per (method, path); the last reply of a list repeats. Requests are recorded. Each object of a reply is
sent as one NDJSON line in its own chunk. It runs in a thread of the test and is closed by `close()`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """One scripted answer. `cut` drops the connection after the lines; `hold` waits for the client to leave."""

    lines: list[Any]
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    cut: bool = False
    hold: bool = False


@dataclass
class Recorded:
    method: str
    path: str
    body: Any
    headers: dict[str, str]


@dataclass
class FakeServer:
    """Use `reply(...)` to script, `calls` to look at what came in."""

    replies: dict[tuple[str, str], list[Reply]] = field(default_factory=dict)
    calls: list[Recorded] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)  # set when a client leaves a held stream

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = False
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.reply("HEAD", "/", [])

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._http.server_port}"

    def reply(self, method: str, path: str, lines: Iterable[Any], **options: Any) -> None:
        """Add an answer; several for the same path are used in turn."""
        self.replies.setdefault((method, path), []).append(Reply(list(lines), **options))

    def set_reply(self, method: str, path: str, lines: Iterable[Any], **options: Any) -> None:
        """Replace all answers of a path."""
        self.replies.pop((method, path), None)
        self.reply(method, path, lines, **options)

    def bodies(self, path: str) -> list[Any]:
        return [call.body for call in self.calls if call.path == path]

    def take(self, method: str, path: str) -> Reply:
        with self._lock:
            queue = self.replies.get((method, path))
            if queue is None:
                return Reply([{"error": f"no script for {method} {path}"}], status=599)
            return queue.pop(0) if len(queue) > 1 else queue[0]

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


def _handler(server: FakeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = json.loads(raw) if raw else None
            server.calls.append(Recorded(self.command, self.path, body, dict(self.headers)))
            self.answer(server.take(self.command, self.path))

        do_GET = do_POST = do_DELETE = do_HEAD = handle_any

        def answer(self, reply: Reply) -> None:
            self.send_response(reply.status)
            self.send_header("Content-Type", "application/x-ndjson")
            self.send_header("Connection", "close")
            for name, value in reply.headers:
                self.send_header(name, value)
            if self.command == "HEAD":
                self.end_headers()
                return
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.close_connection = True
            try:
                self.send_lines(reply)
            except OSError:
                server.left.set()

        def send_lines(self, reply: Reply) -> None:
            for line in reply.lines:
                text = line if isinstance(line, str) else json.dumps(line)
                self.send_chunk(text.encode() + b"\n")
            if reply.hold:
                self.connection.settimeout(5)
                if self.connection.recv(1) == b"":
                    server.left.set()
            elif not reply.cut:
                self.send_chunk(b"")

        def send_chunk(self, data: bytes) -> None:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
