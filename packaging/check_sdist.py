"""Check that an sdist can make the wheel: every file that ninja compiled or read is in it, with the same content.

python packaging/check_sdist.py SDIST BUILD_FOLDER
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

VENDORED = "third_party/ggml/llama.cpp"


def cache_value(build: Path, name: str) -> str:
    """A value of the build folder's CMake cache."""
    for line in (build / "CMakeCache.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return line.partition("=")[2]
    raise SystemExit(f"{build} has no {name}; was it configured?")


def read_files(build: Path) -> set[Path]:
    """Every source and header that went into the extension and its libraries."""
    ninja = cache_value(build, "CMAKE_MAKE_PROGRAM")
    inputs, deps = (
        subprocess.run([ninja, "-C", str(build), "-t", *query], capture_output=True, text=True, check=True)
        for query in (["inputs", "_core"], ["deps"])
    )
    names = inputs.stdout.splitlines()[1:] + [line for line in deps.stdout.splitlines() if line.startswith("    ")]
    return {(build / name.strip()).resolve() for name in names}


def main(sdist: Path, build: Path) -> int:
    """Compare; 1 when a file is missing or differs."""
    root = Path(cache_value(build, "donabe_SOURCE_DIR")).resolve()
    vendored = Path(cache_value(build, "ggml_SOURCE_DIR")).resolve().parent
    environment = Path(sys.prefix).resolve()  # often a folder of the checkout; the build's requirements are in it
    with tarfile.open(sdist) as archive:
        top = archive.getnames()[0].split("/")[0]
        checked, wrong = 0, []
        for path in sorted(read_files(build)):
            if not path.is_file() or {build.resolve(), environment} & set(path.parents):
                continue
            if vendored in path.parents:
                name = f"{top}/{VENDORED}/{path.relative_to(vendored).as_posix()}"
            elif root in path.parents:
                name = f"{top}/{path.relative_to(root).as_posix()}"
            else:
                continue  # the system's
            checked += 1
            try:
                member = archive.extractfile(name)
            except KeyError:
                wrong.append(f"{name} is missing")
                continue
            if member is None or member.read() != path.read_bytes():
                wrong.append(f"{name} differs (is everything committed?)")
    print(f"  {checked} files compared", *wrong, sep="\n  PROBLEM: ")
    return 1 if wrong or checked < 100 else 0  # fewer than 100: the build folder was not built


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    raise SystemExit(main(Path(sys.argv[1]), Path(sys.argv[2])))
