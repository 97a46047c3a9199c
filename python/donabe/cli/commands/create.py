"""`donabe create`: make a model from a Modelfile. Reads files, uploads them, and asks the server for the rest."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from donabe.cli.base import Command
from donabe.cli.connection import connected
from donabe.cli.progress import Progress, show_events
from donabe.modelfile import ModelDefinition, read_modelfile
from donabe.modelfile.sources import check_draft, relative_names, required_files, source_files

if TYPE_CHECKING:
    from donabe.client import Client
    from donabe.client.calls import CreateFields

_WORD = r"[A-Za-z0-9_]"
_MODEL_NAME = re.compile(
    rf"((\S+://)?{_WORD}[\w.:-]{{0,349}}/)?({_WORD}[\w-]{{0,79}}/)?{_WORD}[\w.-]{{0,79}}(:{_WORD}[\w.-]{{0,79}})?",
    re.ASCII,
)
_NO_FILES = "no Modelfile or safetensors files found"


@click.command("create", cls=Command)
@click.argument("model")
@click.option("-f", "--file", "file", metavar="FILE", help='The Modelfile (default "Modelfile"; "-" reads stdin)')
@click.option("-q", "--quantize", metavar="TYPE", default="", help="Quantize the model to this type (e.g. q4_K_M)")
@click.option("--draft-quantize", metavar="TYPE", default="", help="Quantize the draft model to this type")
def create(model: str, file: str | None, quantize: str, draft_quantize: str) -> None:
    """Create MODEL from a Modelfile. Without one, the GGUF of the current folder is used."""
    if not _MODEL_NAME.fullmatch(model):
        raise click.ClickException(f"invalid model name: {model}")
    definition, folder = _read(file)
    for warning in definition.warnings:
        click.echo(f"warning: {warning}")
    base, sources = _sources(definition, folder)
    adapters = required_files(definition.adapter, folder) if definition.adapter else ()
    drafts = tuple(path for value in definition.drafts for path in required_files(value, folder))
    check_draft(drafts, sources)
    if draft_quantize and not drafts:
        raise click.ClickException("--draft-quantize requires a DRAFT model")
    fields: CreateFields = {"quantize": quantize or None, "draft_quantize": draft_quantize or None}
    fields.update(_texts(definition))
    with connected(start_server=True) as client, Progress() as progress:
        progress.status("gathering model components")
        if sources:
            fields["files"] = _upload(client, progress, sources)
        else:
            fields["from_"] = base
        if adapters:
            fields["adapters"] = _upload(client, progress, adapters)
        if drafts:
            fields["draft_files"] = _upload(client, progress, drafts)
        show_events(client.create(model, stream=True, **fields), progress)


def _read(file: str | None) -> tuple[ModelDefinition, Path]:
    """The Modelfile and the folder its paths start from. A missing default file means the GGUFs of this folder."""
    if file == "-":
        return read_modelfile(sys.stdin.read()), Path.cwd()
    path = Path(file or "Modelfile")
    if path.is_file():
        folder = path.resolve().parent if file else Path.cwd()
        return read_modelfile(path.read_bytes()), folder
    if file is not None:
        raise click.ClickException(f"{_NO_FILES}; there is no file {file}")
    return read_modelfile("FROM ."), Path.cwd()


def _sources(definition: ModelDefinition, folder: Path) -> tuple[str, tuple[Path, ...]]:
    """(base model, local files) of all FROM lines; local files win."""
    base = ""
    paths: list[Path] = []
    for value in definition.sources:
        found = source_files(value, folder)
        if found is None:
            base = value
        else:
            paths += found
    return base, tuple(dict.fromkeys(paths))


def _texts(definition: ModelDefinition) -> CreateFields:
    """Everything of a Modelfile that is no file; what it does not say is left out."""
    fields: CreateFields = {
        "template": definition.template,
        "system": definition.system,
        "license": list(definition.licenses),
        "parameters": definition.parameters,
        "messages": [{"role": message.role, "content": message.content} for message in definition.messages],
        "renderer": definition.renderer,
        "parser": definition.parser,
        "requires": definition.requires,
    }
    return {key: value for key, value in fields.items() if value}  # type: ignore[return-value]


def _upload(client: Client, progress: Progress, paths: Sequence[Path]) -> dict[str, str]:
    """Upload files; their names, relative to their common folder, with their digests."""
    from donabe.client.calls import file_digest

    digests: dict[str, str] = {}
    for name, path in relative_names(paths).items():
        digest = file_digest(path)
        size = path.stat().st_size
        client.upload(
            path,
            digest=digest,
            on_progress=lambda done, digest=digest, size=size: progress.bar(  # type: ignore[misc]
                digest, f"copying file {digest}", done, size
            ),
        )
        digests[name] = digest
    return digests
