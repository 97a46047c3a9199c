"""What the sampler must do, in plain numpy and Python: full sorts, double precision, one step after another."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Row = npt.NDArray[np.float32]


DRAW_TOLERANCE = 3e-6  # of a cumulative share of the mass: float32 sums of up to 152k terms


@dataclass(frozen=True)
class Distribution:
    """What is left of a row, the order it is drawn in, and cumulative shares.

    Attributes:
        is_at_cut: Rounding may move a cut past a token whose share is not lost in the tolerance.
    """

    tokens: npt.NDArray[np.int64]
    mass: npt.NDArray[np.float64]
    is_at_cut: bool

    def ranks(self, uniforms: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Where in `tokens` these draws fall: first and last place that rounding leaves open, mostly the same one."""
        first = np.searchsorted(self.mass, uniforms - DRAW_TOLERANCE, side="right")
        last = np.searchsorted(self.mass, uniforms + DRAW_TOLERANCE, side="right")
        return np.minimum(first, len(self.mass) - 1), np.minimum(last, len(self.mass) - 1)

    def allowed(self, uniform: float) -> npt.NDArray[np.int64]:
        """The token of this draw, and its neighbours where the draw is as near to them as rounding reaches."""
        first, last = self.ranks(np.array([uniform]))
        return self.tokens[first[0] : last[0] + 1]


def adjust(row: Row, history: Sequence[int], *, repeat: float, presence: float, frequency: float, last_n: int) -> Row:
    """Penalties as llama.cpp defines them."""
    adjusted = row.copy()
    for token, count in Counter(history[-last_n:]).items():
        logit = np.float32(adjusted[token])
        logit = logit * np.float32(repeat) if logit <= 0 else logit / np.float32(repeat)
        adjusted[token] = logit - np.float32(count * frequency) - np.float32(presence)
    return adjusted


def distribution(
    row: Row, *, temperature: float, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> Distribution:
    """Full sort, then top_k, top_p, min_p, temperature."""
    logits = row.astype(np.float64)
    has_cut = top_k > 0 or top_p < 1 or min_p > 0
    order = np.lexsort((np.arange(len(row)), -logits)) if has_cut else np.arange(len(row))
    order = order[np.isfinite(logits[order])]
    is_at_cut = False
    if top_k > 0:
        order = order[:top_k]
    if top_p < 1:
        # A token more or less at this cut moves every share by no more than its own.
        shares = softmax(logits[order])
        mass = np.cumsum(shares)
        is_at_cut = bool(np.any((np.abs(mass - top_p) < 1e-6) & (shares > DRAW_TOLERANCE)))
        order = order[: int(np.searchsorted(mass, top_p)) + 1]
    if min_p > 0:
        bar = logits[order[0]] + math.log(min_p)
        is_at_cut |= bool(np.any(np.abs(logits[order] - bar) < 1e-5))
        order = order[logits[order] >= bar]
    return Distribution(order, np.cumsum(softmax(logits[order] / temperature)), is_at_cut)


def softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def uniforms(seed: int, n: int) -> npt.NDArray[np.float64]:
    """The sampler's draws: 53 bits of a Mersenne Twister, which is numpy's legacy generator."""
    return np.random.RandomState(seed).random_sample(n)


def cut_at_stop(text: bytes, stops: Sequence[bytes]) -> tuple[bytes, int]:
    """Text before the stop string completed first (the longest of those completed by one byte), and its index."""
    for end in range(1, len(text) + 1):
        matches = [stop for stop in stops if text[:end].endswith(stop)]
        if matches:
            longest = max(matches, key=len)
            return text[: end - len(longest)], stops.index(longest)
    return text, -1
