"""`donabe pull`: download a model, with progress."""

from __future__ import annotations

import click

from donabe.cli.base import Command, limit_rate_option
from donabe.cli.connection import connected
from donabe.cli.progress import show_progress


@click.command("pull", cls=Command)
@click.argument("model")
@click.option("--insecure", is_flag=True, help="Allow a registry without TLS")
@limit_rate_option
def pull(model: str, insecure: bool, limit_rate: int) -> None:
    """Pull MODEL from a registry, a package index or a file. An interrupted pull goes on where it stopped."""
    with connected(start_server=True) as client:
        show_progress(client.pull(model, stream=True, insecure=insecure, limit_rate=limit_rate))
