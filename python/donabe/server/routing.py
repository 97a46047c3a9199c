"""Routes as plain handlers, and what happens to requests that no route takes: 404, 405, redirects of unclean paths."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route

from donabe.api.anthropic_replies import ANTHROPIC_ERRORS
from donabe.api.body import too_deep
from donabe.api.dialect import ErrorStyle
from donabe.api.native_replies import NATIVE_ERRORS
from donabe.api.openai_replies import OPENAI_ERRORS
from donabe.errors import DonabeError
from donabe.server.admission import Admission
from donabe.server.answers import WorkResponse
from donabe.server.errors import CLIENT_CLOSED_REQUEST, as_donabe_error, error_headers, note_error, status_of
from donabe.server.keys import Scope
from donabe.server.metrics import AnswerObserver, ServerMetrics

Handler = Callable[[Request], Awaitable[Response]]

_METHOD_ORDER = ("HEAD", "GET", "POST", "PUT", "PATCH", "DELETE")
# Longest prefix first.
_STYLES: tuple[tuple[str, ErrorStyle], ...] = (
    ("/v1/messages", ANTHROPIC_ERRORS),
    ("/apply-template", OPENAI_ERRORS),
    ("/detokenize", OPENAI_ERRORS),
    ("/embedding", OPENAI_ERRORS),
    ("/classify", OPENAI_ERRORS),
    ("/tokenize", OPENAI_ERRORS),
    ("/infill", OPENAI_ERRORS),
    ("/rerank", OPENAI_ERRORS),
    ("/props", OPENAI_ERRORS),
    ("/v1/", OPENAI_ERRORS),
)


def style_for(path: str) -> ErrorStyle:
    """The error style of a path; the native one unless another dialect claims the prefix."""
    return next((style for prefix, style in _STYLES if path.startswith(prefix)), NATIVE_ERRORS)


class RouteTable:
    """Adds handlers that take a request and give a response; their errors come in the style of their path."""

    def __init__(self, app: FastAPI, admission: Admission, metrics: ServerMetrics) -> None:
        self._app = app
        self._admission = admission
        self._metrics = metrics
        self.scopes: dict[tuple[str, str], Scope | None] = {}  # by (method, path)

    def add(self, path: str, handler: Handler, *methods: str, scope: Scope | None) -> None:
        """Add a route.

        Args:
            scope: What a caller's key must allow; None is open to everybody.
        """
        route = Route(path, self._admitting(path, handler, scope), methods=list(methods), name=f"{methods[0]} {path}")
        if "HEAD" not in methods and route.methods is not None:
            route.methods.discard("HEAD")  # added to every GET route otherwise
        self._app.router.routes.append(route)
        self.scopes |= {(method, path): scope for method in methods}

    def _admitting(self, path: str, handler: Handler, scope: Scope | None) -> Handler:
        admission, metrics = self._admission, self._metrics

        async def run(request: Request) -> Response:
            request.scope["donabe.route"] = path
            try:
                caller = admission.admit(request, scope)
            except DonabeError as error:
                return error_response(request, error)
            request.state.caller = caller
            response = None
            try:
                response = await handler(request)
            except ClientDisconnect:  # gone before its request was whole
                response = Response(status_code=CLIENT_CLOSED_REQUEST)
            except HTTPException:  # a path that only looked like this route's
                raise
            except RecursionError:  # parsing went through, reading did not
                response = error_response(request, too_deep())
            except Exception as error:
                response = error_response(request, error)
            finally:
                if isinstance(response, WorkResponse):
                    response.on_end = lambda: admission.leave(caller, scope)
                    trace = request.scope.get("donabe.trace")
                    response.observer = AnswerObserver(metrics, caller.charge, trace)
                else:
                    admission.leave(caller, scope)
            return response

        return run


def error_response(request: Request, error: Exception) -> Response:
    """An error as a whole response in the style of the request's path."""
    shown = as_donabe_error(error)
    note_error(request.scope, shown)
    style, status = style_for(request.url.path), status_of(shown)
    response = Response(style.body(status, shown), status_code=status)
    response.raw_headers = [
        (b"content-type", style.media_type.encode()),
        (b"content-length", str(len(response.body)).encode()),
        *error_headers(shown),
    ]
    return response


async def unrouted(request: Request, error: Exception) -> Response:
    """404 and 405 as plain text; paths that differ from a route only in slashes are redirected."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        clean = re.sub(r"/{2,}", "/", request.url.path)
        clean = clean.rstrip("/") or "/"
        if clean != request.url.path and _methods_of(request, clean):
            is_get = request.method == "GET" and "//" not in request.url.path
            query = f"?{request.url.query}" if request.url.query else ""
            return Response(status_code=301 if is_get else 307, headers={"location": clean + query})
        return _text(404, b"404 page not found")
    if error.status_code == 405:
        methods = _methods_of(request, request.url.path)
        allow = ", ".join(method for method in _METHOD_ORDER if method in methods)
        return _text(405, b"405 method not allowed", (b"allow", allow.encode()))
    return _text(error.status_code, error.detail.encode())


def _methods_of(request: Request, path: str) -> set[str]:
    """Methods of all routes that match the path."""
    scope = {**request.scope, "path": path}
    found: set[str] = set()
    for route in request.app.router.routes:
        if route.matches(scope)[0] is not Match.NONE:
            found |= getattr(route, "methods", None) or set()
    return found


def _text(status: int, body: bytes, *headers: tuple[bytes, bytes]) -> Response:
    response = Response(body, status_code=status)
    response.raw_headers = [
        (b"content-type", b"text/plain"),
        (b"content-length", str(len(body)).encode()),
        *headers,
    ]
    return response
