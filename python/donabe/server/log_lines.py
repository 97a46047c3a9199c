"""How log records become lines: text for people, or one JSON object each for programs.

A record may carry `fields` (`extra={"fields": {...}}`), which JSON shows one by one; the text has them in its words.
Every line written while a request is answered, or about one, has its id.
"""

from __future__ import annotations

import logging
from datetime import datetime, timezone
from typing import Any

import msgspec

from donabe.api.dialect import REQUEST_ID

_MAX_MESSAGE_CHARS = 20_000


class TextLines(logging.Formatter):
    """`time LEVEL logger: message`, with the request's id where there is one and the message has no place for it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        line = super().formatMessage(record)
        id = _request_id(record)
        return line if not id or _fields(record) else f"{line} id={id}"


class JsonLines(logging.Formatter):
    """An object a line: `time` (RFC 3339, UTC), `level`, `logger`, `message`, `request_id`, fields, `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        shown: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:_MAX_MESSAGE_CHARS],
        }
        if id := _request_id(record):
            shown["request_id"] = id
        shown |= _fields(record)
        if record.exc_info:
            shown["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(_encodable(shown)).decode()


def _request_id(record: logging.LogRecord) -> str:
    """The record's own id, else that of the request in whose task it was written."""
    return str(getattr(record, "request_id", "") or REQUEST_ID.get())


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    found: dict[str, Any] = getattr(record, "fields", {})
    return found


def _encodable(shown: dict[str, Any]) -> dict[str, Any]:
    """Without lone surrogates, which file names may have and JSON may not."""
    return {
        name: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
        for name, value in shown.items()
    }
