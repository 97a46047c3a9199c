"""A picture of the results: how many times better donabe is, a bar per figure and peer. Needs the `bench` extra."""

from __future__ import annotations

import statistics
from importlib import import_module
from pathlib import Path

from benchmarks.load import BenchmarkError
from benchmarks.measure import Results
from benchmarks.report import figures_of, is_lower_better, ratios


def advantages(results: Results, peer: str) -> dict[str, float]:
    """Median ratio by figure, turned so that above 1 is better for donabe."""
    found = {figure: ratios(results["donabe"], results[peer], figure) for figure in figures_of(results)}
    medians = {figure: statistics.median(values) for figure, values in found.items() if values}
    return {figure: 1 / value if is_lower_better(figure) else value for figure, value in medians.items() if value}


def draw(results: Results, target: Path) -> None:
    """Write the picture; its format follows the file's suffix.

    Raises:
        BenchmarkError: matplotlib is not installed.
    """
    try:
        import_module("matplotlib").use("agg")
    except ImportError as error:
        raise BenchmarkError("--plot needs matplotlib: pip install 'donabe[bench]'") from error
    pyplot = import_module("matplotlib.pyplot")  # this way, since type checkers need not have it

    peers = [name for name in results if name != "donabe"]
    figures = [figure for figure in figures_of(results) if any(figure in advantages(results, peer) for peer in peers)]
    picture, axes = pyplot.subplots(figsize=(8, 1 + 0.25 * len(figures) * max(1, len(peers))))
    height = 0.8 / max(1, len(peers))
    for i, peer in enumerate(peers):
        found = advantages(results, peer)
        places = [row + i * height for row, figure in enumerate(figures) if figure in found]
        widths = [found[figure] - 1 for figure in figures if figure in found]  # bars begin at 1, equal
        axes.barh(places, widths, height, left=1, label=f"beside {peer}")
    axes.set_yticks([row + 0.4 - height / 2 for row in range(len(figures))], figures)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xlabel("times better than the peer (1 = equal), median of the pairs")
    axes.legend()
    picture.tight_layout()
    picture.savefig(target)
    pyplot.close(picture)
