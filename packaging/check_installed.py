"""Check an installed wheel from inside: run by ci/wheels with the Python of the environment it was installed into.

    python packaging/check_installed.py [MODEL]

Each CPU variant in the package is either used when named or refused because this CPU lacks something; the best that
runs is chosen. With a model (a .gguf file), all that run give the same greedy text. Where another package with its own
ggml is installed (xllamacpp, llama-cpp-python), both are loaded into one process and used.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from donabe import _core

NEIGHBOURS = {
    "xllamacpp": "import xllamacpp; assert xllamacpp.get_device_info()",
    "llama_cpp": "import llama_cpp; llama_cpp.llama_backend_init()",
}
VARIANT = """
from donabe import _core
_core.init()
print(_core.build_info()["cpu_variant"])
"""
# A text with a clear continuation: the variants add up in different orders, and a tie may fall either way.
TEXT = """
import sys
from donabe import LLM
with LLM(sys.argv[1], pull=False) as llm:
    print(llm.generate("1, 2, 3, 4, 5, 6, 7, 8, 9,", temperature=0, max_tokens=24).text)
"""


def run(code: str, *arguments: str, variant: str = "") -> subprocess.CompletedProcess[str]:
    """Run the code in a fresh interpreter, with a CPU variant named."""
    environment = os.environ | {"DONABE_CPU_VARIANT": variant}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


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


def check_texts(model: str, variants: list[str]) -> None:
    """Every variant says what the chosen one says."""
    texts = {}
    for name in variants:
        done = run(TEXT, model, variant=name)
        check(done.returncode == 0 and bool(done.stdout.strip()), done.stderr)
        texts[name] = done.stdout.strip()
    expected = texts[variants[0]]
    for name, text in texts.items():
        check(text == expected, f"{name} says {text!r}, {variants[0]} says {expected!r}")
    print(f"  the same greedy text from each: {expected!r}")


def check_neighbours(model: str) -> None:
    """Another package's ggml and ours in one process, in both orders."""
    for name, use in NEIGHBOURS.items():
        if importlib.util.find_spec(name) is None:
            continue
        for code in (f"{use}\n{TEXT}", f"from donabe import _core\n_core.init()\n{use}\n{TEXT}"):
            done = run(code, model)
            check(done.returncode == 0, done.stderr[-2000:])
        print(f"  works in one process with {name}")


def main() -> None:
    variants = check_variants()
    if len(sys.argv) > 1:
        check_texts(sys.argv[1], variants)
        check_neighbours(sys.argv[1])


if __name__ == "__main__":
    main()
