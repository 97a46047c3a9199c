"""What the scheduler decided for one step. Applying it is the engine's job; counters move only when it succeeded."""

from __future__ import annotations

from dataclasses import dataclass, field

from donabe.engine.sequence import Sequence
from donabe.engine.tokens import Int32Array
from donabe.types import FinishReason


@dataclass(slots=True)
class Chunk:
    """Prompt tokens [n_computed, n_computed + n_tokens) of a sequence; `is_last` reaches its end, so it samples."""

    sequence: Sequence
    n_tokens: int
    is_last: bool


@dataclass(slots=True)
class Draft:
    """A decode row with guessed tokens after it: tokens[0] is the known one. `is_model`: a draft model guessed."""

    sequence: Sequence
    tokens: Int32Array
    is_model: bool = False


@dataclass(slots=True)
class Moved:
    """A running sequence has another id now."""

    sequence: Sequence
    old_id: int
    new_id: int


@dataclass(slots=True)
class Plan:
    """One step, or a burst of equal ones. The sampler set has to follow `moved`, `preempted`, `ended`, `admitted`, in
    this order.

    `n_steps`: plain decode rows alone may go on for so many steps in one native call (see `bursts`), until `max_s` s
    have passed or a sequence of `watched` repeats itself. `guessing`: decode rows for which the draft model is asked
    for so many tokens; they end in `drafts` or `decode`.
    """

    moved: list[Moved] = field(default_factory=list)
    preempted: list[tuple[Sequence, int]] = field(default_factory=list)  # with the id each had
    ended: list[tuple[Sequence, int, FinishReason]] = field(default_factory=list)
    admitted: list[Sequence] = field(default_factory=list)
    decode: list[Sequence] = field(default_factory=list)
    drafts: list[Draft] = field(default_factory=list)
    guessing: list[tuple[Sequence, int]] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)
    n_steps: int = 1
    max_s: float = 0.0
    watched: list[Sequence] = field(default_factory=list)

    @property
    def n_rows(self) -> int:
        """Rows that belong to sequences which are decoding, drafted ones included."""
        return len(self.decode) + sum(len(draft.tokens) for draft in self.drafts)

    @property
    def n_step_rows(self) -> int:
        """`n_rows`, and those for which the draft model is still to be asked."""
        return self.n_rows + sum(1 + n for _, n in self.guessing)

    @property
    def n_prefill(self) -> int:
        return sum(chunk.n_tokens for chunk in self.chunks)

    @property
    def is_empty(self) -> bool:
        return not (self.decode or self.drafts or self.guessing or self.chunks)
