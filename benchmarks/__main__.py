"""`python -m benchmarks`: donabe beside other programs, in alternating pairs, as Markdown tables."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.util
import json
import sys
from pathlib import Path

from benchmarks import report
from benchmarks.load import BenchmarkError
from benchmarks.measure import Results, run_pairs
from benchmarks.model import benchmark_model
from benchmarks.peers import PEERS, Peer, peer_of
from benchmarks.peers.base import end_servers_when_terminated
from benchmarks.peers.donabe_server import DonabeServer
from benchmarks.peers.llama_server import PATCHED, llama_bench
from benchmarks.workloads import WORKLOADS


def main() -> None:
    args = _parser().parse_args()
    end_servers_when_terminated()
    try:
        if args.pairs < 1:
            raise BenchmarkError(f"--pairs must be at least 1, not {args.pairs}")
        if args.plot and importlib.util.find_spec("matplotlib") is None:
            raise BenchmarkError("--plot needs matplotlib: pip install 'donabe[bench]'")
        named = args.peer or ["llama-server"]
        peers: list[Peer] = [DonabeServer(), *(peer_of(name, args.peer_model) for name in named if name != "none")]
        for peer in peers:
            peer.prepare()
        _run(args, peers)
    except BenchmarkError as error:
        sys.exit(f"error: {error}")


def _run(args: argparse.Namespace, peers: list[Peer]) -> None:
    model = args.model or benchmark_model()
    workloads = [WORKLOADS[name] for name in WORKLOADS if name in args.only]
    has_bare_rate = not {"W1", "plain"}.isdisjoint(args.only) and (PATCHED / "llama-bench").exists()
    after_pair = functools.partial(_add_bare_rate, model=model) if has_bare_rate else None
    results = run_pairs(peers, model, workloads, args.pairs, after_pair)
    machine = report.machine_facts(peers, model)
    print("\n".join(f"- {name}: {value}" for name, value in machine.items()), end="\n\n")
    print(report.figure_table(results), report.fact_table(results), sep="\n\n")
    if args.json:
        runs = {name: [dataclasses.asdict(run) for run in found] for name, found in results.items()}
        args.json.write_text(json.dumps({"machine": machine, "runs": runs}, indent=1))
    if args.plot:
        from benchmarks.plot import draw

        draw(results, args.plot)


def _add_bare_rate(results: Results, model: Path) -> None:
    """W1 beside tg128 of `llama-bench`, which has no server, no prompt and no sampling; right after each pair."""
    bare = llama_bench(PATCHED, model, "-p", "0", "-n", "128", "-r", "3")[0]["avg_ts"]
    figures = results["donabe"][-1].figures
    for name in ("W1", "W1 plain"):
        if f"{name} tok/s" in figures:
            figures[f"{name} / llama-bench"] = figures[f"{name} tok/s"] / bare


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--pairs", type=int, default=3, help="times every program runs everything (default 3)")
    parser.add_argument("--only", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS), metavar="WORKLOAD",
                        help=f"of {', '.join(WORKLOADS)} (default: all)")  # fmt: skip
    parser.add_argument("--peer", action="append", metavar="PEER",
                        help=f"{', '.join(PEERS)}, or the URL of a running server with Ollama's API; may be repeated "
                             "(default: llama-server; none measures donabe alone)")  # fmt: skip
    parser.add_argument("--peer-model", default="", help="the model's name on the server given by URL")
    parser.add_argument("--model", type=Path, help="a GGUF (default: SmolLM2-135M Q4_0, made on first use)")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    parser.add_argument("--plot", type=Path, help="also draw the ratios into this file, such as bench.svg")
    return parser


if __name__ == "__main__":
    main()
