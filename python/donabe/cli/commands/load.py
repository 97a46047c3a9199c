"""`donabe load`: models out of a file that `donabe save` wrote.

Writes the user's own store directly, as a pull does; a running server sees the models at once.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext

import click

from donabe.cli.base import Command
from donabe.cli.progress import show_progress
from donabe.errors import InvalidRequestError


@click.command("load", cls=Command, settings=("models",))
@click.argument("file", metavar="FILE.tar")
def load(file: str) -> None:
    """Add the models in FILE.tar (- is stdin) to the store. Models of the same names are replaced.

    Nothing is added unless every part of the file is sound.
    """
    import msgspec

    from donabe.registry.bundle import load_bundle
    from donabe.store.models import ModelStore

    if file == "-" and sys.stdin.isatty():
        raise InvalidRequestError("a bundle can't be typed", hint="name a file, or pipe one in")
    store = ModelStore.from_settings()
    with nullcontext(sys.stdin.buffer) if file == "-" else open(file, "rb") as stream:
        show_progress(msgspec.to_builtins(event) for event in load_bundle(store, stream))
