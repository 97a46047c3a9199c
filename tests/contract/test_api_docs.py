"""docs/api.md lists every route with its scope, and every option with its range."""

from __future__ import annotations

import math
from pathlib import Path

from tests.fakes.server import make_server

from donabe.server.openapi import OPERATIONS
from donabe.service.parameters import BOUNDS, PARAMETERS

PAGE = Path(__file__).parents[2] / "docs" / "api.md"


def route_rows() -> list[str]:
    table = make_server().app.state.routes
    rows = []
    for (method, path), scope in table.scopes.items():
        clean = path.replace(":path}", "}")
        if method != "HEAD":
            rows.append(f"| `{method} {clean}` | {OPERATIONS[method, clean].summary} | {scope or 'open'} |")
    return rows


def option_rows() -> list[str]:
    def bound(value: float) -> str:
        return f"{value:g}" if abs(value) < 1e6 else f"{value:.0f}"

    rows = []
    for parameter in PARAMETERS.values():
        kind = {"float32": "number", "array": "list of strings", "map": "object"}.get(parameter.kind, parameter.kind)
        if parameter.kind == "array":
            allowed = f"at most {parameter.high:.0f}"
        elif parameter.kind == "string":
            allowed = ", ".join(f"`{choice}`" for choice in parameter.choices)
        elif parameter.kind == "map":
            allowed = "token id to -100..100"
        elif math.isinf(parameter.low):
            allowed = ""
        else:
            allowed = f"{bound(parameter.low)} to {bound(parameter.high)}"
        rows.append(f"| `{parameter.name}` | {kind} | {allowed} |")
    return rows


def test_routes_are_listed():
    text = PAGE.read_text(encoding="utf-8")
    assert [row for row in route_rows() if row not in text] == []


def test_options_are_listed():
    text = PAGE.read_text(encoding="utf-8")
    assert [row for row in option_rows() if row not in text] == []


def test_bounds_are_listed():
    """In the table's order; the page says in words what the names mean."""
    text = PAGE.read_text(encoding="utf-8")
    table = text[text.index("| what | range |") : text.index("Images are PNG")]
    ranges = [line.split("|")[2].strip() for line in table.strip().splitlines()[2:]]
    wanted = [(f"at most {bound.high}", f"{bound.low} to {bound.high}") for bound in BOUNDS.values()]
    assert len(ranges) == len(wanted)
    assert [row for row, either in zip(ranges, wanted, strict=True) if row not in either] == []
