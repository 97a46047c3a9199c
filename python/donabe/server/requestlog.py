"""Outermost middleware: gives every request an id, and counts and logs it when it is done.

The caller's `X-Request-Id` is kept when it is short and plain. What a caller chose is made safe for a line of log.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from donabe.api.dialect import REQUEST_ID
from donabe.server.errors import CLIENT_CLOSED_REQUEST
from donabe.server.metrics import ServerMetrics
from donabe.server.tracing import Tracing

logger = logging.getLogger("donabe.requests")

# Label values must be few, whatever callers send.
_METHODS = {name: name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}
_SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_LINE = (
    "%(method)s %(path)s %(status)d %(duration_s).3fs client=%(client)s model=%(model)s key=%(key)s error=%(error)s"
    " id=%(request_id)s"
)
_WITHOUT = dict.fromkeys(("client", "model", "key", "error"), "-")
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
            self._ended(scope, status or CLIENT_CLOSED_REQUEST, time.monotonic() - started)

    def _ended(self, scope: Scope, status: int, seconds: float) -> None:
        route, trace = scope.get("donabe.route", "other"), scope["donabe.trace"]
        if trace is not None:
            trace.end(route, status)
        self._metrics.requests.add(1, route, _METHODS.get(scope["method"], "OTHER"), str(status))
        self._metrics.request_seconds.observe(seconds, route)
        error = scope.get("donabe.error", f"Http{status}" if status >= 400 and status != CLIENT_CLOSED_REQUEST else "")
        if error:
            self._metrics.errors.add(1, route, error)
        if logger.isEnabledFor(logging.INFO):
            fields = _fields(scope, route, status, seconds, error)
            logger.info(_LINE, _WITHOUT | fields, extra={"fields": fields})


def _fields(scope: Scope, route: str, status: int, seconds: float, error: str) -> dict[str, Any]:
    """What is known of the request, safe for a line."""
    client = scope.get("client")
    found = {
        "method": scope["method"],
        "path": _UNSAFE.sub("?", scope["path"][:200]),
        "route": route,
        "status": status,
        "duration_s": round(seconds, 6),
        "client": client[0] if client else "",
        "model": _UNSAFE.sub("?", scope.get("donabe.model", "")[:200]),
        "key": scope.get("donabe.key", ""),
        "error": error,
        "request_id": scope["donabe.request_id"],
    }
    return {name: value for name, value in found.items() if value != ""}


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text: str = value.decode("latin-1")
            if _SAFE_ID.fullmatch(text):
                return text
    return "req_" + secrets.token_hex(12)
