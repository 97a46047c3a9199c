"""How many prompt tokens a step may take, learnt from how long steps took. No clock here: times are handed in.

Model of a step: t = t_decode(rows) + cost * prompt_tokens. t_decode is measured on steps without prompt tokens, cost
on the others; both follow the machine's load within a few steps, upwards faster than downwards. A step without rows
still reads all weights once, as one with a single row does: else a short prompt would make tokens look dear.
"""

from __future__ import annotations

DEFAULT_LATENCY_S = 0.15
MIN_CHUNK = 16  # progress is guaranteed, however slow the machine
FIRST_CHUNK = 32  # before anything is measured
MIN_COPY_S = 0.002  # likewise for copies of states
MIN_PREFILL_STEP = 128  # smaller steps waste the matrix kernels
ROW_TIMES_KEPT_STEPS = 500
_SAFETY = 0.92  # of the bound: a step also costs Python and delivery
_GRAIN = 8  # chunk sizes are multiples of this ...
_STICKY = 0.2  # ... and change only for more than this fraction, so that compute graphs can be reused


class StepBudget:
    """Step times seen so far, and the chunk size that follows."""

    def __init__(self, n_batch: int, max_step_latency_s: float | None, max_prefill_step_s: float) -> None:
        self._n_batch = n_batch
        self._max_step_latency_s = max_step_latency_s
        self._max_prefill_step_s = max_prefill_step_s
        self._decode_s: dict[int, float] = {}  # rows -> seconds
        self._cost_s = 0.0  # of one prompt token; 0 = not measured
        self._last_chunk = 0

    @property
    def prefill_cost_s(self) -> float:
        return self._cost_s

    def decode_s(self, n_rows: int) -> float:
        """Expected time of a step of n_rows decode rows and nothing else; 0 when none was seen."""
        if n_rows <= 0 or not self._decode_s:
            return 0.0
        known = self._decode_s.get(n_rows)
        if known is not None:
            return known
        nearest = min(self._decode_s, key=lambda rows: abs(rows - n_rows))
        return self._decode_s[nearest] * max(1.0, n_rows / nearest)

    def latency_bound_s(self, n_rows: int) -> float:
        if self._max_step_latency_s is not None:
            return self._max_step_latency_s
        return max(DEFAULT_LATENCY_S, 2 * self.decode_s(n_rows))

    def copy_s(self, n_decode: int) -> float:
        """Seconds that copies may take of a step with n_decode decode rows and the smallest chunk."""
        return max(self._spare_s(n_decode) - MIN_CHUNK * self._cost_s, MIN_COPY_S)

    def _spare_s(self, n_decode: int) -> float:
        return self.latency_bound_s(n_decode) * _SAFETY - self.decode_s(n_decode)

    def prefill_tokens(self, n_decode: int, copy_s: float = 0.0) -> int:
        """Prompt tokens the next step may take beside n_decode decode rows and copy_s seconds of copies."""
        room = self._n_batch - n_decode
        if room <= 0:
            return 0
        if n_decode == 0:
            return min(room, self._unhurried())
        if not self._cost_s:
            return min(room, FIRST_CHUNK)
        chunk = int((self._spare_s(n_decode) - copy_s) / self._cost_s) // _GRAIN * _GRAIN
        chunk = max(chunk, MIN_CHUNK)
        if copy_s:
            return min(room, chunk)
        if abs(chunk - self._last_chunk) <= _STICKY * self._last_chunk and chunk >= self._last_chunk:
            chunk = self._last_chunk
        self._last_chunk = chunk
        return min(room, chunk)

    def _unhurried(self) -> int:
        if not self._cost_s:
            return self._n_batch
        return max(MIN_PREFILL_STEP, int(self._max_prefill_step_s / self._cost_s))

    def observe(self, n_decode: int, n_prefill: int, step_s: float) -> None:
        """Learn from one step."""
        if step_s <= 0:
            return
        if n_prefill == 0:
            self._decode_s[n_decode] = _follow(self._decode_s.get(n_decode, 0.0), step_s)
        elif n_prefill >= MIN_CHUNK // 2:
            cost_s = max(step_s - self.decode_s(max(n_decode, 1)), step_s * 0.1) / n_prefill
            self._cost_s = _follow(self._cost_s, cost_s)


class RowTimes:
    """What steps of so many decode rows and nothing else take, Python included: for choosing draft lengths.

    Good and bad news weigh the same: times of bursts are means, and those of single steps must not look better than
    they are beside them. A single disturbed step counts little. Old news is forgotten, so that a length that once
    seemed too slow is tried again.
    """

    def __init__(self) -> None:
        self._times: dict[int, tuple[float, int]] = {}  # rows -> (seconds, step of the last measurement)
        self._n_steps = 0

    def observe(self, n_rows: int, step_s: float, n_steps: int = 1) -> None:
        """`n_steps` equal steps took `step_s` each."""
        self._n_steps += n_steps
        old, _ = self._times.get(n_rows, (step_s, 0))
        self._times[n_rows] = (old + 0.3 * (min(step_s, 1.25 * old) - old), self._n_steps)

    def __call__(self, n_rows: int) -> float | None:
        """By interpolation between measured ones; None where nothing allows a guess."""
        points = sorted((n, t) for n, (t, seen) in self._times.items() if self._n_steps - seen < ROW_TIMES_KEPT_STEPS)
        for n, known in points:
            if n == n_rows:
                return known
        if len(points) < 2:
            return None
        above = next((i for i, (n, _) in enumerate(points) if n > n_rows), len(points) - 1)
        (n0, time0), (n1, time1) = points[max(above, 1) - 1], points[max(above, 1)]
        return max(time0 + (time1 - time0) * (n_rows - n0) / (n1 - n0), 1e-6)


def _follow(old: float, new: float) -> float:
    """Moving average that believes bad news sooner than good news, but a single outlier only in part."""
    if not old:
        return new
    new = min(new, 2 * old)
    weight = 0.6 if new > old else 0.25
    return old + weight * (new - old)
