"""`python -m benchmarks`: donabe beside llama-server and llama-bench of the same source, as one table.

Pairs alternate which server goes first. Each server runs a workload warm (one short request before) but with prompts it
has never seen.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
from pathlib import Path

from benchmarks import servers
from benchmarks.load import Target, complete
from benchmarks.model import benchmark_model
from benchmarks.workloads import WORKLOADS, Figures, text

LOWER_IS_BETTER = ("wall s", "ttft s", "gap s", "/ solo")


async def _measure(target: Target, names: list[str], seed: int) -> Figures:
    await complete(target, "warm up " + text(5, seed), 8)
    figures: Figures = {}
    for name in names:
        figures.update(await WORKLOADS[name](target, seed + 1000 * int(name[1:])))
    return figures


def run_pairs(model: Path, names: list[str], n_pairs: int) -> dict[str, list[Figures]]:
    """Alternate the servers; returns figures per server, one entry a pair."""
    results: dict[str, list[Figures]] = {"donabe": [], "llama-server": []}
    starters = [servers.donabe, servers.llama_server]
    for pair in range(n_pairs):
        for start in starters if pair % 2 == 0 else starters[::-1]:
            with start(model, 8) as target:
                results[target.name].append(asyncio.run(_measure(target, names, 10_000 * (pair + 1))))
        if "W1" in names:
            results["donabe"][-1]["W1 / llama-bench"] = results["donabe"][-1]["W1 tok/s"] / servers.llama_bench(model)
    return results


def table(results: dict[str, list[Figures]]) -> str:
    """Medians of the pairs, and donabe's ratio to llama-server as median of the pairs' ratios."""
    rows = ["| figure | donabe | llama-server | ratio | pairs' ratios |", "|---|---|---|---|---|"]
    ours, theirs = results["donabe"], results["llama-server"]
    for key in ours[0]:
        mine = statistics.median(f[key] for f in ours)
        if key not in theirs[0]:
            rows.append(f"| {key} | {mine:.3f} | | | {' '.join(f'{f[key]:.3f}' for f in ours)} |")
            continue
        ratios = [a[key] / b[key] for a, b in zip(ours, theirs, strict=True)]
        peer = statistics.median(f[key] for f in theirs)
        note = " (lower is better)" if key.endswith(LOWER_IS_BETTER) else ""
        each = " ".join(f"{r:.2f}" for r in ratios)
        rows.append(f"| {key}{note} | {mine:.3f} | {peer:.3f} | {statistics.median(ratios):.2f} | {each} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=sorted(WORKLOADS), default=sorted(WORKLOADS))
    parser.add_argument("--model", type=Path, help="a GGUF (default: SmolLM2-135M Q4_0, made on first use)")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    args = parser.parse_args()
    results = run_pairs(args.model or benchmark_model(), args.only, args.pairs)
    print(table(results))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
