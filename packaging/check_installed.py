"""Check an installed wheel from inside: run by ci/wheels with the Python of the environment it was installed into.

    python packaging/check_installed.py [MODEL | --tiny] [--backend NAME]

Each CPU variant in the package is either used when named or refused because this CPU lacks something; the one with the
highest score of those that run is chosen. With a model (a .gguf file), all that run give the same greedy text, twice.
Where other packages with a ggml of their own are installed (xllamacpp, llama-cpp-python, pywhispercpp), each computes
in one process with donabe, before it and after it, and then all of them do; donabe's text stays what it is alone.

--tiny makes a model to use, for machines that have none: a random one, so other packages are left out. --backend checks
the backend of a plug-in in the same ways, instead of the CPU's variants: its text is the CPU's. A build from source has
its one variant linked in, and only its text is looked at.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from donabe import _core

# By module: a program that computes something with it; sys.argv[1] is the model.
NEIGHBOURS = {
    "xllamacpp": """
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel, params.warmup = sys.argv[1], 256, 1, False
answer = xllamacpp.Server(params).handle_completions({"prompt": "1, 2, 3,", "temperature": 0, "max_tokens": 4})
assert "4" in answer["choices"][0]["text"], answer
""",
    "llama_cpp": """
import llama_cpp
neighbour = llama_cpp.Llama(sys.argv[1], n_ctx=256, verbose=False)
answer = neighbour("1, 2, 3,", temperature=0, max_tokens=4)
assert "4" in answer["choices"][0]["text"], answer
neighbour.close()
""",
    # Its libraries have the names that ggml gives them by itself. It needs a model of its own kind to compute more.
    "_pywhispercpp": """
import _pywhispercpp
assert "CPU" in _pywhispercpp.whisper_print_system_info()
""",
}
VARIANT = """
from donabe import _core
_core.init()
print(_core.build_info()["cpu_variant"])
"""
# Each library's score, as ggml has it: 0 where this CPU lacks something. Importing donabe opens what they need.
SCORES = """
import ctypes
from donabe import _core
for path in sys.argv[1:]:
    print(ctypes.CDLL(path).ggml_backend_score())
"""
# A text with a clear continuation: the variants add up in different orders, and a tie may fall either way.
TEXT = """
from donabe import LLM
with LLM(sys.argv[1], pull=False, backend=BACKEND, n_ctx=512) as llm:
    assert bool(llm.info.n_gpu_layers) == (BACKEND != "cpu"), llm.info
    text = llm.generate('1, 2, 3, 4, 5, 6, 7, 8, 9,', temperature=0, max_tokens=24).text
    print(f"{MARK}{text!r}", flush=True)
"""
MARK = "donabe says "  # a neighbour may write to stdout too


def run(code: str, *arguments: str, variant: str = "", backend: str = "cpu") -> subprocess.CompletedProcess[str]:
    """Run the code in a fresh interpreter, with a CPU variant and a backend named."""
    environment = os.environ | {"DONABE_CPU_VARIANT": variant}
    names = f"import sys\nMARK, BACKEND = {MARK!r}, {backend!r}"
    command = [sys.executable, "-c", f"{names}\n{code}", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)


def texts_in(output: str) -> list[str]:
    """What donabe said in the output of a program with TEXT in it."""
    return [line.removeprefix(MARK) for line in output.splitlines() if line.startswith(MARK)]


def check(condition: bool, message: object) -> None:
    """Stop with the message unless the condition holds."""
    if not condition:
        sys.exit(f"  PROBLEM: {message}")


def scores(paths: list[Path]) -> dict[str, int]:
    """The score of each variant on this CPU."""
    done = run(SCORES, *map(str, paths))
    check(done.returncode == 0, done.stderr)
    return dict(zip((variant_of(path) for path in paths), map(int, done.stdout.split()), strict=True))


def variant_of(path: Path) -> str:
    return path.stem.partition("-cpu-")[2]


def check_variants() -> list[str]:
    """The variants that run here; the chosen one is first. A build without them has one without a name."""
    if not _core.build_info()["backend_dl"]:
        print("  built from source: one CPU variant, linked in")
        return [""]
    package = Path(_core.__file__).parent
    folder = package / "lib" if (package / "lib").is_dir() else package
    paths = sorted(folder.glob("*ggml-cpu-*"))
    names = [variant_of(path) for path in paths]
    check(bool(names), f"no CPU variant in {folder}")
    chosen = run(VARIANT)
    check(chosen.returncode == 0, chosen.stderr)
    runnable = [chosen.stdout.strip()]
    for name in names:
        done = run(VARIANT, variant=name)
        if done.returncode == 0:
            check(done.stdout.strip() == name, f"{name} was named, {done.stdout.strip()} is used")
            if name not in runnable:
                runnable.append(name)
        else:
            check(f"this CPU can't run the CPU variant '{name}'" in done.stderr, done.stderr)
    found = scores(paths)
    runs = {name for name, score in found.items() if score > 0}
    check(set(runnable) == runs, f"{sorted(runnable)} run, by their scores it would be {sorted(runs)}")
    best = max(runnable, key=found.__getitem__)
    check(found[runnable[0]] == found[best], f"{runnable[0]} is chosen, {best} is better: {found}")
    told = ", ".join(f"{name} ({found[name]})" for name in sorted(runnable, key=found.__getitem__, reverse=True))
    print(f"  {len(names)} CPU variants; {len(runnable)} run here, with scores: {told}; chosen: {runnable[0]}")
    return runnable


def check_texts(model: str, variants: list[str]) -> str:
    """Every variant says what the chosen one says, each time: that text."""
    texts = {}
    for name in variants:
        done = run(TEXT + TEXT, model, variant=name)
        said = texts_in(done.stdout)
        check(done.returncode == 0 and len(said) == 2, f"exit {done.returncode} {done.stderr[-2000:]}")
        check(said[0] == said[1], f"{name} says {said[0]}, then {said[1]}")
        texts[name] = said[0]
    expected = texts[variants[0]]
    check(len(expected) > len("''"), "it says nothing")
    for name, text in texts.items():
        check(text == expected, f"{name} says {text}, {variants[0]} says {expected}")
    print(f"  the same greedy text from each: {expected}")
    return expected


def check_backend(model: str, expected: str, backend: str) -> None:
    """Its devices compute what the CPU computes."""
    done = run(TEXT, model, backend=backend)
    check(done.returncode == 0, done.stderr[-2000:])
    check(texts_in(done.stdout) == [expected], f"{backend} says {texts_in(done.stdout)}, the CPU {expected}")
    print(f"  {backend} says the same")


def check_neighbours(model: str, expected: str, backend: str) -> None:
    """Other packages' ggml and ours in one process, in both orders, each used again after the other."""
    there = {name: code for name, code in NEIGHBOURS.items() if importlib.util.find_spec(name) is not None}
    if len(there) > 1:
        there[" and ".join(there)] = "".join(there.values())
    for name, use in there.items():
        for parts in ((use, TEXT, use), (TEXT, use, TEXT)):
            done = run("".join(parts), model, backend=backend)
            check(done.returncode == 0, f"with {name}: {done.stderr[-2000:]}")
            texts = texts_in(done.stdout)
            check(set(texts) == {expected}, f"with {name}, donabe says {texts}, alone {expected}")
        print(f"  {backend} works in one process with {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--backend", default="cpu")
    args = parser.parse_args()
    variants = check_variants() if args.backend == "cpu" else [""]
    with tempfile.TemporaryDirectory() as folder:
        model = args.model
        if args.tiny:
            from tiny_model import write_tiny_model

            model = str(write_tiny_model(Path(folder) / "tiny.gguf"))
        if model is None:
            return
        expected = check_texts(model, variants)
        if args.backend != "cpu":
            check_backend(model, expected, args.backend)
        if not args.tiny:
            check_neighbours(model, expected, args.backend)


if __name__ == "__main__":
    main()
