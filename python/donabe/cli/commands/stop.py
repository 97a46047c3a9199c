"""`donabe stop`: unload a model now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from donabe.cli.base import Command
from donabe.cli.connection import connected
from donabe.errors import ModelNotFoundError, ResponseError

if TYPE_CHECKING:
    from donabe.client import Client


@click.command("stop", cls=Command)
@click.argument("model")
def stop(model: str) -> None:
    """Stop a running MODEL: it leaves memory once its requests are done."""
    with connected() as client:
        try:
            unload(client, model)
        except ResponseError as error:
            if error.status_code != 404:
                raise
            raise ModelNotFoundError(f'couldn\'t find model "{model}" to stop', name=model) from error


def unload(client: Client, model: str) -> None:
    """Ask for MODEL to leave memory; a model that is not loaded is no error, an unknown one is."""
    client.show(model)
    client.generate(model, keep_alive="0s")
