"""`donabe save`: a model into one file, for a machine without a network.

Reads the user's own store directly: what is written is its files, and no server has to run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click

from donabe.cli.base import Command
from donabe.cli.progress import show_progress
from donabe.errors import InvalidRequestError


@click.command("save", cls=Command, settings=("models",))
@click.argument("model")
@click.argument("file", metavar="[FILE.tar]", required=False, default="")
def save(model: str, file: str) -> None:
    """Save MODEL and everything it needs to FILE.tar (default: the model's name; - is stdout).

    `donabe load` reads the file on another machine.
    """
    import msgspec

    from donabe.registry.bundle import save_bundle
    from donabe.store.models import ModelStore

    store = ModelStore.from_settings()
    name = store.read_own(model).name
    target = Path(file or f"{name.model}-{name.tag}.tar")
    with _written(target) as stream:
        show_progress(msgspec.to_builtins(event) for event in save_bundle(store, (name,), stream))
    if file != "-":
        click.echo(f"saved '{name.short}' to {target}")


@contextmanager
def _written(target: Path) -> Iterator[BinaryIO]:
    """The file to write, which appears under its name only when it is whole; stdout for `-`."""
    if str(target) == "-":
        if sys.stdout.isatty():
            raise InvalidRequestError("a bundle is not for a terminal", hint="name a file, or send stdout to one")
        yield sys.stdout.buffer
        return
    partial = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        with open(partial, "xb") as stream:
            yield stream
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
