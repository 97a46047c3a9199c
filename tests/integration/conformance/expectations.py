"""What a conformance case is: a request, what must come back, and why that is not what the reference answers, if so."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

HI = [{"role": "user", "content": "hi"}]
ABSENT = object()  # the member must not be there


@dataclass(frozen=True)
class Case:
    """One request and its answer.

    Attributes:
        id: Number of the example in the reference's list, or its section.
        body: JSON value, or raw bytes.
        expect: Dotted place in the answer (or in its last line or event) -> value, type, pattern, predicate or ABSENT.
        error: The error's message, whole, or its pattern.
        lines: Predicate over all lines or events of a stream.
        differs: What the reference does instead, and why donabe does not. Listed in docs/compatibility.md.
        real: Runs with a real model, too.
        is_eventual: Comes true a little later.
    """

    id: str
    request: str
    body: Any = b""
    status: int = 200
    expect: dict[str, Any] = field(default_factory=dict)
    error: str | re.Pattern[str] | None = None
    text: str | None = None
    type: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    sent: dict[str, str] = field(default_factory=dict)
    lines: Callable[[list[Any]], bool] | None = None
    differs: str = ""
    real: bool = False
    is_eventual: bool = False


def send(url: str, case: Case, models: dict[str, str]) -> httpx.Response:
    """Ask; names of models are replaced by those that are installed."""
    method, path = case.request.split(" ", 1)
    content = case.body if isinstance(case.body, bytes) else json.dumps(renamed(case.body, models)).encode()
    headers = {"content-type": "application/json", **case.sent}
    return httpx.request(method, url + renamed(path, models), content=content, headers=headers, timeout=300)


def renamed(value: Any, models: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: models.get(item, item) if key == "model" and isinstance(item, str) else item
                for key, item in value.items()}  # fmt: skip
    return value


def parsed(response: httpx.Response) -> list[Any]:
    """All objects of an answer: one, lines, or events."""
    text = response.content.decode()
    kind = response.headers.get("content-type", "")
    if kind.startswith("text/event-stream"):
        found = [block.rpartition("data: ")[2] for block in text.split("\n\n") if block]
        return [json.loads(data) for data in found if data != "[DONE]"]
    if kind.startswith("application/x-ndjson"):
        return [json.loads(line) for line in text.splitlines()]
    return [json.loads(text)] if kind.startswith("application/json") and text else []


def place(value: Any, path: str) -> Any:
    """The member at a dotted path; numbers index lists."""
    for name in path.split("."):
        if isinstance(value, list):
            value = value[int(name)] if int(name) < len(value) else ABSENT
        elif isinstance(value, dict):
            value = value.get(name, ABSENT)
        else:
            return ABSENT
    return value


def matches(found: Any, wanted: Any) -> bool:
    if wanted is ABSENT or found is ABSENT:
        return found is wanted
    if isinstance(wanted, type):
        return isinstance(found, wanted)
    if isinstance(wanted, re.Pattern):
        return isinstance(found, str) and wanted.fullmatch(found) is not None
    return bool(wanted(found)) if callable(wanted) else found == wanted


def message_of(value: Any) -> Any:
    """The error text of any dialect."""
    error = value.get("error") if isinstance(value, dict) else None
    return error.get("message") if isinstance(error, dict) else error


def check(case: Case, response: httpx.Response) -> None:
    shown = f"{case.request} {case.body!r}\n{response.status_code} {response.text[:2000]}"
    assert response.status_code == case.status, shown
    if case.type:
        assert response.headers.get("content-type") == case.type, shown
    for name, value in case.headers.items():
        assert matches(response.headers.get(name, ABSENT), value), f"{name}: {response.headers}"
    if case.text is not None:
        assert response.text == case.text, shown
    values = parsed(response)
    if case.error is not None:
        assert matches(message_of(values[-1]), case.error), shown
    for path, wanted in case.expect.items():
        assert matches(place(values[-1], path), wanted), f"{path}\n{shown}"
    if case.lines is not None:
        assert case.lines(values), shown
