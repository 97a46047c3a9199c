"""Results as Markdown: medians, each peer's ratio with its pairs, counted facts, and what machine it was."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import Results, Run
from benchmarks.peers.base import Peer

LOWER_IS_BETTER = (" s", "/ solo", "/ cold", "MiB")


def is_lower_better(figure: str) -> bool:
    return figure.endswith(LOWER_IS_BETTER)


def ratios(ours: Sequence[Run], theirs: Sequence[Run], figure: str) -> list[float]:
    """donabe's figure by the peer's, for each pair in which both have one."""
    pairs = [(a.figures.get(figure), b.figures.get(figure)) for a, b in zip(ours, theirs, strict=True)]
    return [a / b for a, b in pairs if a is not None and b]


def median(runs: Sequence[Run], figure: str) -> float | None:
    values = [run.figures[figure] for run in runs if figure in run.figures]
    return statistics.median(values) if values else None


def figures_of(results: Results) -> list[str]:
    """All figures that some program has, in the order of the workloads."""
    return list(dict.fromkeys(figure for runs in results.values() for run in runs for figure in run.figures))


def figure_table(results: Results) -> str:
    """A column per program; a peer's cell holds its median, then donabe's ratio to it: median (pairs)."""
    peers = [name for name in results if name != "donabe"]
    rows = [
        _row(["figure", "donabe", *(f"{peer}: median, ratio (pairs)" for peer in peers)]),
        "|---" * (len(peers) + 2) + "|",
    ]
    for figure in figures_of(results):
        note = " (lower is better)" if is_lower_better(figure) else ""
        cells = [figure + note, _number(median(results["donabe"], figure))]
        rows.append(_row([*cells, *(_peer_cell(results, peer, figure) for peer in peers)]))
    return "\n".join(rows)


def _peer_cell(results: Results, peer: str, figure: str) -> str:
    theirs = median(results[peer], figure)
    found = ratios(results["donabe"], results[peer], figure)
    if theirs is None or not found:
        return _number(theirs)
    return f"{_number(theirs)}, {statistics.median(found):.2f} ({' '.join(f'{ratio:.2f}' for ratio in found)})"


def fact_table(results: Results) -> str:
    """Medians of what was counted, a row per workload and a column per program."""
    names = list(dict.fromkeys(name for runs in results.values() for run in runs for name in run.facts))
    rows = [_row(["counted", *results]), "|---" * (len(results) + 1) + "|"]
    rows += [_row([name, *(_facts(runs, name) for runs in results.values())]) for name in names]
    return "\n".join(rows)


def _facts(runs: Sequence[Run], workload: str) -> str:
    counted = [run.facts[workload] for run in runs if workload in run.facts]
    keys = list(dict.fromkeys(key for facts in counted for key in facts))
    medians = {key: statistics.median(facts.get(key, 0) for facts in counted) for key in keys}
    return ", ".join(
        f"{key} {value:.2f}" if key.endswith("%") else f"{key} {value:.0f}" for key, value in medians.items()
    )


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if value >= 100 else f"{value:.3f}"


def machine_facts(peers: Sequence[Peer], model: Path) -> dict[str, str]:
    """What a table must be read with."""
    return {
        "CPU": _cpu_name(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "model": f"{model.name}, {model.stat().st_size / 1e6:.0f} MB",
        **{f"version of {peer.name}": peer.version() for peer in peers},
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
