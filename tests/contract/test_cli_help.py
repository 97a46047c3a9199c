"""docs/cli.md shows the help of every command as it is."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from donabe.cli.app import COMMANDS, root

DOCUMENT = Path(__file__).parents[2] / "docs" / "cli.md"


def help_of(name: str) -> str:
    with click.Context(root, info_name="donabe", terminal_width=80, **root.context_settings) as parent:
        if not name:
            return root.get_help(parent)
        command = root.get_command(parent, name)
        assert command is not None
        with click.Context(command, info_name=name, parent=parent) as context:
            return command.get_help(context)


def documented(name: str) -> str:
    """The text block below the line `$ donabe <name> --help`."""
    prompt = f"$ donabe {name} --help" if name else "$ donabe --help"
    match = re.search(re.escape(prompt) + r"\n(.*?)\n```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert match is not None, f"docs/cli.md has no block '{prompt}'"
    return match[1]


def squeezed(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines() if line.strip()]


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_in_the_document_is_current(name: str) -> None:
    expected = help_of(name)
    assert squeezed(documented(name)) == squeezed(expected), f"run ci/docs; docs/cli.md should show:\n{expected}"


@pytest.mark.parametrize("name", list(COMMANDS))
def test_command_loads_and_is_documented(name: str) -> None:
    with click.Context(root, info_name="donabe") as parent:
        command = root.get_command(parent, name)
    assert command is not None
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts[0]} has no help"
