"""`donabe rm`: remove models."""

from __future__ import annotations

import click

from donabe.cli.base import Command
from donabe.cli.commands.stop import unload
from donabe.cli.connection import connected
from donabe.errors import ResponseError


@click.command("rm", cls=Command)
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
def rm(models: tuple[str, ...]) -> None:
    """Remove each MODEL, in order; the first that fails ends the command."""
    with connected() as client:
        for model in models:
            try:
                unload(client, model)
            except ResponseError as error:
                if error.status_code != 404:
                    click.echo(f"Warning: unable to stop model '{model}'", err=True)
            client.delete(model)
            click.echo(f"deleted '{model}'")
