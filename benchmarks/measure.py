"""Runs workloads on peers in pairs. Within a pair every program runs every workload; the order of the programs turns
from pair to pair. Each server is warmed by a short request, but never has seen a prompt that is measured.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.load import BenchmarkError, Target, UnsupportedByPeerError, complete
from benchmarks.peers.base import Peer, Setup
from benchmarks.workload import Figures, Procedure, Workload, text


@dataclass
class Run:
    """What one program did in one pair: times and rates, and counted facts by workload."""

    figures: Figures = field(default_factory=dict)
    facts: dict[str, dict[str, float]] = field(default_factory=dict)


Results = dict[str, list[Run]]


def run_pairs(
    peers: Sequence[Peer],
    model: Path,
    workloads: Sequence[Workload | Procedure],
    n_pairs: int,
    after_pair: Callable[[Results], None] | None = None,
) -> Results:
    """Runs by peer, one entry a pair."""
    results: Results = {peer.name: [] for peer in peers}
    for pair in range(n_pairs):
        turn = pair % len(peers)
        for peer in [*peers[turn:], *peers[:turn]]:
            results[peer.name].append(_run(peer, model, workloads, 100_000 * (pair + 1)))
        if after_pair is not None:
            after_pair(results)
    return results


def _run(peer: Peer, model: Path, workloads: Sequence[Workload | Procedure], seed: int) -> Run:
    run = Run()
    for setup, group in itertools.groupby(workloads, lambda w: w.setup if isinstance(w, Workload) else None):
        if setup is None:
            for procedure in group:
                assert isinstance(procedure, Procedure)
                _follow(run, procedure, peer, model, seed)
        else:
            asked = [workload for workload in group if isinstance(workload, Workload)]
            try:
                with peer.start(model, setup) as target:
                    asyncio.run(_ask(run, target, asked, setup, seed))
            except UnsupportedByPeerError as error:
                print(f"  left out: {error}", file=sys.stderr, flush=True)
    return run


def _follow(run: Run, procedure: Procedure, peer: Peer, model: Path, seed: int) -> None:
    _say(peer.name, procedure.name)
    try:
        run.figures |= procedure.run(peer, model, seed + _seed_of(procedure.name))
    except UnsupportedByPeerError as error:
        print(f"  left out: {error}", file=sys.stderr, flush=True)


async def _ask(run: Run, target: Target, workloads: Sequence[Workload], setup: Setup, seed: int) -> None:
    if not setup.is_embedding:
        await complete(target, "warm up " + text(5, seed), 8)
    for workload in workloads:
        _say(target.name, workload.name)
        tally, before = target.tally, read_counters(target)
        tally.n_requests = tally.n_evaluated = tally.n_cached = 0
        try:
            run.figures |= await workload.run(target, seed + _seed_of(workload.name))
        except UnsupportedByPeerError as error:
            print(f"  left out: {error}", file=sys.stderr, flush=True)
            continue
        except BenchmarkError as error:
            if target.name == "donabe":
                raise
            print(f"  failed, left out: {error}", file=sys.stderr, flush=True)
            continue
        after = read_counters(target)
        facts = {name: (after[name] - before.get(name, 0)) * (1000 if name.endswith(" ms") else 1) for name in after}
        if facts.get("step ms"):
            facts["python %"] = 100 * facts["python ms"] / facts["step ms"]
        if tally.n_requests:
            facts |= {"evaluated": tally.n_evaluated, "cached": tally.n_cached}
        run.facts[workload.name] = facts


def _seed_of(name: str) -> int:
    return 1000 * sum(name.encode())


def _say(peer: str, workload: str) -> None:
    print(f"{peer}: {workload}", file=sys.stderr, flush=True)


def read_counters(target: Target, names: dict[str, str] | None = None) -> dict[str, float]:
    """The counters that `names`, by default `target.metrics`, names, summed over their labels."""
    names = target.metrics if names is None else names
    if not names:
        return {}
    with urllib.request.urlopen(f"{target.base_url}/metrics", timeout=60) as reply:
        return sum_counters(reply.read().decode(), names)


def sum_counters(page: str, names: dict[str, str]) -> dict[str, float]:
    """Values of a Prometheus page by our names; what the page lacks is 0."""
    found = dict.fromkeys(names, 0.0)
    for line in page.splitlines():
        name, _, value = line.rpartition(" ")
        for key, wanted in names.items():
            if name.partition("{")[0] == wanted:
                found[key] += float(value)
    return found
