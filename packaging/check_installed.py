"""Check an installed wheel from inside: run by ci/wheels with the Python of the environment it was installed into.

    python packaging/check_installed.py [MODEL]

Each CPU variant in the package is either used when named or refused because this CPU lacks something; the best that
runs is chosen. With a model (a .gguf file), all that run give the same greedy text. Where other packages with a ggml of
their own are installed (xllamacpp, llama-cpp-python, pywhispercpp), each computes in one process with donabe, before it
and after it, and then all of them do; donabe's text has to stay what it is alone.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
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
# A text with a clear continuation: the variants add up in different orders, and a tie may fall either way.
TEXT = """
from donabe import LLM
with LLM(sys.argv[1], pull=False) as llm:
    print(f"{MARK}{llm.generate('1, 2, 3, 4, 5, 6, 7, 8, 9,', temperature=0, max_tokens=24).text!r}", flush=True)
"""
MARK = "donabe says "  # a neighbour may write to stdout too


def run(code: str, *arguments: str, variant: str = "") -> subprocess.CompletedProcess[str]:
    """Run the code in a fresh interpreter, with a CPU variant named."""
    environment = os.environ | {"DONABE_CPU_VARIANT": variant}
    command = [sys.executable, "-c", f"import sys\nMARK = {MARK!r}\n{code}", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def texts_in(output: str) -> list[str]:
    """What donabe said in the output of a program with TEXT in it."""
    return [line.removeprefix(MARK) for line in output.splitlines() if line.startswith(MARK)]


def check(condition: bool, message: object) -> None:
    """Stop with the message unless the condition holds."""
    if not condition:
        sys.exit(f"  PROBLEM: {message}")


def check_variants() -> list[str]:
    """The variants that run here; the chosen one is first."""
    package = Path(_core.__file__).parent
    folder = package / "lib" if (package / "lib").is_dir() else package
    names = sorted(path.stem.partition("-cpu-")[2] for path in folder.glob("*ggml-cpu-*"))
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
    print(f"  {len(names)} CPU variants; {len(runnable)} run here, chosen: {', '.join(runnable)}")
    return runnable


def check_texts(model: str, variants: list[str]) -> str:
    """Every variant says what the chosen one says: that text."""
    texts = {}
    for name in variants:
        done = run(TEXT, model, variant=name)
        check(done.returncode == 0 and len(texts_in(done.stdout)) == 1, done.stderr[-2000:])
        texts[name] = texts_in(done.stdout)[0]
    expected = texts[variants[0]]
    for name, text in texts.items():
        check(text == expected, f"{name} says {text}, {variants[0]} says {expected}")
    print(f"  the same greedy text from each: {expected}")
    return expected


def check_neighbours(model: str, expected: str) -> None:
    """Other packages' ggml and ours in one process, in both orders, each used again after the other."""
    there = {name: code for name, code in NEIGHBOURS.items() if importlib.util.find_spec(name) is not None}
    if len(there) > 1:
        there[" and ".join(there)] = "".join(there.values())
    for name, use in there.items():
        for parts in ((use, TEXT, use), (TEXT, use, TEXT)):
            done = run("".join(parts), model)
            check(done.returncode == 0, f"with {name}: {done.stderr[-2000:]}")
            texts = texts_in(done.stdout)
            check(set(texts) == {expected}, f"with {name}, donabe says {texts}, alone {expected}")
        print(f"  works in one process with {name}")


def main() -> None:
    variants = check_variants()
    if len(sys.argv) > 1:
        check_neighbours(sys.argv[1], check_texts(sys.argv[1], variants))


if __name__ == "__main__":
    main()
