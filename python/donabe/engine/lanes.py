"""Which sequence is bound to which id of the native sampler set. A lane is a sequence id with a sampler on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from donabe.engine.intake import output_limits
from donabe.engine.plan import Moved
from donabe.engine.sequence import Sequence

if TYPE_CHECKING:
    from donabe._core import SamplerSet


class Lanes:
    """Binds, moves and unbinds samplers; `sequences[seq_id]` is the bound sequence or None."""

    def __init__(self, samplers: SamplerSet, native: Any, n_seq_max: int) -> None:
        self._samplers = samplers
        self._native = native
        self.sequences: list[Sequence | None] = [None] * n_seq_max

    def bind(self, sequence: Sequence) -> None:
        """The sequence was admitted: with its fresh sampler, or with the state it had when it was preempted."""
        seq_id = sequence.seq_id
        if sequence.output_state is not None:
            self._samplers.restore(seq_id, sequence.output_state)
            sequence.output_state = None
        else:
            assert sequence.sampler is not None
            limits = output_limits(self._native, sequence.call.request, sequence.n_output_max)
            self._samplers.bind(seq_id, sequence.sampler, limits)
            sequence.sampler = None
        self.sequences[seq_id] = sequence

    def unbind(self, seq_id: int) -> bytes:
        """Returns text that was held back. An id that is not bound (not admitted yet) has none."""
        if self.sequences[seq_id] is None:
            return b""
        self.sequences[seq_id] = None
        return self._samplers.unbind(seq_id)

    def export(self, sequence: Sequence, seq_id: int) -> None:
        """Keep sampler and output state with the sequence, which has left the pool."""
        self.sequences[seq_id] = None
        sequence.output_state = self._samplers.export(seq_id)

    def move(self, moves: list[Moved]) -> None:
        states = [(move, self._samplers.export(move.old_id)) for move in moves]
        for move, _ in states:
            self.sequences[move.old_id] = None
        for move, state in states:
            self._samplers.restore(move.new_id, state)
            self.sequences[move.new_id] = move.sequence
