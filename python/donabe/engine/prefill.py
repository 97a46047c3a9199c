"""How the prompt tokens of a step are shared among the sequences that are prefilling."""

from __future__ import annotations

from donabe.engine.sequence import Sequence

MIN_SHARE = 16  # smallest chunk a prefilling sequence gets when several share a step


class PrefillTurns:
    """Equal shares; where a step has too few tokens for all, those whose last chunk is longest ago go first."""

    def __init__(self) -> None:
        self._n_chunks = 0

    def share(self, prefilling: list[Sequence], n_tokens: int) -> list[int]:
        """Tokens for each, oldest first; what short prompts leave over goes to the first in turn."""
        wanted = [sequence.next_cut() - sequence.n_computed for sequence in prefilling]
        share = max(MIN_SHARE, n_tokens // len(prefilling))
        turns = list(range(len(prefilling)))
        if share * len(prefilling) > n_tokens:
            turns.sort(key=lambda i: (-prefilling[i].priority, prefilling[i].prefilled_at))
        sizes = [0] * len(prefilling)
        for most in (share, n_tokens):
            for i in turns:
                size = min(most, n_tokens, wanted[i] - sizes[i])
                sizes[i] += size
                n_tokens -= size
        for i in turns:
            if sizes[i]:
                self._n_chunks += 1
                prefilling[i].prefilled_at = self._n_chunks
        return sizes
