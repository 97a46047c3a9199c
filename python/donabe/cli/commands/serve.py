"""`donabe serve`: run the server in this process. Its flags are the settings themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from donabe.cli.base import Command
from donabe.setting_values import Flag
from donabe.settings import Setting, declared_settings, load_settings

CLIENT_SETTINGS = {"api_key", "tls_ca", "no_history", "editor"}  # the server does not read these
SERVER_SETTINGS = tuple(item for item in declared_settings() if item.name not in CLIENT_SETTINGS)


def _setting_flags(function: Callable[..., None]) -> Callable[..., None]:
    for setting in reversed(SERVER_SETTINGS):
        if not setting.is_secret:  # a secret on a command line can be read by every user of the machine
            function = _flag(setting)(function)
    return function


def _flag(setting: Setting) -> Callable[[Callable[..., None]], Callable[..., None]]:
    name = setting.name.replace("_", "-")
    text = setting.help[0].upper() + setting.help[1:]
    if isinstance(setting.kind, Flag):
        return click.option(f"--{name}/--no-{name}", setting.name, default=None, help=text)
    default = f" (default {setting.default_text})" if setting.default_text else ""
    return click.option(f"--{name}", setting.name, metavar="VALUE", help=text + default)


@click.command("serve", cls=Command, settings=tuple(item.name for item in SERVER_SETTINGS))
@_setting_flags
def serve(**flags: Any) -> None:
    """Start the server and run it until Ctrl-C."""
    settings = load_settings(flags)
    from donabe.server.main import serve as run_server

    run_server(settings)
