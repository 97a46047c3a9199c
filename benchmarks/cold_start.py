"""How soon a model that is not loaded says its first token, and what processes hold in memory before and after.

A server that is always there (donabe) is asked while idle; one that holds a single model (llama-server) is started for
the request. The model's file is in the page cache. Resident memory counts shared pages fully, proportional memory by
their share.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path

import psutil
from benchmarks.load import BenchmarkError, Target, UnsupportedByPeerError, complete
from benchmarks.peers.base import Peer, Setup
from benchmarks.workload import Figures, text

MIB = 1 << 20
COLD = Setup(n_parallel=1, n_ctx=4096)
N_STARTS = 3
# How long a started server has to finish what it does in the background before it counts as idle.
SETTLE_S = 2.0


def cold_start(peer: Peer, model: Path, seed: int) -> Figures:
    """Median over a few starts of the time from nothing loaded to the first token."""
    _check(peer)
    _read(model)
    return {"cold s": statistics.median(_first_token_s(peer, model, seed + i) for i in range(N_STARTS))}


def resident(peer: Peer, model: Path, seed: int) -> Figures:
    """Memory of the idle server, and of the process that runs the model after a first answer, in MiB."""
    _check(peer)
    with peer.start(model, COLD) as target:
        server = psutil.Process(target.pid)
        figures: Figures = {}
        if _loads_on_request(peer):
            time.sleep(SETTLE_S)
            figures |= _memory("idle server", server)
            for spare in server.children():
                figures |= _memory("spare runner", spare)
        asyncio.run(complete(target, text(8, seed), 16))
        return figures | _memory("runner", _holder_of(server, model))


def _check(peer: Peer) -> None:
    if not peer.can_restart:
        raise UnsupportedByPeerError(f"{peer.name} runs elsewhere")


def _loads_on_request(peer: Peer) -> bool:
    return peer.name == "donabe"


def _first_token_s(peer: Peer, model: Path, seed: int) -> float:
    if not _loads_on_request(peer):
        # Memory that was free for a while costs more to use (a virtual machine gives it back): the same for all.
        time.sleep(SETTLE_S)
    started = time.perf_counter()
    with peer.start(model, COLD) as target:
        if not _loads_on_request(peer):
            return _ask(target, seed) - started
        time.sleep(SETTLE_S)
        started = time.perf_counter()
        return _ask(target, seed) - started


def _ask(target: Target, seed: int) -> float:
    """When the first token came."""
    return asyncio.run(complete(target, text(8, seed), 2)).times[0]


def _read(model: Path) -> None:
    with model.open("rb") as file:
        while file.read(MIB):
            pass


def _holder_of(server: psutil.Process, model: Path) -> psutil.Process:
    """The process that has the model: the one with most memory, the server itself or one of its children."""
    found = max([server, *server.children(recursive=True)], key=lambda process: process.memory_info().rss)
    if found.memory_info().rss < model.stat().st_size / 2:
        raise BenchmarkError(f"no process of pid {server.pid} seems to hold {model.name}")
    return found


def _memory(what: str, process: psutil.Process) -> Figures:
    info = process.memory_full_info()
    return {f"{what} RSS MiB": info.rss / MIB, f"{what} PSS MiB": getattr(info, "pss", info.rss) / MIB}
