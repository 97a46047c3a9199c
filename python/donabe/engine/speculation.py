"""Whether to guess the next tokens, and how many: by prompt lookup (what followed the same few tokens earlier in the
sequence), or with a draft model (`draft_model`).

A guess costs a row in the step, which is nearly free where a step waits for memory (GPUs, large models) and nearly a
full token where it waits for arithmetic. So both are measured, what rows cost and how often a sequence's guesses are
right, and guesses are made only while they raise the tokens per second. The sampler decides about every token, so the
output does not depend on the guesses: same seed, same text. The draft model's own time counts as cost, too.
Reference: Saxena, "Prompt Lookup Decoding" (2023).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np

from donabe.engine.tokens import Int32Array

if TYPE_CHECKING:
    from donabe.engine.sequence import Sequence

N_GRAM = 3  # tokens that must repeat for a guess
PAUSE_TOKENS = 64  # output tokens without guesses after guesses did not pay
MAX_PAUSE_DOUBLINGS = 5  # each pause in a row is twice as long as the one before
MAX_FED_PER_TOKEN = 16  # tokens a draft model may have to be fed for each token that may still be generated
PROBE = 2  # guesses to try where the cost of a wider step is not known yet
FIRST_RATE = 0.7  # acceptance before anything is known
_LEARN = 0.25  # weight of the newest guess in the acceptance rate
_MIN_GAIN = 1.03  # tokens per second with guesses over those without

UNLIMITED = 1 << 30

StepTime = Callable[[int], "float | None"]  # rows -> seconds


class Drafter:
    """What one sequence has learnt about its guesses."""

    __slots__ = ("n_paused_until", "n_pauses", "rate")

    def __init__(self, rate: float = FIRST_RATE) -> None:
        self.rate = rate  # share of guessed tokens that were right, moving average
        self.n_paused_until = 0
        self.n_pauses = 0  # since all guesses of a step were right

    def observe(self, n_drafted: int, n_accepted: int) -> None:
        self.rate += _LEARN * (n_accepted / n_drafted - self.rate)
        if n_accepted == n_drafted:
            self.n_pauses = 0

    def pause(self, n_output: int) -> None:
        """Guesses don't pay now; look again later, with some hope."""
        self.n_paused_until = n_output + (PAUSE_TOKENS << min(self.n_pauses, MAX_PAUSE_DOUBLINGS))
        self.n_pauses += 1
        self.rate = max(self.rate, 0.5)


class Guesses(Protocol):
    """What the policy needs to know of the draft model."""

    is_on: bool

    def round_s(self, n_sequences: int) -> float | None: ...

    def n_room(self, sequence: Sequence) -> int: ...


class Speculation:
    """Draft policy of one engine."""

    def __init__(
        self, n_draft_max: int, step_time: StepTime, model: Guesses | None = None, n_ctx: int = 1 << 30
    ) -> None:
        self._n_draft_max = n_draft_max
        self._n_ctx = n_ctx  # of a sequence: whatever is right, no step goes beyond it
        self._step_time = step_time
        self._model = model
        self._model_rate = FIRST_RATE  # of all sequences: what a new one may expect
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
        n_max = min(self._n_draft_max, n_spare, self._n_left(sequence))
        if n_max <= 0 or (sequence.guesser is not None and sequence.guesser.rate > drafter.rate and self.has_model):
            return None
        n_guesses = best_length(drafter.rate, n_rows, n_max, self._step_time)
        if n_guesses == 0:
            drafter.pause(n_output)
            return None
        found = find_repeat(sequence.buffer.view(), n_guesses)
        if found is None:
            return None
        return np.concatenate((sequence.buffer.view(sequence.n_total - 1), found))

    def n_plain_steps(self, sequence: Sequence) -> tuple[int, bool]:
        """For how many tokens a sequence without a guess in this step needs none, unless it repeats itself before.

        The second says whether to look for that.
        """
        drafter = sequence.drafter
        if not self.is_on or drafter is None:
            return UNLIMITED, False
        n_plain, is_watched = drafter.n_paused_until - sequence.n_output, False
        if n_plain <= 0:
            n_plain, is_watched = UNLIMITED, True
        if self.has_model and sequence.guesser is not None:
            n_plain = min(n_plain, max(sequence.guesser.n_paused_until - sequence.n_output, 1))
        return n_plain, is_watched

    @property
    def has_model(self) -> bool:
        return self._model is not None and self._model.is_on

    def model_lengths(self, sequences: list[Sequence], n_rows: int, n_spare: int) -> list[int]:
        """How many tokens the draft model shall guess for each; one length for all it can, because they share steps."""
        most = [self._model_most(sequence) for sequence in sequences]
        rates = [s.guesser.rate for s, n in zip(sequences, most, strict=True) if n and s.guesser is not None]
        if not rates or self._model is None:
            return [0] * len(sequences)
        n_max = min(max(most), n_spare // len(rates))
        if n_max <= 0:
            return [0] * len(sequences)
        length = best_depth(rates, n_rows, n_max, self._step_time, self._model.round_s(len(rates)))
        if length == 0 and self._step_time(n_rows) is not None:
            for sequence, n in zip(sequences, most, strict=True):
                if n and sequence.guesser is not None:
                    sequence.guesser.pause(sequence.n_output)
        return [min(length, n) for n in most]

    def _model_most(self, sequence: Sequence) -> int:
        assert self._model is not None
        if sequence.guesser is None:
            sequence.guesser = Drafter(self._model_rate)
        n_left = self._n_left(sequence)
        if sequence.n_output == 0 or sequence.n_output < sequence.guesser.n_paused_until:
            return 0
        if sequence.n_drafted == 0 and sequence.n_total > MAX_FED_PER_TOKEN * n_left:
            return 0
        return max(0, min(self._n_draft_max, n_left, self._model.n_room(sequence)))

    def _n_left(self, sequence: Sequence) -> int:
        """Tokens that may come before the last one that the sequence or its context can take."""
        return min(sequence.n_output_max - sequence.n_output, self._n_ctx - sequence.n_total) - 1

    def observe(self, sequence: Sequence, n_drafted: int, n_accepted: int, *, is_model: bool) -> None:
        """Learn from a step that verified guesses."""
        drafter = sequence.guesser if is_model else sequence.drafter
        if drafter is not None:
            drafter.observe(n_drafted, n_accepted)
        if is_model:
            self._model_rate += _LEARN * 0.2 * (n_accepted / n_drafted - self._model_rate)


def best_length(rate: float, n_rows: int, n_max: int, step_time: StepTime) -> int:
    """`best_depth` of one sequence whose guesses cost nothing."""
    return best_depth([rate], n_rows, n_max, step_time, 0.0)


def best_depth(rates: list[float], n_rows: int, n_max: int, step_time: StepTime, guess_s: float | None) -> int:
    """How many guesses for each sequence bring the most tokens per second.

    A guess is right with chance `rate` if those before it are. A step with k guesses for each of m sequences takes
    step_time(n_rows + m * k) + k * guess_s and gives n_rows + the sum of rate + rate**2 + ... + rate**k over them.
    """
    base = step_time(n_rows)
    if base is None:
        return 0
    if guess_s is None:
        return min(PROBE, n_max)
    best, best_speed = 0, n_rows / base * _MIN_GAIN
    n_tokens, chances = float(n_rows), [1.0] * len(rates)
    for k in range(1, n_max + 1):
        chances = [chance * rate for chance, rate in zip(chances, rates, strict=True)]
        n_tokens += sum(chances)
        verify_s = step_time(n_rows + k * len(rates))
        if verify_s is None:
            return min(PROBE, n_max)
        duration = verify_s + k * guess_s
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
