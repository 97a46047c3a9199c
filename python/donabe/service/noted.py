"""What use cases that answer at once give: a value, and what its caller should know of the model's load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Noted(Generic[Value]):
    """A value with its warnings."""

    value: Value
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Tokens of a text or a conversation.

    Attributes:
        n_ctx: How many one request may hold.
        pieces: The bytes of each, when asked for.
    """

    ids: Sequence[int]
    n_ctx: int
    pieces: Sequence[bytes] = ()
