"""`donabe cp`: give a model a second name."""

from __future__ import annotations

import click

from donabe.cli.base import Command
from donabe.cli.connection import connected


@click.command("cp", cls=Command)
@click.argument("source")
@click.argument("destination")
def cp(source: str, destination: str) -> None:
    """Copy SOURCE to DESTINATION. Both names share their files."""
    with connected() as client:
        client.copy(source, destination)
    click.echo(f"copied '{source}' to '{destination}'")
