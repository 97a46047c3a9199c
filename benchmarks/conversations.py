"""Workloads of requests that share a beginning: a tree of prompts, a long chat, an agent with its tools."""

from __future__ import annotations

import asyncio
import json
import statistics
import time

from benchmarks.load import Message, Target, chat, complete
from benchmarks.workload import Figures, text

N_BRANCHES = N_LEAVES = 4
N_CHAT_TURNS = 20
N_AGENT_TURNS = 10


async def tree_of_prompts(target: Target, seed: int) -> Figures:
    """One trunk, four branches, four leaves each: 16 requests at once, 16 tokens out."""
    trunk = text(500, seed)
    prompts = []
    for b in range(N_BRANCHES):
        branch = f"{trunk} Chapter {b}: {text(200, seed + 10 + b)}"
        prompts += [f"{branch} Question: {text(12, seed + 100 + N_LEAVES * b + leaf)}" for leaf in range(N_LEAVES)]
    started = time.perf_counter()
    streams = await asyncio.gather(*[complete(target, prompt, 16) for prompt in prompts])
    wall = time.perf_counter() - started
    return {"tree wall s": wall, "tree ttft s": statistics.mean(s.ttft_s for s in streams)}


async def long_chat(target: Target, seed: int) -> Figures:
    """20 turns of about 35 tokens in and up to 24 out; the whole conversation is sent every time."""
    system = "You are a helpful assistant. " + text(60, seed)
    questions = [text(24, seed + 1 + i) for i in range(N_CHAT_TURNS)]
    return await _converse(target, "turns", [{"role": "system", "content": system}], questions, 24)


async def agent_loop(target: Target, seed: int) -> Figures:
    """A system prompt with tools of about 3,000 tokens, then 10 turns that each bring a tool's result."""
    names = [f"{a}_{b}" for a, b in zip(text(16, seed).split(), text(16, seed + 1).split(), strict=True)]
    tools = [_tool(f"{name}_{i}", seed + 10 * i) for i, name in enumerate(names)]
    system = f"You solve tasks with these tools:\n{json.dumps(tools, indent=1)}\nAnswer with one call."
    results = [f"Result: {json.dumps({'text': text(50, seed + 500 + i)})}" for i in range(N_AGENT_TURNS)]
    return await _converse(target, "agent", [{"role": "system", "content": system}], results, 24)


def _tool(name: str, seed: int) -> dict[str, object]:
    properties = {word: {"type": "string", "description": text(6, seed + i)}
                  for i, word in enumerate(sorted(set(text(5, seed + 7).split())))}  # fmt: skip
    parameters = {"type": "object", "properties": properties, "required": sorted(properties)[:2]}
    return {"type": "function", "function": {"name": name, "description": text(12, seed), "parameters": parameters}}


async def _converse(
    target: Target, name: str, messages: list[Message], questions: list[str], max_tokens: int
) -> Figures:
    started = time.perf_counter()
    ttfts = []
    for question in questions:
        messages = [*messages, {"role": "user", "content": question}]
        answer = await chat(target, messages, max_tokens)
        messages.append({"role": "assistant", "content": answer.text})
        ttfts.append(answer.ttft_s)
    # The first turn is a cold prompt for everybody; what a chat feels like are the later ones.
    return {
        f"{name} wall s": time.perf_counter() - started,
        f"{name} first ttft s": ttfts[0],
        f"{name} later ttft s": statistics.mean(ttfts[1:]),
    }
