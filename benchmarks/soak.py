"""`python -m benchmarks.soak`: many streams at once, a third of which go away early, against a real donabe server.

Checks that nothing fails but with 503 (the waiting queue is full), that the memory of server and runner stays flat,
that every cell is free in the end and that the server keeps answering small requests at once. Reports the server's CPU
time per streamed event. Ends with status 1 when a check fails.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from benchmarks.load import BenchmarkError, Target, complete, read_reply, record
from benchmarks.measure import read_counters
from benchmarks.model import benchmark_model
from benchmarks.peers.base import Setup, end_servers_when_terminated
from benchmarks.peers.donabe_server import DonabeServer
from benchmarks.responsiveness import Probe
from benchmarks.workload import text

SAMPLE_EVERY_S = 1.0
CACHE_RAM = "8MiB"  # small, so that it is full before the warm-up ends
SETTLE_DEADLINE_S = 60.0
WARM_UP_SHARE = 0.4  # of the samples: pools, caches and arenas fill
MAX_GROWTH_SHARE, MAX_GROWTH_BYTES = 0.03, 8 << 20
MAX_VERSION_P99_S = 0.05
CELLS = {
    "used": "donabe_kv_cells_used",
    "cached": "donabe_kv_cells_cached",
    "running": "donabe_running_requests",
    "waiting": "donabe_waiting_requests",
}


@dataclass
class Outcome:
    """What the clients saw."""

    endings: Counter[str] = field(default_factory=Counter)
    n_events: int = 0


@dataclass
class Memory:
    """Samples of one process: seconds since the start, bytes."""

    times: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def growth_bytes(self) -> float:
        """Growth over the samples after the warm-up, by a straight line through them."""
        first = int(len(self.times) * WARM_UP_SHARE)
        times, sizes = self.times[first:], self.sizes[first:]
        if len(times) < 2:
            return 0.0
        return float(statistics.linear_regression(times, sizes).slope * (times[-1] - times[0]))

    @property
    def is_flat(self) -> bool:
        return self.growth_bytes() <= max(MAX_GROWTH_BYTES, MAX_GROWTH_SHARE * statistics.mean(self.sizes or [0]))


class MemorySampler(threading.Thread):
    """Reads the resident memory of the server and of its children."""

    def __init__(self, server: psutil.Process) -> None:
        super().__init__(daemon=True)
        self.by_process: dict[str, Memory] = {}
        self._server = server
        self._ended = threading.Event()

    def run(self) -> None:
        started = time.monotonic()
        while not self._ended.wait(SAMPLE_EVERY_S):
            for process in [self._server, *self._server.children(recursive=True)]:
                name = "server" if process == self._server else f"child {process.pid}"
                try:
                    size = process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
                memory = self.by_process.setdefault(name, Memory())
                memory.times.append(time.monotonic() - started)
                memory.sizes.append(size)

    def stop(self) -> None:
        self._ended.set()
        self.join()


async def one_client(target: Target, seed: int, until: float, outcome: Outcome) -> None:
    """Ask again and again; leave early one time in three, before the first token or after some."""
    rng = random.Random(seed)
    shared = text(40, 1)
    while time.monotonic() < until:
        prompt = f"{shared if rng.random() < 0.5 else ''} {text(rng.randint(3, 60), rng.randrange(1 << 30))}"
        leave_after = rng.choice([None, None, rng.uniform(0.0, 3.0)])
        asked = _ask(target, prompt, rng.randint(4, 48), outcome)
        try:
            ending = await asyncio.wait_for(asked, leave_after)
        except asyncio.TimeoutError:
            ending = "left"
        except (BenchmarkError, OSError, ValueError) as error:
            ending = f"failed: {error}"[:200]
        outcome.endings[ending] += 1
        if ending == "503":
            await asyncio.sleep(rng.uniform(0.05, 0.5))


async def _ask(target: Target, prompt: str, max_tokens: int, outcome: Outcome) -> str:
    options = {"num_predict": max_tokens, "temperature": 0.7}
    body = {"model": target.model, "prompt": prompt, "raw": True, "stream": True, "options": options}
    pieces: list[tuple[float, bytes]] = []
    try:
        await record(target.base_url, "/api/generate", body, pieces)
    finally:
        outcome.n_events += sum(data.count(b'"done":') for _, data in pieces)
    status, lines = read_reply(pieces)
    if status != 200:
        return str(status)
    event = json.loads(lines[-1][1])
    if "error" in event:
        return f"failed in-band: {event['error']}"
    return "answered" if event.get("done") else "failed: no final event"


async def drive(target: Target, n_streams: int, seconds: float, seed: int) -> Outcome:
    """All clients until the time is over; those under way then finish."""
    outcome, until = Outcome(), time.monotonic() + seconds
    await asyncio.gather(*[one_client(target, seed + i, until, outcome) for i in range(n_streams)])
    return outcome


def settled_cells(target: Target) -> dict[str, float]:
    """Cells and requests once nothing runs, or when the deadline is over."""
    deadline = time.monotonic() + SETTLE_DEADLINE_S
    while True:
        found = read_counters(target, CELLS)
        if not found["running"] + found["waiting"] + found["used"] - found["cached"] or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def checks(
    outcome: Outcome, memories: dict[str, Memory], cells: dict[str, float], version_p99_s: float
) -> list[tuple[bool, str]]:
    """(holds, what) of every promise."""
    bad = {ending: n for ending, n in outcome.endings.items() if ending not in ("answered", "left", "503")}
    free = not cells["running"] + cells["waiting"] + cells["used"] - cells["cached"]
    found = [
        (not bad and outcome.endings["answered"] > 0, f"endings {dict(outcome.endings)}"),
        (free, f"cells in the end: {cells['used'] - cells['cached']:.0f} held, {cells['cached']:.0f} cached prefixes, "
               f"{cells['running'] + cells['waiting']:.0f} requests left"),
        (version_p99_s < MAX_VERSION_P99_S, f"/api/version p99 {1000 * version_p99_s:.1f} ms"),
    ]  # fmt: skip
    for name, memory in memories.items():
        size, growth = statistics.mean(memory.sizes) / 2**20, memory.growth_bytes() / 2**20
        found.append((memory.is_flat, f"memory of {name}: {size:.0f} MiB, {growth:+.1f} MiB after the warm-up"))
    return found


def soak(args: argparse.Namespace) -> bool:
    model = args.model or benchmark_model()
    setup = Setup(n_parallel=args.parallel, n_ctx=256 * args.parallel, cache_ram=CACHE_RAM)
    with DonabeServer().start(model, setup) as target:
        asyncio.run(complete(target, "warm up", 4))
        assert target.pid is not None
        server = psutil.Process(target.pid)
        sampler, probe = MemorySampler(server), Probe(target.base_url)
        cpu_before, started = sum(server.cpu_times()[:2]), time.monotonic()
        sampler.start()
        with probe:
            outcome = asyncio.run(drive(target, args.streams, 60 * args.minutes, args.seed))
        seconds, cpu_s = time.monotonic() - started, sum(server.cpu_times()[:2]) - cpu_before
        cells = settled_cells(target)
        sampler.stop()
    n = max(1, outcome.n_events)
    print(f"{args.streams} streams, {args.parallel} in parallel, {seconds:.0f} s, {n / seconds:.0f} events/s")
    print(f"server CPU per streamed event: {1e6 * cpu_s / n:.0f} us ({100 * cpu_s / seconds:.0f} % of a core)")
    found = checks(outcome, sampler.by_process, cells, probe.quantile_s(0.99))
    for holds, what in found:
        print(f"{'ok  ' if holds else 'FAIL'} {what}")
    return all(holds for holds, _ in found)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--streams", type=int, default=256, help="clients at once (default 256)")
    parser.add_argument("--parallel", type=int, default=32, help="requests the model runs at once (default 32)")
    parser.add_argument("--minutes", type=float, default=5.0, help="how long (default 5)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", type=Path, help="a GGUF (default: SmolLM2-135M Q4_0, made on first use)")
    args = parser.parse_args(arguments)
    end_servers_when_terminated()
    if args.streams < 1 or not 1 <= args.parallel <= 256 or args.minutes <= 0:
        sys.exit("error: --streams and --minutes must be positive, --parallel 1 to 256")
    try:
        sys.exit(0 if soak(args) else 1)
    except BenchmarkError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
