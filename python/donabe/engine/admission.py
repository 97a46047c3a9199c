"""The waiting queue: by priority, fair between callers. Decides whose turn it is, not whether it fits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from donabe.engine.sequence import Call, Sequence


class WaitingQueue:
    """Sequences that are not in the pool: fresh ones and preempted ones."""

    def __init__(self) -> None:
        self._waiting: list[Sequence] = []
        self._calls: Counter[Call] = Counter()  # waiting sequences of each

    @property
    def n_calls(self) -> int:
        """Requests with a sequence that waits. Any thread may look."""
        return len(self._calls)

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, sequence: Sequence) -> None:
        self._waiting.append(sequence)
        self._calls[sequence.call] += 1

    def remove(self, sequence: Sequence) -> None:
        self._waiting.remove(sequence)
        self._calls[sequence.call] -= 1
        if not self._calls[sequence.call]:
            del self._calls[sequence.call]

    def clear(self) -> None:
        self._waiting.clear()
        self._calls.clear()

    def highest_priority(self) -> int:
        return max(sequence.priority for sequence in self._waiting)

    def ordered(self, running: Iterable[Sequence]) -> list[Sequence]:
        """Whose turn it is: higher priority, then preempted ones, then callers with fewer running sequences, then age.

        A caller's second waiting sequence counts its first as running, so that callers take turns within the queue.
        """
        served: Counter[str] = Counter(sequence.call.request.caller for sequence in running)
        keyed = []
        for sequence in sorted(self._waiting, key=lambda s: (not s.n_preempted, s.age)):
            caller = sequence.call.request.caller
            keyed.append((-sequence.priority, not sequence.n_preempted, served[caller], sequence))
            served[caller] += 1
        keyed.sort(key=lambda k: k[:3])
        return [k[3] for k in keyed]
