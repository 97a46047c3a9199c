"""Making a prompt fit the context: which messages to drop, then which tokens to cut. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from typing import TypeVar

from donabe.types import Message

R = TypeVar("R")
S = TypeVar("S", bound=Sized)


def prompt_limit(n_ctx: int) -> int:
    """Longest prompt that leaves room for one output token."""
    return n_ctx - 1


def drop_oldest(
    messages: Sequence[Message], attempt: Callable[[Sequence[Message]], tuple[R, S]], limit: int
) -> tuple[R, S, int]:
    """Drop messages from the front until the prompt has at most `limit` tokens. System messages and the last stay.

    Conversations are cut before a user message, because templates may refuse to begin with an answer. Token counts grow
    with the number of messages, so the earliest start that fits is found by bisection.

    Args:
        attempt: Renders and tokenises a conversation.

    Returns:
        What `attempt` gave for the longest tail that fits, else for the shortest; and the number of messages dropped.
    """
    starts = candidate_starts(messages)
    low, high = 0, len(starts) - 1
    best: tuple[R, S] | None = None
    best_start = starts[-1]
    while low <= high:
        middle = (low + high) // 2
        rendered, tokens = attempt(tail_of(messages, starts[middle]))
        if len(tokens) <= limit:
            best, best_start, high = (rendered, tokens), starts[middle], middle - 1
        else:
            low = middle + 1
    if best is None:
        best = attempt(tail_of(messages, best_start))
    return (*best, len(messages) - len(tail_of(messages, best_start)))


def candidate_starts(messages: Sequence[Message]) -> list[int]:
    """Indices at which a shortened conversation may begin, ascending; the whole conversation is not among them."""
    first = next((i for i, message in enumerate(messages) if message.role != "system"), 0)
    users = [i for i, message in enumerate(messages) if i > first and message.role == "user"]
    return users or [len(messages) - 1]


def tail_of(messages: Sequence[Message], start: int) -> tuple[Message, ...]:
    """System messages before `start`, and everything from it on."""
    return (*(message for message in messages[:start] if message.role == "system"), *messages[start:])


def cut_ranges(n_tokens: int, n_ctx: int, n_keep: int) -> list[tuple[int, int]]:
    """Half-open token ranges to keep: the first `n_keep` (negative = as many as may be), and the end of the prompt.

    Half of what is not kept is left free, so that the answer has room to grow before the context is full again.
    """
    most = max(0, n_ctx - 4)
    keep = most if n_keep < 0 else min(n_keep, most)
    total = n_ctx - max((n_ctx - keep) // 2, 1)
    return [(0, keep), (n_tokens - (total - keep), n_tokens)]
