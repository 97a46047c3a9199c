"""The workloads W1 to W4 of benchmarks/README.md: each takes a target and returns named figures.

Prompts are random words from fixed seeds, different for every repetition, so that no answer comes from a cache unless
the workload is about sharing.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable

from benchmarks.load import Stream, Target, complete

WORDS = (
    "river stone lantern market copper violet engine harvest window thunder pepper castle orbit velvet marble signal "
    "garden winter ladder candle bridge falcon mirror island ribbon"
).split()

Figures = dict[str, float]


def text(n_words: int, seed: int) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(n_words))


async def w1_one_stream(target: Target, seed: int) -> Figures:
    stream = await complete(target, "Once upon a time " + text(6, seed), 128)
    # Chunks can carry more than one token, so count tokens, not chunks; the first token's time is the start.
    return {"W1 tok/s": (stream.n_tokens - 1) / (stream.times[-1] - stream.times[0])}


async def w2_eight_streams(target: Target, seed: int) -> Figures:
    started = time.perf_counter()
    streams = await asyncio.gather(*[complete(target, text(12, seed + i), 64) for i in range(8)])
    return {"W2 tok/s": sum(s.n_tokens for s in streams) / (time.perf_counter() - started)}


async def w3_shared_prompt(target: Target, seed: int) -> Figures:
    prefix = "You are a careful assistant. Context: " + text(900, seed)
    started = time.perf_counter()
    prompts = [f"{prefix} Question: {text(15, seed + 100 + i)}" for i in range(8)]
    streams = await asyncio.gather(*[complete(target, p, 32) for p in prompts])
    wall = time.perf_counter() - started
    return {"W3 wall s": wall, "W3 ttft s": statistics.mean(s.ttft_s for s in streams)}


async def w4_long_arrival(target: Target, seed: int) -> Figures:
    async def late() -> Stream:
        await asyncio.sleep(1.0)
        return await complete(target, text(1100, seed), 4)

    running = [complete(target, text(10, seed + 1 + i), 160) for i in range(2)]
    *streams, long = await asyncio.gather(*running, late())
    gaps = [b - a for s in streams for a, b in zip(s.times, s.times[1:], strict=False)]
    solo = await complete(target, text(1100, seed + 50), 4)
    return {"W4 worst gap s": max(gaps), "W4 long ttft s": long.ttft_s, "W4 ttft / solo": long.ttft_s / solo.ttft_s}


WORKLOADS: dict[str, Callable[[Target, int], Awaitable[Figures]]] = {
    "W1": w1_one_stream,
    "W2": w2_eight_streams,
    "W3": w3_shared_prompt,
    "W4": w4_long_arrival,
}
