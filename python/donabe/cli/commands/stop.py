"""`donabe stop`: unload a model now, or end the server that runs in the background."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from donabe.cli.base import Command, file_as_absolute
from donabe.cli.connection import connected
from donabe.errors import ModelNotFoundError, ResponseError

if TYPE_CHECKING:
    from donabe.client import Client


@click.command("stop", cls=Command)
@click.argument("model", required=False, callback=file_as_absolute)
@click.option("--server", is_flag=True, help="End the server that runs in the background")
def stop(model: str | None, server: bool) -> None:
    """Stop a running MODEL: it leaves memory once its requests are done."""
    if (model is None) != server:
        raise click.UsageError("takes a MODEL or --server, not both" if server else "accepts 1 arg(s), received 0")
    if model is None:
        from donabe.cli.background import stop_background_server

        click.echo(f"stopped the server (pid {stop_background_server()})")
        return
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
