"""Workloads of independent requests: W1 to W4, several completions of one prompt, embeddings, and memory."""

from __future__ import annotations

import asyncio
import statistics
import time

import psutil
from benchmarks.load import Stream, Target, UnsupportedByPeerError, complete, post, tokens_per_s
from benchmarks.workload import Figures, text

N_TURNS = 3  # as many as the repetitions of the `llama-bench` beside it
N_TEXTS = 1000
TEXTS_PER_REQUEST = 125
MIB = 1 << 20


async def w1_one_stream(target: Target, seed: int) -> Figures:
    return {"W1 tok/s": await _one_stream(target, seed)}


async def w1_plain(target: Target, seed: int) -> Figures:
    """W1 where donabe guesses no tokens. Other programs do not by default."""
    if target.guesses:
        raise UnsupportedByPeerError(f"{target.name} has no guesses to turn off: see W1")
    return {"W1 plain tok/s": await _one_stream(target, seed)}


async def _one_stream(target: Target, seed: int) -> float:
    prompts = ["Once upon a time " + text(6, seed + i) for i in range(N_TURNS)]
    return tokens_per_s([await complete(target, prompt, 128) for prompt in prompts])


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

    running = [complete(target, text(10, seed + 1 + i), 640) for i in range(2)]
    *streams, long = await asyncio.gather(*running, late())
    gaps = [b - a for s in streams for a, b in zip(s.times, s.times[1:], strict=False)]
    solo = await complete(target, text(1100, seed + 50), 4)
    return {"W4 worst gap s": max(gaps), "W4 long ttft s": long.ttft_s, "W4 ttft / solo": long.ttft_s / solo.ttft_s}


async def n8_one_prompt(target: Target, seed: int) -> Figures:
    """Eight completions of one prompt of about 430 tokens, in one reply."""
    body = {"model": target.model, "prompt": text(300, seed), "max_tokens": 32, "n": 8, "temperature": 0.8}
    started = time.perf_counter()
    reply = await post(target, "/v1/completions", body)
    wall = time.perf_counter() - started
    if len(reply["choices"]) != 8:
        raise UnsupportedByPeerError(f"{target.name}: n=8 gave {len(reply['choices'])} completions")
    return {"n8 wall s": wall}


async def embed_texts(target: Target, seed: int) -> Figures:
    """1,000 texts of 5 to 20 words, as eight requests at once."""

    async def some(first: int) -> int:
        texts = [text(5 + i % 16, seed + first + i) for i in range(TEXTS_PER_REQUEST)]
        reply = await post(target, "/v1/embeddings", {"model": target.model, "input": texts})
        return len(reply["data"])

    started = time.perf_counter()
    counts = await asyncio.gather(*[some(i) for i in range(0, N_TEXTS, TEXTS_PER_REQUEST)])
    return {"embed texts/s": sum(counts) / (time.perf_counter() - started)}


async def memory_in_use(target: Target, seed: int) -> Figures:
    """Memory of the server's processes with the model loaded and a prompt of about 1,000 tokens behind it."""
    if target.pid is None:
        raise UnsupportedByPeerError(f"{target.name} runs elsewhere")
    await complete(target, text(700, seed), 4)
    server = psutil.Process(target.pid)
    children = [_bytes_of(child) for child in server.children(recursive=True)]
    figures = {"memory MiB": (_bytes_of(server) + sum(children)) / MIB}
    if children:  # one process per model beside the server, and a spare one without
        figures["memory per model MiB"] = max(children) / MIB
    return figures


def _bytes_of(process: psutil.Process) -> int:
    """Resident memory, shared pages by their share where the system counts so."""
    info = process.memory_full_info()
    return int(getattr(info, "pss", 0) or info.rss)
