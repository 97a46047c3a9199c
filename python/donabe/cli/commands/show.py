"""`donabe show`: what is known of a model, as sections or as one of its texts."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import click

from donabe.cli.base import Command, file_as_absolute
from donabe.cli.connection import connected
from donabe.cli.text import format_count
from donabe.types import JsonObject

_TEXTS = ("license", "modelfile", "parameters", "system", "template")
_COLUMN_WIDTH, _TEXT_WIDTH = 30, 100


@click.command("show", cls=Command)
@click.argument("model", callback=file_as_absolute)
@click.option("--license", is_flag=True, help="Show license of a model")
@click.option("--modelfile", is_flag=True, help="Show Modelfile of a model")
@click.option("--parameters", is_flag=True, help="Show parameters of a model")
@click.option("--system", is_flag=True, help="Show system message of a model")
@click.option("--template", is_flag=True, help="Show template of a model")
@click.option("-v", "--verbose", is_flag=True, help="Show all metadata and tensors")
def show(model: str, verbose: bool, **texts: bool) -> None:
    """Show information for MODEL."""
    chosen = [name for name in _TEXTS if texts[name]]
    if len(chosen) > 1:
        raise click.UsageError(
            "only one of '--license', '--modelfile', '--parameters', '--system', or '--template' can be specified"
        )
    with connected() as client:
        answer = client.show(model, verbose=verbose)
    if chosen:
        click.echo(str(answer.get(chosen[0], "")), nl=chosen[0] not in ("system", "template"))
    else:
        click.echo(describe_model(answer, verbose=verbose), nl=False)


def describe_model(answer: JsonObject, *, verbose: bool = False) -> str:
    """The sections of an answer to `show`."""
    sections: list[tuple[str, Sequence[tuple[str, ...]]]] = [
        ("Model", _model_rows(answer)),
        ("Capabilities", [(name,) for name in answer.get("capabilities") or ()]),
        ("Projector", _projector_rows(answer.get("projector_info") or {})),
        ("Parameters", [tuple(line.split()) for line in str(answer.get("parameters") or "").splitlines()]),
    ]
    if verbose:
        info = answer.get("model_info") or {}
        sections.append(("Metadata", [(key, _shortened(info[key])) for key in sorted(info)]))
        tensors = answer.get("tensors") or ()
        sections.append(("Tensors", [(item["name"], item["type"], _shape(item["shape"])) for item in tensors]))
    text = "".join(_section(name, rows) for name, rows in sections if rows)
    for name in ("System", "License"):
        if rows := _first_lines(str(answer.get(name.lower()) or "")):
            text += _section(name, rows, width=_TEXT_WIDTH)
    return text


def _model_rows(answer: JsonObject) -> list[tuple[str, ...]]:
    info, details = answer.get("model_info") or {}, answer.get("details") or {}
    architecture = info.get("general.architecture") or details.get("family", "")
    count = info.get("general.parameter_count")
    rows = {
        "Remote model": answer.get("remote_model"),
        "Remote URL": answer.get("remote_host"),
        "architecture": architecture,
        "parameters": details.get("parameter_size") or (format_count(count) if count else ""),
        "context length": info.get(f"{architecture}.context_length"),
        "embedding length": info.get(f"{architecture}.embedding_length"),
    }
    shown = [(name, str(value)) for name, value in rows.items() if value]
    shown.append(("quantization", str(details.get("quantization_level") or "")))
    if requires := answer.get("requires"):
        shown.append(("requires", str(requires)))
    return [*shown]


def _projector_rows(info: JsonObject) -> list[tuple[str, ...]]:
    if not info:
        return []
    architecture = str(info.get("general.architecture", ""))
    kind = "vision" if any(".vision." in key for key in info) else "audio"
    count = info.get("general.parameter_count")
    rows = {
        "architecture": architecture,
        "parameters": format_count(count) if count else "",
        "embedding length": info.get(f"{architecture}.{kind}.embedding_length"),
        "dimensions": info.get(f"{architecture}.{kind}.projection_dim"),
    }
    return [(name, str(value)) for name, value in rows.items() if value]


def _first_lines(text: str) -> Sequence[tuple[str, ...]]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [(line,) for line in lines[:2]] + ([("...",)] if len(lines) > 2 else [])


def _shape(shape: Iterable[int]) -> str:
    return "[" + " ".join(str(size) for size in shape) + "]"


def _shortened(value: Any) -> str:
    """A metadata value in about ten columns."""
    if isinstance(value, float):
        return f"{value:g}"
    if value is None:
        return "-"
    if not isinstance(value, list):
        return str(value)
    shown: list[str] = []
    for item in value:
        if sum(map(len, shown)) + len(shown) + len(str(item)) > 10 and shown:
            return f"[{' '.join(shown)} ...+{len(value) - len(shown)} more]"
        shown.append(str(item))
    return f"[{' '.join(shown)}]"


def _section(name: str, rows: Sequence[tuple[str, ...]], width: int = _COLUMN_WIDTH) -> str:
    n_columns = max(len(row) for row in rows)
    lines: list[list[str]] = []  # wrapped: continuation lines are rows of their own
    for row in rows:
        cells = [textwrap.wrap(cell, width) or [""] for cell in (*row, *[""] * (n_columns - len(row)))]
        for index in range(max(map(len, cells))):
            part = [cell[index] if index < len(cell) else "" for cell in cells]
            lines.append([("  " + text if index and text else text) for text in part])
    widths = [max(len(line[column]) for line in lines) for column in range(n_columns)]
    body = "".join(
        "    " + "".join(cell.ljust(size) + "    " for cell, size in zip(line, widths, strict=True)) + "\n"
        for line in lines
    )
    return f"  {name}\n{body}\n"
