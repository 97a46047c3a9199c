"""What a dialect hands to the use cases: one API call, decoded and checked in form, with the model still a name.

Options stay separate from the request types, because they are merged over the parameters stored with the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from donabe.types import Constraint, EmbedPooling, Message, Scheduling, ThinkLevel, Tool, ToolChoice

Think = bool | ThinkLevel | None


@dataclass(frozen=True, kw_only=True)
class ModelCall:
    """What every inference call has.

    Attributes:
        model: Name as the caller wrote it.
        options: Checked options by name (`service.parameters.check_options`).
        default_options: What this caller's API means by leaving an option out; stored parameters win over it.
        keep_alive_s: New keep-alive of the model; None keeps its current one.
    """

    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    default_options: Mapping[str, Any] = field(default_factory=dict)
    keep_alive_s: float | None = None
    scheduling: Scheduling = field(default_factory=Scheduling)


@dataclass(frozen=True, kw_only=True)
class OutputCall(ModelCall):
    """What generate and chat share.

    Attributes:
        is_streamed: The caller gets the answer in pieces.
        context_shift: None is the model's default.
        best_of: More than `n`: so many completions are made and the likeliest `n` answered.
        ignore_unsupported_thinking: Drop a request for thinking the model can't fulfil, with a warning.
    """

    is_streamed: bool = True
    constraint: Constraint = field(default_factory=Constraint)
    think: Think = None
    truncate: bool = True
    context_shift: bool | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    n: int = 1
    best_of: int = 0
    ignore_unsupported_thinking: bool = False


@dataclass(frozen=True, kw_only=True)
class GenerateCall(OutputCall):
    """Answer one prompt, through the model's template unless `raw`.

    Attributes:
        prompt: Text, or token ids (only with `raw`).
        system: Replaces the stored system prompt; None keeps it.
        context: Tokens of an earlier answer to continue from.
    """

    prompt: str | tuple[int, ...] = ""
    suffix: str = ""
    system: str | None = None
    template: str | None = None
    context: tuple[int, ...] = ()
    raw: bool = False
    echo: bool = False
    images: tuple[bytes, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ChatCall(OutputCall):
    """Answer a conversation."""

    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    force_tools: bool = False  # describe tools to a model whose template knows none, instead of refusing them
    continue_final_message: bool = False
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EmbedCall(ModelCall):
    """Embed texts or token lists."""

    inputs: tuple[str | tuple[int, ...], ...] = ()
    truncate: bool = True
    normalize: bool = True
    dimensions: int = 0
    pooling: EmbedPooling = ""


@dataclass(frozen=True, kw_only=True)
class RerankCall(ModelCall):
    """Score documents against a query."""

    query: str = ""
    documents: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ClassifyCall(ModelCall):
    """Sort texts or token lists into a classifier's classes."""

    inputs: tuple[str | tuple[int, ...], ...] = ()
    truncate: bool = False
