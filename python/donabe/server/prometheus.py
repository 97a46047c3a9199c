"""Counters, gauges and histograms in the Prometheus text format (version 0.0.4). All on the server's event loop."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[str, ...]


class Counter:
    """A value that only grows, by label values."""

    kind = "counter"

    def __init__(self, name: str, help: str, labels: Sequence[str] = ()) -> None:
        self.name, self.help, self.labels = name, help, tuple(labels)
        self._values: dict[Labels, float] = {}

    def add(self, value: float, *labels: str) -> None:
        self._values[labels] = self._values.get(labels, 0.0) + value

    def set(self, value: float, *labels: str) -> None:
        """For values that are counted elsewhere."""
        self._values[labels] = value

    def clear(self) -> None:
        self._values.clear()

    def lines(self) -> Iterable[str]:
        for labels, value in sorted(self._values.items()):
            yield f"{self.name}{_braces(self.labels, labels)} {_number(value)}"


class Gauge(Counter):
    """A value that goes up and down."""

    kind = "gauge"


class Histogram:
    """Observed values, counted by upper bounds."""

    kind = "histogram"

    def __init__(self, name: str, help: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self.name, self.help, self.labels = name, help, tuple(labels)
        self._bounds = tuple(bounds)
        self._counts: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}

    def observe(self, value: float, *labels: str, n: int = 1) -> None:
        """Count a value, `n` times."""
        counts = self._counts.get(labels)
        if counts is None:
            counts = self._counts[labels] = [0] * (len(self._bounds) + 1)
            self._sums[labels] = 0.0
        counts[bisect_left(self._bounds, value)] += n
        self._sums[labels] += value * n

    def lines(self) -> Iterable[str]:
        for labels, counts in sorted(self._counts.items()):
            total = 0
            for bound, count in zip((*self._bounds, None), counts, strict=True):
                total += count
                edge = "+Inf" if bound is None else f"{bound:g}"
                yield f"{self.name}_bucket{_braces((*self.labels, 'le'), (*labels, edge))} {total}"
            yield f"{self.name}_sum{_braces(self.labels, labels)} {self._sums[labels]!r}"
            yield f"{self.name}_count{_braces(self.labels, labels)} {total}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _braces(names: Labels, values: Labels) -> str:
    if not names:
        return ""
    pairs = (f'{name}="{_escape(value)}"' for name, value in zip(names, values, strict=True))
    return "{" + ",".join(pairs) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def exposition(metrics: Iterable[Counter | Histogram]) -> bytes:
    """All metrics as one page; those without values are left out."""
    parts: list[str] = []
    for metric in metrics:
        lines = list(metric.lines())
        if lines:
            parts += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}", *lines]
    return ("\n".join(parts) + "\n").encode()
