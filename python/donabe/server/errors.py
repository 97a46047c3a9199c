"""Which HTTP status an error has, looked up by MRO, and how it is sent in a dialect's own shape."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Awaitable, Iterable
from typing import TypeVar

from starlette.types import Scope, Send

from donabe import errors
from donabe.api.dialect import ErrorStyle
from donabe.errors import DonabeError, InvalidRequestError, RequestError, RunnerError, ServerBusyError

T = TypeVar("T")

logger = logging.getLogger("donabe.server")

# Nobody reads this answer, but proxies and logs see it: the client closed the connection.
CLIENT_CLOSED_REQUEST = 499


class RequestTooLargeError(RequestError):
    """The request body is larger than the server's `max_body`."""


class NotFoundError(RequestError):
    """There is no such thing (other than a model) here."""


class UnauthorizedError(RequestError):
    """No API key, or not one the server knows."""


class ForbiddenError(RequestError):
    """The key's scope does not cover this route."""


class TooManyRequestsError(ServerBusyError):
    """This caller is over his own limit; others are not affected."""


STATUS: dict[type[BaseException], int] = {
    RequestTooLargeError: 413,
    NotFoundError: 404,
    UnauthorizedError: 401,
    ForbiddenError: 403,
    TooManyRequestsError: 429,
    errors.CancelledError: CLIENT_CLOSED_REQUEST,
    errors.ModelNotFoundError: 404,
    errors.RemoteModelError: 403,
    errors.RequestError: 400,
    errors.GrammarError: 400,
    errors.TemplateError: 400,
    errors.UnsupportedError: 400,
    errors.ServerBusyError: 503,
    errors.DiskFullError: 507,
    errors.DonabeError: 500,
    Exception: 500,
}


def status_of(error: BaseException) -> int:
    """The status of the nearest class in the table."""
    return next((STATUS[cls] for cls in type(error).__mro__ if cls in STATUS), 500)


def as_donabe_error(error: Exception) -> DonabeError:
    """The error as one that may be shown. A foreign one is a bug of ours: logged whole, shown by its kind only."""
    if isinstance(error, DonabeError):
        return error
    logger.exception("internal error", exc_info=error)
    return RunnerError(f"internal error ({type(error).__name__})", hint="the server's log has the details")


def note_error(scope: Scope, error: DonabeError) -> None:
    """Remember what the request failed of, for the log and the metrics: the status does not tell of errors in-band."""
    scope["donabe.error"] = type(error).__name__


async def naming(work: Awaitable[T], name: str, *, text: str = "model '{}' not found") -> T:
    """The work; that its model is not found is said in the route's words, under the name the caller used."""
    try:
        return await work
    except errors.ModelNotFoundError as error:
        raise errors.ModelNotFoundError(text.format(name), name=name, hint=error.hint) from None


def error_headers(error: DonabeError) -> list[tuple[bytes, bytes]]:
    """Headers an error adds to its response."""
    headers: list[tuple[bytes, bytes]] = []
    if isinstance(error, ServerBusyError):
        headers.append((b"retry-after", str(max(1, math.ceil(error.retry_after_s))).encode()))
    if isinstance(error, UnauthorizedError):
        headers.append((b"www-authenticate", b"Bearer"))
    return headers


def check_strict(warnings: Iterable[str], *, is_strict: bool) -> None:
    """Refuse what a server that is not strict would only report.

    Raises:
        InvalidRequestError: The server is strict and there is a warning; the first one is the message.
    """
    first = next(iter(warnings), None)
    if is_strict and first is not None:
        raise InvalidRequestError(first, hint="the server runs in strict mode; leave the field out")


_UNSAFE = re.compile(r"[^\x20-\x7e]")
_MAX_WARNINGS = 20
_MAX_WARNING_CHARS = 200


def warning_headers(warnings: Iterable[str]) -> list[tuple[bytes, bytes]]:
    """`Warning: 299 donabe "..."`, one for each, safe against anything a caller put into a field name."""
    found = []
    for text in list(warnings)[:_MAX_WARNINGS]:
        safe = _UNSAFE.sub("?", text[:_MAX_WARNING_CHARS]).replace("\\", "/").replace('"', "'")
        found.append((b"warning", f'299 donabe "{safe}"'.encode()))
    return found


async def send_whole(
    send: Send, status: int, body: bytes, media_type: str, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """One complete response."""
    raw = [(b"content-type", media_type.encode()), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, error: DonabeError, style: ErrorStyle) -> None:
    """An error as the whole response."""
    status = status_of(error)
    await send_whole(send, status, style.body(status, error), style.media_type, error_headers(error))
