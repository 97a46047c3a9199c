"""`python -m benchmarks.depth`: upstream's own benchmarks, of the patched source and of the source as upstream has it.

No server takes part: the ratios show what the patches to CPU attention do to decoding at depth and to prefill. Both
programs are built with the same options (docs/benchmarks.md says how). Perplexity over this project's own documentation
shows that the numbers stay the same.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import BenchmarkError
from benchmarks.model import benchmark_model
from benchmarks.peers.base import ROOT
from benchmarks.peers.llama_server import PATCHED, PRISTINE, llama_bench, tool

DEADLINE_S = 1200


@dataclass(frozen=True)
class Case:
    """One measurement.

    Attributes:
        arguments: Of `program`.
        speed: Field of the program's JSON that holds tokens per second.
        only_patched: Further arguments of the patched program, where donabe lays its cache out in another way.
    """

    name: str
    program: str
    arguments: tuple[str, ...]
    speed: str = "avg_ts"
    only_patched: tuple[str, ...] = ()


def _streams(name: str, *arguments: str, only_patched: tuple[str, ...] = ()) -> Case:
    common = ("-c", "12288", "-b", "2048", "-ub", "512", "-npp", "1300", "-ntg", "32", "-npl", "8")
    return Case(name, "llama-batched-bench", (*common, *arguments), "speed_tg", only_patched)


# -kvu: one pool of cells for all streams, as donabe has it; upstream's default is a fixed share for each.
CASES = (
    Case("decode at depth 0", "llama-bench", ("-p", "0", "-n", "32", "-r", "1")),
    Case("decode at depth 1300", "llama-bench", ("-p", "0", "-n", "32", "-d", "1300", "-r", "1")),
    Case("decode at depth 4096", "llama-bench", ("-p", "0", "-n", "32", "-d", "4096", "-r", "1")),
    Case("prefill of 1300", "llama-bench", ("-p", "1300", "-n", "0", "-r", "1")),
    _streams("8 streams on a shared 1300", "-pps", "-kvu"),
    _streams("8 unrelated 1300, one pool", "-kvu"),
    _streams("8 unrelated 1300, upstream with fixed shares", only_patched=("-kvu",)),
)


def rate(folder: Path, model: Path, case: Case) -> float:
    """Tokens per second of one run."""
    arguments = (*case.arguments, *(case.only_patched if folder == PATCHED else ()))
    if case.program == "llama-bench":
        return float(llama_bench(folder, model, *arguments)[0][case.speed])
    command = [str(tool(folder, case.program)), "-m", str(model), "--output-format", "jsonl", *arguments]
    return speed_of(_output(command), case.speed)


def speed_of(output: str, field: str) -> float:
    """The field of the one result line among a program's log."""
    for line in output.splitlines():
        start = line.find('{"n_kv_max"')
        if start >= 0:
            return float(json.loads(line[start:])[field])
    raise BenchmarkError(f"llama-batched-bench gave no result; end of its output:\n{output[-1000:]}")


def perplexity(folder: Path, model: Path, n_chunks: int) -> float:
    """Perplexity over the beginning of the documentation, 512 tokens a chunk."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    with tempfile.TemporaryDirectory() as scratch:
        text = Path(scratch) / "text.txt"
        text.write_text("\n\n".join(page.read_text(encoding="utf-8") for page in pages), encoding="utf-8")
        command = [str(tool(folder, "llama-perplexity")), "-m", str(model), "-f", str(text), "-c", "512",
                   "--chunks", str(n_chunks)]  # fmt: skip
        output = _output(command)
    found = re.search(r"Final estimate: PPL = ([\d.]+)", output)
    if found is None:
        raise BenchmarkError(f"llama-perplexity gave no estimate; end of its output:\n{output[-1000:]}")
    return float(found[1])


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, check=False, capture_output=True, timeout=DEADLINE_S, text=True, errors="replace")
    if done.returncode:
        raise BenchmarkError(f"{Path(command[0]).name} failed:\n{done.stderr[-1000:]}")
    return done.stdout + done.stderr


def compare(model: Path, cases: Sequence[Case], n_pairs: int) -> dict[str, list[tuple[float, float]]]:
    """(patched, unpatched) tokens per second of every pair, by case; the order within a pair turns."""
    found: dict[str, list[tuple[float, float]]] = {case.name: [] for case in cases}
    for pair in range(n_pairs):
        for case in cases:
            print(f"pair {pair + 1}: {case.name}", file=sys.stderr, flush=True)
            folders = (PATCHED, PRISTINE) if pair % 2 == 0 else (PRISTINE, PATCHED)
            rates = {folder: rate(folder, model, case) for folder in folders}
            found[case.name].append((rates[PATCHED], rates[PRISTINE]))
    return found


def table(found: dict[str, list[tuple[float, float]]]) -> str:
    """Medians, and the median of the pairs' ratios."""
    rows = ["| tokens/s | patched | upstream | ratio (pairs) |", "|---|---|---|---|"]
    for name, pairs in found.items():
        ratios = [patched / pristine for patched, pristine in pairs]
        ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
        each = " ".join(f"{ratio:.2f}" for ratio in ratios)
        rows.append(f"| {name} | {ours:.1f} | {theirs:.1f} | {statistics.median(ratios):.2f} ({each}) |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.depth", description=__doc__)
    parser.add_argument("--pairs", type=int, default=3, help="times each program runs each case (default 3)")
    parser.add_argument("--only", nargs="+", metavar="WORDS", help="cases whose name holds one of these")
    parser.add_argument("--chunks", type=int, default=8, help="chunks of 512 tokens of perplexity, 0 for none")
    parser.add_argument("--model", type=Path, help="a GGUF (default: SmolLM2-135M Q4_0, made on first use)")
    args = parser.parse_args()
    cases = [case for case in CASES if not args.only or any(word in case.name for word in args.only)]
    try:
        if args.pairs < 1:
            raise BenchmarkError(f"--pairs must be at least 1, not {args.pairs}")
        for folder in (PATCHED, PRISTINE):
            for program in sorted({case.program for case in cases} | ({"llama-perplexity"} if args.chunks else set())):
                tool(folder, program)
        model = args.model or benchmark_model()
        print(table(compare(model, cases, args.pairs)))
        if args.chunks:
            ours, theirs = (perplexity(folder, model, args.chunks) for folder in (PATCHED, PRISTINE))
            print(f"\nperplexity over {args.chunks} chunks: patched {ours:.4f}, upstream {theirs:.4f}")
    except BenchmarkError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
