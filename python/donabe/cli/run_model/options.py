"""What a run was asked to do, and what the model can do; both the one-shot and the interactive run read these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from donabe.cli.progress import show_progress
from donabe.errors import ResponseError
from donabe.types import JsonObject

if TYPE_CHECKING:
    from donabe.client import Client


@dataclass(slots=True)
class RunOptions:
    """Mutable: the `/set` commands of the interactive run change it."""

    model: str
    keep_alive: str | None = None
    format: str | JsonObject | None = None
    think: bool | str | None = None  # None = the model's default
    hide_thinking: bool = False
    verbose: bool = False
    word_wrap: bool = True
    insecure: bool = False
    truncate: bool | None = None
    dimensions: int | None = None
    parameters: dict[str, Any] = field(default_factory=dict)

    def request_fields(self) -> dict[str, Any]:
        """The fields a generate or chat request takes from here."""
        return {
            "options": dict(self.parameters),
            "keep_alive": self.keep_alive,
            "format": self.format,
            "think": self.think,
        }


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What `show` told about the model."""

    answer: Mapping[str, Any]

    @property
    def capabilities(self) -> frozenset[str]:
        return frozenset(self.answer.get("capabilities") or ())

    @property
    def is_embedding(self) -> bool:
        return "embedding" in self.capabilities and "completion" not in self.capabilities

    @property
    def is_multimodal(self) -> bool:
        return bool(self.capabilities & {"vision", "audio"})

    @property
    def can_think(self) -> bool:
        return "thinking" in self.capabilities


def find_or_pull(client: Client, options: RunOptions) -> ModelFacts:
    """Ask the server about the model; one that is not there is pulled first, with progress."""
    try:
        return ModelFacts(client.show(options.model))
    except ResponseError as error:
        if error.status_code != 404:
            raise
    show_progress(client.pull(options.model, stream=True, insecure=options.insecure))
    return ModelFacts(client.show(options.model))
