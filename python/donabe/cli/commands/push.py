"""`donabe push`: upload a model to the registry its name says."""

from __future__ import annotations

import click

from donabe.cli.base import Command, limit_rate_option
from donabe.cli.connection import connected
from donabe.cli.progress import show_progress
from donabe.errors import ResponseError

_REFUSED = ("access denied", "unauthorized")


@click.command("push", cls=Command)
@click.argument("model")
@click.option("--insecure", is_flag=True, help="Allow a registry without TLS")
@limit_rate_option
def push(model: str, insecure: bool, limit_rate: int) -> None:
    """Push MODEL, named like host/namespace/model:tag, to its registry."""
    with connected() as client:
        try:
            show_progress(client.push(model, stream=True, insecure=insecure, limit_rate=limit_rate))
        except ResponseError as error:
            if any(word in error.message.lower() for word in _REFUSED):
                raise click.ClickException(
                    "you are not authorized to push to this namespace, create the model under a namespace you own"
                ) from error
            raise
