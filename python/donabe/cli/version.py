"""`donabe --version`: the running server's version, and ours when it differs or no server runs."""

from __future__ import annotations

from importlib import metadata

import click

from donabe.errors import ResponseError, ServerUnavailableError


def own_version() -> str:
    """The installed version of donabe."""
    try:
        return metadata.version("donabe")
    except metadata.PackageNotFoundError:
        return "unknown"


def print_version() -> None:
    """Print it; a missing server is a warning, not an error."""
    from donabe.client import Client

    with Client(timeout_s=5) as client:
        try:
            answer = client.version()
        except (ServerUnavailableError, ResponseError):
            click.echo("Warning: could not connect to a running donabe instance")
            click.echo(f"Warning: client version is {own_version()}")
            return
        url = client.base_url
    if server := answer.get("donabe"):
        click.echo(f"donabe version is {server}")
    else:
        click.echo(f"Warning: the server at {url} is not donabe, it reports version {answer.get('version')}")
    if server != own_version():
        click.echo(f"Warning: client version is {own_version()}")
