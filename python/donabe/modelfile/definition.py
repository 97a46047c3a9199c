"""What a Modelfile asks for: its commands gathered by meaning, values checked. Paths are still as written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from donabe.modelfile.parameters import parse_parameters
from donabe.modelfile.parser import Command, modelfile_error, parse_modelfile
from donabe.types import JsonObject, Message

_SEMVER = re.compile(
    r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*)"
    r"(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?)?)?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDefinition:
    """A model to create. "" and () mean that the Modelfile does not say.

    Attributes:
        sources: Values of FROM, in order: paths or a model name.
        adapter: A file or folder; the last ADAPTER.
        drafts: Files or folders of a draft model.
        parameters: Typed values by name.
        warnings: What was ignored, and why.
    """

    sources: tuple[str, ...]
    adapter: str = ""
    drafts: tuple[str, ...] = ()
    template: str = ""
    system: str = ""
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    licenses: tuple[str, ...] = ()
    messages: tuple[Message, ...] = ()
    parameters: JsonObject = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def read_modelfile(source: bytes | str) -> ModelDefinition:
    """Parse a Modelfile and check its values.

    Raises:
        InvalidRequestError: bad syntax, no FROM, a bad parameter or version.
    """
    return define(parse_modelfile(source))


def define(commands: Sequence[Command]) -> ModelDefinition:
    """Gather commands. The last of TEMPLATE, SYSTEM, ADAPTER, RENDERER, PARSER and REQUIRES wins.

    Raises:
        InvalidRequestError: a bad parameter or version.
    """
    parameters, warnings = parse_parameters(
        (command.name, command.value) for command in commands if command.keyword == "parameter"
    )

    def values(keyword: str) -> tuple[str, ...]:
        return tuple(command.value for command in commands if command.keyword == keyword)

    return ModelDefinition(
        sources=values("from"),
        adapter=_last(values("adapter")),
        drafts=tuple(value for value in values("draft") if value),
        template=_last(values("template")),
        system=_last(values("system")),
        renderer=_last(values("renderer")),
        parser=_last(values("parser")),
        requires=_version(_last(values("requires"))),
        licenses=tuple(value for value in values("license") if value),
        messages=tuple(
            Message(role=command.name, content=command.value) for command in commands if command.keyword == "message"
        ),
        parameters=parameters,
        warnings=warnings,
    )


def _last(values: tuple[str, ...]) -> str:
    return values[-1] if values else ""


def _version(text: str) -> str:
    version = text.removeprefix("v")
    if version and not _SEMVER.fullmatch(version):
        raise modelfile_error("requires must be a valid semver (e.g. 0.14.0)")
    return version
