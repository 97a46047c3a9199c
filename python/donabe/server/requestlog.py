"""Outermost middleware: gives every request an id, and logs one line when it is done.

The caller's `X-Request-Id` is kept when it is short and plain. What a caller chose is made safe for a line of log.
"""

from __future__ import annotations

import logging
import re
import secrets
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from donabe.api.dialect import REQUEST_ID
from donabe.server.metrics import ServerMetrics
from donabe.server.tracing import Tracing

logger = logging.getLogger("donabe.requests")

# Label values must be few, whatever callers send.
_METHODS = {name: name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}
_SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_UNSAFE = re.compile(r"[^\x21-\x7e]")


class RequestLog:
    """The middleware; it also counts requests, and traces them if asked to."""

    def __init__(self, app: ASGIApp, *, metrics: ServerMetrics, tracing: Tracing | None = None) -> None:
        self._app = app
        self._metrics = metrics
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        request_id = _request_id(scope)
        scope["donabe.request_id"] = request_id
        REQUEST_ID.set(request_id)
        trace = self._tracing.begin(scope, request_id) if self._tracing is not None else None
        scope["donabe.trace"] = trace
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                ids = [(name, request_id.encode()) for name in (b"x-request-id", b"request-id")]
                message = {**message, "headers": [*message["headers"], *ids]}
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            seconds = time.monotonic() - started
            route = scope.get("donabe.route", "other")
            if trace is not None:
                trace.end(route, status or 499)
            self._metrics.requests.add(1, route, _METHODS.get(scope["method"], "OTHER"), str(status or 499))
            self._metrics.request_seconds.observe(seconds, route)
            if logger.isEnabledFor(logging.INFO):
                client = scope.get("client")
                logger.info(
                    "%s %s %d %.3fs client=%s id=%s",
                    scope["method"],
                    _UNSAFE.sub("?", scope["path"][:200]),
                    status or 499,
                    seconds,
                    client[0] if client else "-",
                    request_id,
                )


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text: str = value.decode("latin-1")
            if _SAFE_ID.fullmatch(text):
                return text
    return "req_" + secrets.token_hex(12)
