"""How a command reaches the server: a client, a heartbeat, and for `run` and `pull` a new server if none is there."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from donabe.errors import ServerUnavailableError, SettingsError
from donabe.settings import load_settings

if TYPE_CHECKING:
    from donabe.client import Client


@contextmanager
def connected(*, start_server: bool = False) -> Iterator[Client]:
    """A client whose server is alive.

    Args:
        start_server: Start one in the background if none answers at a local address.

    Raises:
        ServerUnavailableError: No server answers, or the one started did not come up.
    """
    from donabe.client import Client

    with Client() as client, _told_once("donabe.client"):
        try:
            client.heartbeat()
        except ServerUnavailableError:
            settings = load_settings()
            address = settings.address
            speaks_it = address.scheme == "http" or settings.tls_cert is not None
            is_here = (address.is_loopback or address.is_wildcard) and speaks_it
            if not (start_server and is_here):
                raise
            from donabe.cli.background import start_background_server

            started = start_background_server(client.heartbeat)
            if started is not None:
                pid = started.process.pid
                sys.stderr.write(f"started a donabe server in the background (pid {pid}, log {started.log})\n")
        yield client


@contextmanager
def _told_once(logger_name: str) -> Iterator[None]:
    """The server sends its warnings with every answer; whoever chats reads each of them once."""
    told: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        is_first = text not in told
        told.add(text)
        return is_first

    logger = logging.getLogger(logger_name)
    logger.addFilter(is_new)
    try:
        yield
    finally:
        logger.removeFilter(is_new)


def use_in_new_server(name: str, value: str) -> None:
    """Give a setting to the server that `connected` will start.

    Raises:
        SettingsError: A server runs already, with settings of its own.
    """
    from donabe.client import Client

    with Client() as client:
        try:
            client.heartbeat()
        except ServerUnavailableError:
            os.environ[f"DONABE_{name.upper()}"] = value
            return
        raise SettingsError(
            f"--{name} is for a server that is started now, and one runs at {client.base_url} already",
            setting=name,
            source=f"flag --{name}",
            hint=f"stop it, or start it with donabe serve --{name} {value}",
        )
