"""The field `pooling` of embedding requests: how the rows of an input's tokens become its vector."""

from __future__ import annotations

from typing import get_args

from donabe.api.body import Fields
from donabe.errors import InvalidRequestError
from donabe.types import EmbedPooling

_NAMES: tuple[EmbedPooling, ...] = get_args(EmbedPooling)


def take_pooling(fields: Fields, *, has_rows: bool = False) -> EmbedPooling:
    """The pooling that was asked for, "" when none was.

    Args:
        has_rows: The answer has room for more than one row of an input.
    """
    given = fields.string("pooling")
    if given == "none" and not has_rows:
        raise InvalidRequestError(
            "pooling none gives a row for every token, and this route's answer holds one vector for each input",
            field="pooling",
            hint="send it to /embedding",
        )
    for name in _NAMES:
        if name == given:
            return name
    known = ", ".join(name for name in _NAMES if name and (has_rows or name != "none"))
    raise InvalidRequestError(f"pooling must be one of {known}, not {given}", field="pooling")
