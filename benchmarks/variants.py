"""`python -m benchmarks.variants PYTHON`: the CPU variant that a wheel chooses beside this checkout's native build.

PYTHON is that of an environment with donabe from a wheel of the same source:

    python -m venv DIR && DIR/bin/pip install --no-index --find-links wheelhouse donabe
    python -m benchmarks.variants DIR/bin/python

Both keep the model loaded in a process of their own and take turns, so that both see the same machine; what counts is
the median of the pairs' ratios. Ends with 1 where the wheel is slower by more than --allowed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.load import BenchmarkError
from benchmarks.model import benchmark_model

FIGURES = ("prefill tok/s", "decode tok/s")
DEADLINE_S = 120
# Reads "PREFILL DECODE" (numbers of tokens) a line, answers with seconds. argv: model, threads.
WORKER = """
import json, sys, time
import numpy as np
from donabe import _core
_core.init()
model = _core.Model(sys.argv[1])
threads = int(sys.argv[2]) or _core.n_physical_cores()
context = _core.Context(model, _core.ContextParams(
    n_ctx=2048, n_batch=512, n_ubatch=512, n_threads=threads, n_threads_batch=threads))
batch = _core.Batch(512)

def feed(tokens, position):
    batch.clear()
    batch.add_tokens(0, np.asarray(tokens, np.int32), position, "last")
    context.decode(batch)
    return int(context.logits_view()[-1].argmax())

print(json.dumps(_core.build_info() | {"threads": threads}), flush=True)
for line in sys.stdin:
    n_prefill, n_decode = map(int, line.split())
    prompt = np.random.default_rng(7).integers(0, model.vocab.n_tokens, n_prefill)
    context.memory.clear()
    marks = [time.perf_counter()]
    for start in range(0, n_prefill, 512):
        token = feed(prompt[start:start + 512], start)
    marks.append(time.perf_counter())
    for position in range(n_prefill, n_prefill + n_decode):
        token = feed([token], position)
    marks.append(time.perf_counter())
    print(json.dumps([marks[1] - marks[0], marks[2] - marks[1]]), flush=True)
"""


class Side:
    """One build of donabe in a process that keeps the model loaded."""

    def __init__(self, python: str, model: Path, n_threads: int) -> None:
        # -I: neither this folder nor PYTHONPATH may lead it to another donabe than its environment's.
        command = [python, "-I", "-c", WORKER, str(model), str(n_threads)]
        self._python = python
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.build: dict[str, Any] = self._answer()

    def measure(self, n_prefill: int, n_decode: int) -> dict[str, float]:
        """Tokens per second of a prompt, and of decoding after it."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{n_prefill} {n_decode}\n")
        self._process.stdin.flush()
        prefill_s, decode_s = self._answer()
        return dict(zip(FIGURES, (n_prefill / prefill_s, n_decode / decode_s), strict=True))

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.communicate(timeout=DEADLINE_S)
            raise BenchmarkError(f"the process of {self._python} ended with {self._process.returncode}")
        return json.loads(line)

    def __enter__(self) -> Side:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()


def compare(wheel: Side, native: Side, n_pairs: int, n_tokens: tuple[int, int]) -> dict[str, list[tuple[float, float]]]:
    """(wheel, native) of every pair, by figure; the order within a pair turns. What comes first warms both up."""
    for side in (wheel, native):
        side.measure(*n_tokens)
    found: dict[str, list[tuple[float, float]]] = {figure: [] for figure in FIGURES}
    for pair in range(n_pairs):
        sides = (wheel, native) if pair % 2 == 0 else (native, wheel)
        rates = {side: side.measure(*n_tokens) for side in sides}
        for figure in FIGURES:
            found[figure].append((rates[wheel][figure], rates[native][figure]))
    return found


def ratios(found: dict[str, list[tuple[float, float]]]) -> dict[str, float]:
    """The median of the pairs' ratios, by figure; below 1 the wheel is slower."""
    return {figure: statistics.median(ours / theirs for ours, theirs in pairs) for figure, pairs in found.items()}


def table(found: dict[str, list[tuple[float, float]]]) -> str:
    rows = ["| figure | wheel | native | ratio |", "|---|---|---|---|"]
    for figure, ratio in ratios(found).items():
        ours, theirs = (statistics.median(side) for side in zip(*found[figure], strict=True))
        rows.append(f"| {figure} | {ours:.1f} | {theirs:.1f} | {ratio:.3f} |")
    return "\n".join(rows)


def check_builds(wheel: dict[str, Any], native: dict[str, Any]) -> None:
    """Both have to be what they are compared as, made of the same source."""
    if not wheel["backend_dl"]:
        raise BenchmarkError("the first one was not installed from a wheel: it has no CPU variants")
    if native["backend_dl"]:
        raise BenchmarkError("this checkout's build has CPU variants: build it without DONABE_BACKEND_DL")
    for key in ("version", "build_id"):
        if wheel[key] != native[key]:
            raise BenchmarkError(f"{key} differs: {wheel[key]} and {native[key]}; build both from the same source")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.variants", description=__doc__)
    parser.add_argument("python", help="that of an environment with donabe from a wheel")
    parser.add_argument("--pairs", type=int, default=15, help="(default 15)")
    parser.add_argument("--prefill", type=int, default=512, metavar="TOKENS", help="(default 512)")
    parser.add_argument("--decode", type=int, default=64, metavar="TOKENS", help="(default 64)")
    parser.add_argument("--threads", type=int, default=0, help="(default: the physical cores)")
    parser.add_argument("--allowed", type=float, default=2.0, metavar="PERCENT", help="slower by that much (default 2)")
    parser.add_argument("--model", type=Path, help="a GGUF (default: SmolLM2-135M Q4_0, made on first use)")
    args = parser.parse_args(arguments)
    try:
        if min(args.pairs, args.prefill, args.decode) < 1 or args.prefill + args.decode > 2048:
            raise BenchmarkError("pairs and tokens must be at least 1, tokens together at most 2048")
        model = args.model or benchmark_model()
        with Side(args.python, model, args.threads) as wheel, Side(sys.executable, model, args.threads) as native:
            check_builds(wheel.build, native.build)
            found = compare(wheel, native, args.pairs, (args.prefill, args.decode))
    except BenchmarkError as error:
        sys.exit(f"error: {error}")
    print(f"CPU variant {wheel.build['cpu_variant']}, {wheel.build['threads']} threads, {args.pairs} pairs\n")
    print(table(found))
    return 0 if all(ratio >= 1 - args.allowed / 100 for ratio in ratios(found).values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
