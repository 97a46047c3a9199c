"""The root command: a table of names, and lazy loading of what they name.

To add a command, write `commands/<name>.py` with a click command made with `cls=Command`, and add a line to COMMANDS.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

import click

from donabe.cli.errors import report


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a command lives (`module:function`) and its line in the help."""

    target: str
    help: str
    aliases: tuple[str, ...] = ()


COMMANDS: dict[str, Entry] = {
    "serve": Entry("donabe.cli.commands.serve:serve", "Start the server", ("start",)),
    "create": Entry("donabe.cli.commands.create:create", "Create a model"),
    "show": Entry("donabe.cli.commands.show:show", "Show information for a model"),
    "run": Entry("donabe.cli.commands.run:run", "Run a model"),
    "stop": Entry("donabe.cli.commands.stop:stop", "Stop a running model"),
    "pull": Entry("donabe.cli.commands.pull:pull", "Pull a model from a registry"),
    "push": Entry("donabe.cli.commands.push:push", "Push a model to a registry"),
    "list": Entry("donabe.cli.commands.list:list_models", "List models", ("ls",)),
    "ps": Entry("donabe.cli.commands.ps:ps", "List running models"),
    "cp": Entry("donabe.cli.commands.cp:cp", "Copy a model"),
    "rm": Entry("donabe.cli.commands.rm:rm", "Remove a model"),
    "render": Entry("donabe.cli.commands.render:render", "Show the exact prompt of a conversation"),
    "save": Entry("donabe.cli.commands.save:save", "Save a model to a file"),
    "load": Entry("donabe.cli.commands.load:load", "Load the models of a saved file"),
    "tune": Entry("donabe.cli.commands.tune:tune", "Measure the fastest settings for a model"),
    "key": Entry("donabe.cli.commands.key:key", "Manage the server's API keys"),
    "fit": Entry("donabe.cli.commands.fit:fit", "Show the memory a model would take"),
    "rpc-server": Entry(
        "donabe.cli.commands.rpc_server:rpc_server", "Lend this machine's devices to donabe on other machines"
    ),
    "doctor": Entry("donabe.cli.commands.doctor:doctor", "Check the installation and the store"),
}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is used, not to list it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = next((key for key, entry in COMMANDS.items() if cmd_name in (key, *entry.aliases)), None)
        if name is None:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = COMMANDS[name].target.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        command = self.get_command(ctx, name)
        if command is None and not name.startswith("-"):
            close = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f", did you mean {close[0]}?" if close else ""
            raise click.UsageError(f'unknown command "{name}" for "donabe"{hint}')
        if command is None:
            raise click.NoSuchOption(name)
        return name, command, args[1:]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name, entry in COMMANDS.items():
            aliases = f" (also {', '.join(entry.aliases)})" if entry.aliases else ""
            rows.append((name, entry.help + aliases))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _print_version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from donabe.cli.version import print_version

        print_version()
        ctx.exit()


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Settings: `donabe serve --help` lists those of the server; DONABE_HOST says where it is.",
)
@click.option(
    "-v", "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version"
)
@click.pass_context
def root(ctx: click.Context) -> None:
    """Run language models on your own machine."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@root.command("help", hidden=True)
@click.argument("name", required=False)
@click.pass_context
def show_help(ctx: click.Context, name: str | None) -> None:
    """Help about a command."""
    parent = ctx.parent
    assert parent is not None, "help is always a subcommand"
    if name is None:
        click.echo(parent.get_help())
        return
    _, command, _ = root.resolve_command(parent, [name])
    assert command is not None, "resolve_command raises for unknown names"
    with click.Context(command, info_name=name, parent=parent) as sub:
        click.echo(command.get_help(sub))


def run_command_line(args: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0, or the code of the error that ended it."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that can't show a character must not end the answer
            stream.reconfigure(errors="replace")
    try:
        code = root.main(args=args, prog_name="donabe", standalone_mode=False)
        sys.stdout.flush()
    except BaseException as error:
        sys.exit(report(error))
    sys.exit(code if isinstance(code, int) else 0)
