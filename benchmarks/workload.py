"""What a workload is: a name, how its server is set up, and a coroutine that asks a target and returns named figures.

Prompts are random words from fixed seeds, different for every repetition, so that no answer comes from a cache unless
the workload is about sharing.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.load import Target
from benchmarks.peers.base import Peer, Setup

WORDS = (
    "river stone lantern market copper violet engine harvest window thunder pepper castle orbit velvet marble signal "
    "garden winter ladder candle bridge falcon mirror island ribbon"
).split()

Figures = dict[str, float]

# One conversation at a time needs a longer context than eight short requests.
LONG = Setup(n_parallel=2, n_ctx=16384)


@dataclass(frozen=True)
class Workload:
    """Asks a server that runs.

    Attributes:
        run: Takes the target and a seed; figures are named `<workload> <what>`.
    """

    name: str
    run: Callable[[Target, int], Awaitable[Figures]]
    setup: Setup = field(default_factory=Setup)


@dataclass(frozen=True)
class Procedure:
    """Starts and stops servers itself."""

    name: str
    run: Callable[[Peer, Path, int], Figures]


def text(n_words: int, seed: int) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(n_words))
