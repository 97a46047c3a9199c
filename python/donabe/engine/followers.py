"""Leaders and followers: a prompt that begins like one whose prefill is under way waits for it and forks then; and the
cuts, where chunks of a prompt end because a fork may need the state there. Policy only, no native calls.
"""

from __future__ import annotations

from collections.abc import Iterable

from donabe.engine.kinds import MemoryKind
from donabe.engine.prefix_cache import MIN_CHECKPOINT_TOKENS
from donabe.engine.sequence import Sequence, State
from donabe.engine.tokens import common_prefix

MIN_FOLLOW_TOKENS = 32  # waiting for another's prefill must save at least so many prompt tokens
CUT_SPACING = 256  # between two checkpoint positions of a prompt
CUT_EVERY = 4096  # checkpoints inside long messages


def is_following(sequence: Sequence) -> bool:
    """Still waiting for another sequence's prefill to reach their common prefix."""
    if sequence.following is None:
        return False
    leader, position = sequence.following
    if leader.state is State.RUNNING and leader.n_computed < position <= leader.n_total:
        return True
    sequence.following = None
    return False


def follow(sequence: Sequence, running: Iterable[Sequence], k: int, limit: int, kind: MemoryKind) -> bool:
    """Wait for a running prefill that will cover clearly more of the prompt than the k tokens in the pool now."""
    if not kind.shares:
        return False
    tokens = sequence.buffer.view(0, limit)
    best: tuple[int, Sequence] | None = None
    for leader in running:
        if leader.n_remaining > 1 and leader.call.key == sequence.call.key:
            position = common_prefix(tokens, leader.buffer.view())
            if position >= k + MIN_FOLLOW_TOKENS and position > max(leader.n_computed, best[0] if best else 0):
                best = (position, leader)
    if best is None:
        return False
    position, leader = best
    if kind.wants_checkpoints:
        leader.add_cut(position)
    sequence.following = (leader, position)
    return True


def add_cuts(sequence: Sequence, kind: MemoryKind) -> None:
    """Where chunks of this prompt must end because a later fork may need the state there."""
    if not kind.wants_checkpoints:
        return
    end = sequence.n_total - 1
    if end < MIN_FOLLOW_TOKENS or sequence.n_output:
        return
    sequence.add_cut(end)
    boundaries = [b for b in sequence.call.request.boundaries if MIN_CHECKPOINT_TOKENS <= b < end]
    for position in sorted({*boundaries, *range(CUT_EVERY, end, CUT_EVERY)}, reverse=True):
        if end - position >= CUT_SPACING:
            sequence.add_cut(position)
            end = position
    if boundaries:
        sequence.add_cut(boundaries[0])
