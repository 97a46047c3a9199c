"""What the server knows of a dialect: how events become bytes, one at a time or all together, and how errors look.

The server owns status codes, headers and sockets; a dialect only turns values into text.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

from donabe.errors import DonabeError
from donabe.types import Delta, Finished

# Id of the request that is being answered; set by the server, shown in errors of dialects that have a place for it.
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")

NDJSON = "application/x-ndjson"
JSON = "application/json; charset=utf-8"
PLAIN_JSON = "application/json"
SSE = "text/event-stream"


@dataclass(frozen=True)
class Timing:
    """Times only the server knows, in seconds: waiting for the model, and the whole request so far."""

    load_s: float
    total_s: float


class EventWriter(Protocol):
    """Turns the events of one streamed answer into bytes; keeps what it needs between events."""

    @property
    def media_type(self) -> str: ...

    def delta(self, event: Delta) -> bytes:
        """Bytes of one event; b"" when there is nothing to send."""
        ...

    def finished(self, event: Finished, timing: Timing) -> bytes: ...

    def failed(self, status: int, error: DonabeError) -> bytes:
        """The error as the last thing of a stream that has already begun."""
        ...


class Collector(Protocol):
    """Turns the same events into one reply."""

    @property
    def media_type(self) -> str: ...

    def delta(self, event: Delta) -> None: ...

    def finished(self, event: Finished, timing: Timing) -> None: ...

    def body(self) -> bytes: ...


@dataclass(frozen=True)
class ErrorStyle:
    """How a dialect writes an error that is the whole reply."""

    media_type: str
    body: Callable[[int, DonabeError], bytes]
