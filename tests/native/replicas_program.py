"""Two replicas of a model on a Ray of their own; started by test_replicas, because Ray leaves much behind in a process.

argv: the model, the prompts as JSON. Prints what was found as one line of JSON behind FOUND, as Ray prints too, then
waits for the end of stdin. Everything is counted or waited for with a deadline; nothing is timed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec
import psutil

from donabe.errors import DonabeError
from donabe.replicas.options import ReplicaOptions
from donabe.replicas.start import connect_replicas
from donabe.store.resolve import resolve_model
from donabe.types import (
    Delta,
    EmbedRequest,
    Event,
    Failed,
    Finished,
    GenerateRequest,
    LoadOptions,
    ModelSpec,
    OutputOptions,
    SamplingOptions,
)

if TYPE_CHECKING:  # they import Ray, which the tests' own process does without
    from donabe.replicas.cluster import ReplicaCluster
    from donabe.replicas.runner import ReplicaRunner

LOAD = LoadOptions(n_ctx=8192, n_ctx_per_request=4096, n_parallel=4, n_threads=1, prefix_cache_disk_bytes=0)
N_TOPICS, N_FOLLOW_UPS = 6, 3
N_SAME = 7
DEADLINE_S, POLL_S = 120.0, 0.1
FOUND = "found: "


def request(prompt: str, n_tokens: int = 12) -> GenerateRequest:
    output = OutputOptions(max_tokens=n_tokens, ignore_eos=True)
    return GenerateRequest(prompt=prompt, sampling=SamplingOptions(temperature=0.0), output=output)


async def answer(runner: Any, prompt: str) -> tuple[list[int], Event]:
    """Tokens and the terminal event."""
    tokens: list[int] = []
    async with aclosing(runner.generate(request(prompt))) as events:
        async for event in events:
            if isinstance(event, Delta):
                tokens += event.tokens
    return tokens, event


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(int(DEADLINE_S / POLL_S)):
        if await condition():
            return
        await asyncio.sleep(POLL_S)
    raise TimeoutError(f"{condition} did not come true")


class Streams:
    """Long answers that run until they are closed."""

    def __init__(self, runner: ReplicaRunner, prompts: list[str]) -> None:
        self.events = [runner.generate(request(prompt, 3000)) for prompt in prompts]

    async def read(self, n: int) -> list[Event]:
        """The last of the next n events of each."""
        return list(await asyncio.gather(*(self._read_one(events, n) for events in self.events)))

    async def _read_one(self, events: Any, n: int) -> Event:
        event: Event
        for _ in range(n):
            event = await anext(events)
            if isinstance(event, (Failed, Finished)):
                break
        return event

    async def close(self) -> None:
        for events in self.events:
            await events.aclose()  # type: ignore[attr-defined]


async def idle(runner: ReplicaRunner) -> bool:
    """Nothing runs, and what is left in the pools is cached prefixes."""
    statuses = await runner.statuses()
    return all(s.n_running == s.n_waiting == 0 and s.n_cells_used == s.n_cells_cached for s in statuses)


async def affinity(runner: ReplicaRunner) -> dict[str, Any]:
    usages = []
    for turn in range(1 + N_FOLLOW_UPS):
        for topic in range(N_TOPICS):
            _, last = await answer(runner, f"topic {topic} " * 20 + "so " * turn)
            assert isinstance(last, Finished)
            usages.append((turn, last.usage.n_prompt_tokens, last.usage.n_cached_tokens))
    return {"usages": usages, "evaluated": sorted(s.n_prompt_tokens for s in await runner.statuses())}


async def imbalance(runner: ReplicaRunner) -> list[int]:
    """How many of N_SAME equal prompts each replica works on."""
    streams = Streams(runner, ["the same for all " * 10] * N_SAME)
    await streams.read(1)
    n_running = sorted(s.n_running + s.n_waiting for s in await runner.statuses())
    await streams.close()
    await until(lambda: idle(runner))
    return n_running


async def cancelling(runner: ReplicaRunner) -> dict[str, int]:
    streams = Streams(runner, ["one ", "two "])
    await streams.read(5)
    n_before = (await runner.status()).n_running
    await streams.close()
    await until(lambda: idle(runner))
    tokenizing = asyncio.create_task(runner.tokenize("x"))
    await asyncio.sleep(0)
    tokenizing.cancel()
    await asyncio.gather(tokenizing, return_exceptions=True)
    return {"before": n_before, "output_tokens": (await runner.status()).n_output_tokens}


def replica_processes() -> list[psutil.Process]:
    return [process for process in psutil.Process().children(recursive=True) if is_replica(process)]


def is_replica(process: psutil.Process) -> bool:
    try:
        return "ServeReplica" in "".join(process.cmdline()[:1])
    except psutil.NoSuchProcess:  # also when it waits to be reaped
        return False


async def no_replica_process() -> bool:
    return not replica_processes()


async def death(runner: ReplicaRunner) -> dict[str, Any]:
    streams = Streams(runner, [f"{name} goes on and on " * 10 for name in "abcd"])
    await streams.read(3)
    victim = replica_processes()[0]
    victim.kill()
    events = await streams.read(600)
    await streams.close()
    failed = [event for event in events if isinstance(event, Failed)]
    _, at_once = await answer(runner, "still there?")
    await until(lambda: count(runner, 2))
    recovered = [type((await answer(runner, f"{i} and all is well " * 10))[1]).__name__ for i in range(4)]
    return {
        "failed": [(event.kind, event.message, event.hint) for event in failed],
        "others": [type(event).__name__ for event in events if not isinstance(event, Failed)],
        "at_once": type(at_once).__name__,
        "recovered": recovered,
        "n_requests": [s.n_prompt_tokens > 0 for s in await runner.statuses()],
    }


async def count(runner: ReplicaRunner, n_replicas: int) -> bool:
    try:
        return len(await runner.statuses()) == n_replicas
    except DonabeError:
        return False


async def errors(runner: ReplicaRunner, cluster: ReplicaCluster, spec: ModelSpec) -> dict[str, Any]:
    _, too_long = await answer(runner, "x" * 5000)
    _, unsendable = await answer(runner, "\ud800")
    try:
        await runner.embed(EmbedRequest(inputs=("text",), dimensions=10_000))
    except DonabeError as error:
        embedding = [type(error).__name__, error.message]
    await runner.close()  # the cluster has no CPU left for another one
    try:
        await cluster.start_runner(msgspec.structs.replace(spec, paths=("/nowhere/missing.gguf",)), LOAD)
    except DonabeError as error:
        load = [type(error).__name__, error.message]
    return {
        "too_long": msgspec.to_builtins(too_long),
        "unsendable": msgspec.to_builtins(unsendable),
        "embedding": embedding,
        "load": load,
    }


async def find_out(cluster: ReplicaCluster, path: str, prompts: list[str]) -> dict[str, Any]:
    spec = resolve_model(path, pull=False)
    runner = await cluster.start_runner(spec, LOAD)
    info = runner.info
    found: dict[str, Any] = {
        "info": [info.n_parallel, info.n_ctx, info.n_ctx_per_request],
        "answers": [(await answer(runner, prompt))[0] for prompt in prompts],
        "tokens": await runner.tokenize("the name"),
        "text": await runner.detokenize(await runner.tokenize("the name")),
        "affinity": await affinity(runner),
        "imbalance": await imbalance(runner),
        "cancelling": await cancelling(runner),
        "death": await death(runner),
    }
    await runner.close()
    await runner.close()
    found["alive"] = runner.alive
    await until(no_replica_process)
    found["after_close"] = msgspec.to_builtins((await answer(runner, "anybody?"))[1])
    runner = await cluster.start_runner(spec, LOAD)
    found["errors"] = await errors(runner, cluster, spec)
    return found


def main(path: str, prompts: str) -> None:
    cluster = connect_replicas(ReplicaOptions(n_replicas=2, cpus=1, owner="test", load_stall_s=DEADLINE_S))
    found = asyncio.run(find_out(cluster, path, json.loads(prompts)))
    print(FOUND + json.dumps(found), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
