"""Check an installed wheel from inside: run by ci/wheels with the Python of the environment it was installed into."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from donabe import _core

VARIANT = """
import sys
from donabe import _core
_core.init()
print(_core.build_info()["cpu_variant"])
"""


def main() -> None:
    """Every CPU variant is either chosen when named, or refused because this CPU lacks something."""
    lib = Path(_core.__file__).parent / "lib"
    variants = sorted(path.stem.partition("-cpu-")[2] for path in lib.glob("*ggml-cpu-*"))
    assert variants, f"no CPU variant in {lib}"
    runnable = []
    for variant in ["", *variants]:
        environment = os.environ | {"DONABE_CPU_VARIANT": variant}
        done = subprocess.run(
            [sys.executable, "-c", VARIANT], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode == 0:
            assert not variant or done.stdout.strip() == variant, done.stdout
            runnable.append(done.stdout.strip())
        else:
            assert f"this CPU can't run the CPU variant '{variant}'" in done.stderr, done.stderr
    print(f"  {len(variants)} CPU variants, {len(runnable) - 1} of them run here: {', '.join(runnable[1:])}")
    print(f"  chosen: {runnable[0]}")


if __name__ == "__main__":
    main()
