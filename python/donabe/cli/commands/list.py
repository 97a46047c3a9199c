"""`donabe list`: the installed models."""

from __future__ import annotations

import click

from donabe.cli.base import Command
from donabe.cli.connection import connected
from donabe.cli.text import format_bytes, format_relative, format_table, parse_timestamp
from donabe.types import JsonObject


@click.command("list", cls=Command)
@click.argument("prefix", required=False, default="")
def list_models(prefix: str) -> None:
    """List models, newest first; PREFIX shows only names that start with it, in any case."""
    with connected() as client:
        click.echo(installed_table(client.list(), prefix), nl=False)


def installed_table(answer: JsonObject, prefix: str = "") -> str:
    """The table of `list`."""
    rows = [
        (model["name"], model["digest"][:12], _size(model), format_relative(parse_timestamp(model["modified_at"])))
        for model in answer["models"]
        if model["name"].lower().startswith(prefix.lower())
    ]
    return format_table(("NAME", "ID", "SIZE", "MODIFIED"), rows)


def _size(model: JsonObject) -> str:
    return "-" if model.get("remote_model") else format_bytes(model["size"])
