"""Prompt lookup: guess the next tokens from what followed the same few tokens earlier in the sequence.

Costs nothing but a few more rows in the step, so it pays for texts that repeat themselves (edits, code, summaries) and
does not for others: each sequence measures how often its guesses are right, and guesses less, or pauses, when they are
not. The sampler decides about every token, so the output does not depend on the guesses: same seed, same text.
Reference: Saxena, "Prompt Lookup Decoding" (2023).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from donabe.engine.tokens import Int32Array

if TYPE_CHECKING:
    from donabe.engine.sequence import Sequence

N_GRAM = 3  # tokens that must repeat for a guess
PAUSE_TOKENS = 48  # output tokens without guesses after guesses stopped paying
_LEARN = 0.25  # weight of the newest guess in the acceptance rate
_MIN_RATE = 0.35  # below, guesses cost more than they bring


class Drafter:
    """What one sequence has learnt about its guesses."""

    __slots__ = ("n_paused_until", "rate")

    def __init__(self) -> None:
        self.rate = 0.6  # share of guessed tokens that were right, moving average
        self.n_paused_until = 0

    def observe(self, n_drafted: int, n_accepted: int, n_output: int) -> None:
        self.rate += _LEARN * (n_accepted / n_drafted - self.rate)
        if self.rate < _MIN_RATE:
            self.n_paused_until = n_output + PAUSE_TOKENS
            self.rate = 0.5  # try again then, with short guesses


class Speculation:
    """Draft policy of one engine."""

    def __init__(self, n_draft_max: int, n_parallel: int) -> None:
        self._n_draft_max = n_draft_max
        self._n_parallel = n_parallel
        self.is_on = n_draft_max > 0

    def draft(self, sequence: Sequence, n_rows: int, n_spare: int) -> Int32Array | None:
        """The last known token and guesses after it, int32; None when a plain row is better."""
        drafter = sequence.drafter
        if drafter is None:
            drafter = sequence.drafter = Drafter()
        if sequence.n_output == 0 or sequence.n_output < drafter.n_paused_until:
            return None
        n_max = min(self._length(drafter.rate, n_rows), n_spare, sequence.n_output_max - sequence.n_output - 1)
        if n_max <= 0:
            return None
        found = find_repeat(sequence.buffer.view(), n_max)
        if found is None:
            return None
        return np.concatenate((sequence.buffer.view(sequence.n_total - 1), found))

    def _length(self, rate: float, n_rows: int) -> int:
        """Guess further when guesses are mostly right; less when many sequences fill the step anyway."""
        n = self._n_draft_max if rate > 0.8 else max(1, int(self._n_draft_max * rate))
        return max(1, n // max(1, n_rows // 2))


def find_repeat(tokens: Int32Array, n_max: int) -> Int32Array | None:
    """What followed the latest earlier occurrence of the last N_GRAM tokens: at most n_max tokens, or None."""
    n = len(tokens)
    if n <= N_GRAM:
        return None
    hits = tokens[N_GRAM - 1 : n - 1] == tokens[n - 1]
    for back in range(1, N_GRAM):
        hits &= tokens[N_GRAM - 1 - back : n - 1 - back] == tokens[n - 1 - back]
    positions = np.flatnonzero(hits)
    if not len(positions):
        return None
    start = int(positions[-1]) + N_GRAM  # hits[i] belongs to the gram that ends at token i + N_GRAM - 1
    return tokens[start : start + n_max]
