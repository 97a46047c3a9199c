"""What the user sees when a command fails: one line on stderr and an exit code, by a table looked up by class.

Commands raise; only `report` prints. A hint follows its message on the same line.
"""

from __future__ import annotations

import os
import sys
import traceback

import click

from donabe.errors import DonabeError

EXIT_CODES: dict[type[BaseException], int] = {
    BaseException: 70,  # a bug of ours (EX_SOFTWARE)
    OSError: 1,
    DonabeError: 1,
    click.ClickException: 1,
    click.Abort: 130,
    KeyboardInterrupt: 130,
    BrokenPipeError: 141,  # the reader of a pipe left, as a shell reports SIGPIPE
}
_SILENT = (BrokenPipeError, KeyboardInterrupt, click.Abort)


def exit_code(error: BaseException) -> int:
    """The exit code for an error: that of its nearest class in the table."""
    return next(EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES)


def describe(error: BaseException) -> str:
    """The error in one line, with what the user can do about it."""
    if isinstance(error, click.ClickException):
        return _usage_text(error)
    if isinstance(error, DonabeError):
        text, hint = error.message or type(error).__name__, error.hint
        return _one_line(f"{text.rstrip('.')}; {hint}" if hint and hint not in text else text)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return _one_line(f"internal error: {type(error).__name__}: {error}; DONABE_DEBUG=1 shows where")


def _usage_text(error: click.ClickException) -> str:
    if isinstance(error, click.NoSuchOption):
        name = error.option_name
        if name.startswith("--"):
            return f"unknown flag: {name}"
        return f"unknown shorthand flag: '{name.lstrip('-')}' in {name}"
    return _one_line(error.format_message())


def _one_line(text: str) -> str:
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


def report(error: BaseException) -> int:
    """Print an error that ended the command and return the exit code."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 0
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more to flush at exit
    if not isinstance(error, _SILENT):
        if os.environ.get("DONABE_DEBUG") and not isinstance(error, click.ClickException):
            traceback.print_exception(error)
        sys.stderr.write(f"Error: {describe(error)}\n")
    return exit_code(error)
