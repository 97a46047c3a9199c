"""The connection: uvicorn's protocol over httptools, with the bounds that its C parser does not have: on the size of a
request's head, and on the time it may take to arrive.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_HEAD_BYTES = 32 * 1024  # pages on localhost share the cookies of all programs that were ever served there
HEAD_DEADLINE_S = 30.0


class BoundedHttpProtocol(HttpToolsProtocol):
    """Answers 400 to a head over MAX_HEAD_BYTES, and closes a connection whose head is not complete in time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._is_in_head = False
        self._n_head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_arrived()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_in_head:  # so all of it, but for the end of a request before it, is of the head
            self._n_head_bytes += len(data)
            if self._n_head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response(f"The request's head is larger than {MAX_HEAD_BYTES} bytes")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head = True
        if self._head_timer is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._n_head_bytes = 0
        self._head_arrived()
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            raise ValueError("the head came in one piece, and is too large")  # the parser's caller answers 400
        super().on_headers_complete()

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_DEADLINE_S, self._head_is_late)

    def _head_is_late(self) -> None:
        # During an answer it is a part of a pipelined request, which is not read on before the answer has ended.
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete:
            self.transport.close()
        else:
            self._await_head()

    def _head_arrived(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
