"""A client of the app that can leave in the middle of an answer, which the one of `make_server` can't."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.types import ASGIApp, Message


class Connection:
    """One ASGI request whose client leaves when told to."""

    def __init__(
        self, app: ASGIApp, path: str, body: bytes, *, headers: dict[str, str] | None = None, address: str = "127.0.0.1"
    ) -> None:
        self.chunks: list[bytes] = []
        self.status = 0
        self.reading: asyncio.Event | None = None  # set it to hold the reader back
        self._left = asyncio.Event()
        self._body: bytes | None = body
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "headers": [
                (name.encode(), value.encode()) for name, value in {"host": "localhost", **(headers or {})}.items()
            ],
            "client": (address, 1),
            "server": ("127.0.0.1", 11434),
        }
        self.done = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self.reading is not None:
            await self.reading.wait()
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["body"]:
            self.chunks.append(message["body"])

    def leave(self) -> None:
        self._left.set()


async def until(condition: Callable[[], object], timeout_s: float = 2.0) -> None:
    async def poll() -> None:
        while not condition():  # noqa: ASYNC110  # conditions on fakes have no event
            await asyncio.sleep(0.001)

    await asyncio.wait_for(poll(), timeout_s)
