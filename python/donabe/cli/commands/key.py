"""`donabe key`: make, list and revoke the API keys that the server on this machine accepts.

Works on the key file itself, without a server: who may write donabe's home folder may make keys. A running server
notices.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from donabe.cli.base import Command
from donabe.errors import InvalidRequestError
from donabe.settings import load_settings

if TYPE_CHECKING:
    from donabe.server.keys import ApiKey

ACTIONS = ("create", "list", "revoke")
SCOPES = ("inference", "manage", "admin")
PRIORITIES = ("low", "normal", "high")


@click.command("key", cls=Command, settings=("home",))
@click.argument("action", type=click.Choice(ACTIONS))
@click.argument("name", required=False)
@click.option("--scope", type=click.Choice(SCOPES), default="inference", show_default=True, help="What the key allows")
@click.option("--requests-per-minute", type=click.IntRange(0), default=0, help="Limit of this key (0 = the server's)")
@click.option("--tokens-per-minute", type=click.IntRange(0), default=0, help="Limit of this key (0 = the server's)")
@click.option("--max-concurrent", type=click.IntRange(0), default=0, help="Requests at once (0 = the server's)")
@click.option(
    "--priority",
    type=click.Choice(PRIORITIES),
    default="normal",
    show_default=True,
    help="Whose requests run first when a model is busy",
)
def key(
    action: str,
    name: str | None,
    scope: str,
    requests_per_minute: int,
    tokens_per_minute: int,
    max_concurrent: int,
    priority: str,
) -> None:
    """Create a key NAME, list all keys, or revoke the key NAME."""
    from donabe.server.keys import KEY_FILE, KeyFile

    file = KeyFile(load_settings().home / KEY_FILE)
    if action == "list":
        for stored in file.load():
            made = time.strftime("%Y-%m-%d", time.localtime(stored.created_at))
            click.echo(f"{stored.name:<24} {stored.scope:<10} {made}  {stored.id}{_extras(stored)}")
        return
    if not name:
        raise InvalidRequestError(f"key {action} needs a name", field="name", hint=f"donabe key {action} NAME")
    if action == "revoke":
        click.echo(f"revoked {file.revoke(name).name}")
        return
    _, text = file.create(
        name,
        scope=scope,  # type: ignore[arg-type]  # click checked it
        priority=priority,  # type: ignore[arg-type]  # click checked it
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        max_concurrent=max_concurrent,
    )
    click.echo(text)
    click.echo("Keep it: it is not shown again.", err=True)


def _extras(stored: ApiKey) -> str:
    """Limits and priority, where the key has its own."""
    limits = {
        "requests/min": stored.requests_per_minute,
        "tokens/min": stored.tokens_per_minute,
        "at once": stored.max_concurrent,
    }
    found = [f"{number} {unit}" for unit, number in limits.items() if number]
    if stored.priority != "normal":
        found.append(f"{stored.priority} priority")
    return f"  {', '.join(found)}" if found else ""
