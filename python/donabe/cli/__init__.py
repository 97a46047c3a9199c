"""The `donabe` command: an HTTP client of our own server. It never touches the engine.

`app` is the table of commands, `commands/` has one module each, imported only when that command runs; `donabe --help`
must stay light (no httpx, no prompt_toolkit).
"""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line of this process and exit with its code."""
    from donabe.cli.app import run_command_line

    run_command_line()
