"""Workloads that start servers themselves: a restart with what was kept on disk, HTTP beside the engine in-process."""

from __future__ import annotations

import asyncio
import dataclasses
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.concurrent_requests import N_TURNS
from benchmarks.load import Stream, Target, UnsupportedByPeerError, complete, tokens_per_s
from benchmarks.peers.base import Peer, Setup
from benchmarks.workload import LONG, Figures, text

if TYPE_CHECKING:
    from donabe import AsyncLLM
    from donabe.llm.results import Chunk

N_HTTP_PAIRS = 4
SETUP = Setup(guesses=False)


def restart(peer: Peer, model: Path, seed: int) -> Figures:
    """Time to first token of a prompt of about 2,000 tokens, cold and after the server was stopped and started."""
    if not peer.can_restart:
        raise UnsupportedByPeerError(f"{peer.name} can't be restarted from here")
    prompt = text(1400, seed)
    with tempfile.TemporaryDirectory() as home:
        setup = dataclasses.replace(LONG, home=Path(home))
        ttfts = []
        for warm_up in range(2):
            with peer.start(model, setup) as target:
                asyncio.run(complete(target, text(5, seed + 1 + warm_up), 8))
                ttfts.append(asyncio.run(complete(target, prompt, 4)).ttft_s)
    cold, warm = ttfts
    return {"restart cold ttft s": cold, "restart warm ttft s": warm, "restart warm / cold": warm / cold}


def http_overhead(peer: Peer, model: Path, seed: int) -> Figures:
    """W1 and W2 through HTTP beside the same in-process, in alternating pairs; figures are medians of the ratios.

    Without prompt lookup, whose guesses depend on what each engine has measured before.
    """
    if peer.name != "donabe":
        raise UnsupportedByPeerError(f"{peer.name} has no engine in-process here")
    with peer.start(model, SETUP) as target:
        return asyncio.run(_compare_with_engine(target, model, seed))


async def _compare_with_engine(target: Target, model: Path, seed: int) -> Figures:
    from donabe import AsyncLLM

    n_ctx = SETUP.n_ctx // SETUP.n_parallel
    async with AsyncLLM(
        model, n_parallel=SETUP.n_parallel, n_ctx_per_request=n_ctx, prefix_cache_disk_bytes=0, n_draft_max=0
    ) as llm:
        ways: dict[str, Ask] = {
            "http": lambda prompt, n: complete(target, prompt, n),
            "engine": lambda prompt, n: _complete_in_process(llm, prompt, n),
        }
        for ask in ways.values():
            await ask(text(6, seed), 16)
        ratios: dict[str, list[float]] = {"W1": [], "W2": []}
        for pair in range(N_HTTP_PAIRS):
            order = list(ways) if pair % 2 == 0 else list(ways)[::-1]
            for name, n_streams in (("W1", 1), ("W2", 8)):
                rates = {way: await _rate(ways[way], n_streams, seed + 100 * (pair + 1) + n_streams) for way in order}
                ratios[name].append(rates["http"] / rates["engine"])
    return {f"http {name} / engine": statistics.median(found) for name, found in ratios.items()}


Ask = Callable[[str, int], Awaitable[Stream]]


async def _rate(ask: Ask, n_streams: int, seed: int) -> float:
    """Tokens per second: of single streams between first and last token, of several at once over the wall time."""
    if n_streams == 1:
        return tokens_per_s([await ask(text(8, seed + i), 128) for i in range(N_TURNS)])
    started = time.perf_counter()
    streams = await asyncio.gather(*[ask(text(12, seed + i), 64) for i in range(n_streams)])
    return sum(stream.n_tokens for stream in streams) / (time.perf_counter() - started)


async def _complete_in_process(llm: AsyncLLM, prompt: str, max_tokens: int) -> Stream:
    stream = Stream(time.perf_counter())
    chunks: AsyncIterator[Chunk] = await llm.generate(
        prompt, stream=True, max_tokens=max_tokens, temperature=0.0, seed=1, ignore_eos=True
    )
    async for chunk in chunks:
        if chunk.text:
            stream.times.append(time.perf_counter())
    stream.n_tokens = max_tokens
    return stream
