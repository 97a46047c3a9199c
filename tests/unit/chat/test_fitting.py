"""Fitting: what is dropped from a conversation, what is cut from tokens."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from donabe.chat import fitting
from donabe.types import Message


def conversation(text: str) -> tuple[Message, ...]:
    """`s u a u`: one message a letter, each with two tokens."""
    roles = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return tuple(Message(role=roles[letter], content=f"{letter}{i}") for i, letter in enumerate(text.split()))


def attempt(messages: Sequence[Message]) -> tuple[str, list[int]]:
    return " ".join(message.content for message in messages), [0] * (2 * len(messages))


@pytest.mark.parametrize(
    ("text", "limit", "kept", "n_dropped"),
    [
        ("s u a u a u", 11, "s0 u3 a4 u5", 2),
        ("s u a u a u", 7, "s0 u5", 4),
        ("s u a u a u", 4, "s0 u5", 4),
        ("s u a u a u", 3, "s0 u5", 4),  # even the shortest does not fit: it is given, for the caller to cut
        ("u a s u a u", 9, "s2 u3 a4 u5", 2),  # a system message in the middle stays
        ("u a t a u a", 11, "u4 a5", 4),
        ("u", 1, "u0", 0),
        ("s a a", 5, "s0 a2", 1),  # no user to begin with: the last message
    ],
)
def test_oldest_messages_go_and_system_and_last_stay(text: str, limit: int, kept: str, n_dropped: int) -> None:
    rendered, _, dropped = fitting.drop_oldest(conversation(text), attempt, limit)
    assert (rendered, dropped) == (kept, n_dropped)


@given(st.lists(st.sampled_from("suat"), min_size=1, max_size=30), st.integers(1, 60))
def test_longest_fitting_tail_is_found(letters: list[str], limit: int) -> None:
    messages = conversation(" ".join(letters))
    _, tokens, _ = fitting.drop_oldest(messages, attempt, limit)
    lengths = [len(attempt(fitting.tail_of(messages, start))[1]) for start in fitting.candidate_starts(messages)]
    fits = [n for n in lengths if n <= limit]
    assert len(tokens) == (max(fits) if fits else min(lengths))


@given(st.integers(8, 5000), st.integers(-1, 6000), st.integers(1, 9000))
def test_cut_keeps_front_and_end_and_leaves_room(n_ctx: int, n_keep: int, more: int) -> None:
    n_tokens = n_ctx + more
    (start, keep), (tail, end) = fitting.cut_ranges(n_tokens, n_ctx, n_keep)
    assert (start, end) == (0, n_tokens)
    assert keep <= tail < end
    assert 1 <= keep + (end - tail) <= fitting.prompt_limit(n_ctx)
    if 0 <= n_keep <= n_ctx - 4:
        assert keep == n_keep
