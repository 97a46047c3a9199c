"""The click command class of all subcommands: argument-count errors with numbers, and the environment in the help.

Also what several commands' arguments and options share.
"""

from __future__ import annotations

import os
from typing import Any

import click


def file_as_absolute(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A model given as the path of a GGUF file, made absolute: the server does not share our working directory."""
    if value is None:
        return None
    if value.startswith(("./", "../", "~", ".\\", "..\\")) or (
        value.lower().endswith(".gguf") and os.path.exists(value)
    ):
        return os.path.abspath(os.path.expanduser(value))
    return value


def _bytes_per_second(ctx: click.Context, param: click.Parameter, value: str | None) -> int:
    if value is None:
        return 0
    from donabe.setting_values import parse_size

    try:
        rate = parse_size(value)
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(f"{error} (bytes per second)") from None
    if rate <= 0:
        raise click.BadParameter("must be more than 0 bytes per second, such as 5M")
    return rate


limit_rate_option = click.option(
    "--limit-rate",
    metavar="RATE",
    callback=_bytes_per_second,
    help="Use at most this many bytes per second (e.g. 5M)",
)


class Command(click.Command):
    """A subcommand. `settings` are names of settings whose variables its help lists."""

    def __init__(self, *args: Any, settings: tuple[str, ...] = ("host",), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.settings = settings

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            if isinstance(error, (click.NoSuchOption, click.BadOptionUsage)):
                raise
            raise self._count_error(ctx, given) or error from None

    def _count_error(self, ctx: click.Context, args: list[str]) -> click.UsageError | None:
        values, rest, _ = self.make_parser(ctx).parse_args(args=args)
        arguments = [item for item in self.params if isinstance(item, click.Argument)]
        n_given = len(rest)
        for item in arguments:
            value = values.get(item.name)
            n_given += len(value) if isinstance(value, tuple) else isinstance(value, str)
        n_min = sum(item.required for item in arguments)
        n_max = None if any(item.nargs == -1 for item in arguments) else len(arguments)
        if n_given >= n_min and (n_max is None or n_given <= n_max):
            return None
        if n_max is None:
            return click.UsageError(f"requires at least {n_min} arg(s), only received {n_given}")
        wanted = str(n_min) if n_min == n_max else f"between {n_min} and {n_max}"
        return click.UsageError(f"accepts {wanted} arg(s), received {n_given}")

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        from donabe.settings import declared_settings

        formatter.write("\nEnvironment Variables:\n")
        for setting in declared_settings():
            if setting.name in self.settings:
                default = f" (default {setting.default_text})" if setting.default_text else ""
                formatter.write(f"      {setting.env:<27}   {setting.help}{default}\n")
