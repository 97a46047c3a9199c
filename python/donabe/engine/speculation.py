"""Prompt lookup: guess the next tokens from what followed the same few tokens earlier in the sequence.

A guess costs a row in the step, which is nearly free where a step waits for memory (GPUs, large models) and nearly a
full token where it waits for arithmetic. So both are measured, what rows cost and how often a sequence's guesses are
right, and guesses are made only while they raise the tokens per second. The sampler decides about every token, so the
output does not depend on the guesses: same seed, same text.
Reference: Saxena, "Prompt Lookup Decoding" (2023).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from donabe.engine.tokens import Int32Array

if TYPE_CHECKING:
    from donabe.engine.sequence import Sequence

N_GRAM = 3  # tokens that must repeat for a guess
PAUSE_TOKENS = 64  # output tokens without guesses after guesses did not pay
PROBE = 2  # guesses to try where the cost of a wider step is not known yet
_LEARN = 0.25  # weight of the newest guess in the acceptance rate
_MIN_GAIN = 1.03  # tokens per second with guesses over those without

StepTime = Callable[[int], "float | None"]  # rows -> seconds


class Drafter:
    """What one sequence has learnt about its guesses."""

    __slots__ = ("n_paused_until", "rate")

    def __init__(self) -> None:
        self.rate = 0.7  # share of guessed tokens that were right, moving average
        self.n_paused_until = 0

    def observe(self, n_drafted: int, n_accepted: int) -> None:
        self.rate += _LEARN * (n_accepted / n_drafted - self.rate)

    def pause(self, n_output: int) -> None:
        """Guesses don't pay now; look again later, with some hope."""
        self.n_paused_until = n_output + PAUSE_TOKENS
        self.rate = max(self.rate, 0.5)


class Speculation:
    """Draft policy of one engine."""

    def __init__(self, n_draft_max: int, step_time: StepTime) -> None:
        self._n_draft_max = n_draft_max
        self._step_time = step_time
        self.is_on = n_draft_max > 0

    def draft(self, sequence: Sequence, n_rows: int, n_spare: int) -> Int32Array | None:
        """The last known token and guesses after it, int32; None when a plain row is better.

        `n_rows` rows are in the step without them, `n_spare` more fit.
        """
        drafter = sequence.drafter
        if drafter is None:
            drafter = sequence.drafter = Drafter()
        n_output = sequence.n_output
        if n_output == 0 or n_output < drafter.n_paused_until:
            return None
        n_max = min(self._n_draft_max, n_spare, sequence.n_output_max - n_output - 1)
        if n_max <= 0:
            return None
        n_guesses = best_length(drafter.rate, n_rows, n_max, self._step_time)
        if n_guesses == 0:
            drafter.pause(n_output)
            return None
        found = find_repeat(sequence.buffer.view(), n_guesses)
        if found is None:
            return None
        return np.concatenate((sequence.buffer.view(sequence.n_total - 1), found))


def best_length(rate: float, n_rows: int, n_max: int, step_time: StepTime) -> int:
    """How many guesses bring the most tokens per second, when each is right with chance `rate` if those before it are.

    A step of n_rows + k rows takes step_time(n_rows + k) and gives n_rows + rate + rate**2 + ... + rate**k tokens.
    """
    base = step_time(n_rows)
    if base is None:
        return 0
    best, best_speed = 0, n_rows / base * _MIN_GAIN
    n_tokens, chance = float(n_rows), 1.0
    for k in range(1, n_max + 1):
        chance *= rate
        n_tokens += chance
        duration = step_time(n_rows + k)
        if duration is None:
            return min(PROBE, n_max)
        if n_tokens / duration > best_speed:
            best, best_speed = k, n_tokens / duration
    return best


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
