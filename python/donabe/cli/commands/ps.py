"""`donabe ps`: the models in memory."""

from __future__ import annotations

from datetime import datetime, timezone

import click

from donabe.cli.base import Command
from donabe.cli.connection import connected
from donabe.cli.text import format_bytes, format_relative, format_table, parse_timestamp
from donabe.types import JsonObject


@click.command("ps", cls=Command)
@click.argument("prefix", required=False, default="")
def ps(prefix: str) -> None:
    """List running models; PREFIX shows only names that start with it."""
    with connected() as client:
        click.echo(running_table(client.ps(), prefix), nl=False)


def running_table(answer: JsonObject, prefix: str = "", now: datetime | None = None) -> str:
    """The table of `ps`."""
    now = now or datetime.now(timezone.utc)
    rows = [
        (
            model["name"],
            model["digest"][:12],
            format_bytes(model["size"]),
            processor(model),
            str(model.get("context_length", "")),
            _until(model["expires_at"], now),
        )
        for model in answer["models"]
        if model["name"].startswith(prefix)
    ]
    return format_table(("NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"), rows)


def processor(model: JsonObject) -> str:
    """Where a model is: `100% CPU`, or `25%/75% CPU/GPU, CUDA0, 20/31 layers` when devices are used."""
    parts = [_shares(model["size"], model.get("size_vram", 0))]
    n_layers, n_gpu_layers = model.get("layers", 0), model.get("gpu_layers", 0)
    if n_gpu_layers or model.get("size_vram", 0):
        parts += [name for name in model.get("devices", ()) if name != "CPU"]
    if n_gpu_layers:
        parts.append(f"{n_gpu_layers}/{n_layers} layers")
    return ", ".join(parts)


def _shares(size: int, size_vram: int) -> str:
    if size_vram == 0 and size > 0:
        return "100% CPU"
    if size == 0 or size_vram > size:
        return "Unknown"
    if size_vram == size:
        return "100% GPU"
    cpu = int((size - size_vram) / size * 100 + 0.5)
    return f"{cpu}%/{100 - cpu}% CPU/GPU"


def _until(expires_at: str, now: datetime) -> str:
    moment = parse_timestamp(expires_at)
    if moment is not None and moment.year > 1 and moment < now:
        return "Stopping..."
    return format_relative(moment, now)
