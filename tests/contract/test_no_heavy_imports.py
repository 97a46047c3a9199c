"""Light commands stay light: what `import donabe` and `donabe --help` load."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {"fastapi", "httpx", "numpy", "prompt_toolkit", "psutil", "pydantic", "rich", "uvicorn", "donabe._core"}


def loaded_by(code: str) -> set[str]:
    program = f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import donabe",
        "from donabe.cli.app import root\nroot.main(['--help'], standalone_mode=False)",
        "from donabe.cli.app import root\nroot.main(['serve', '--help'], standalone_mode=False)",
        "from donabe.cli.app import root\nroot.main(['run', '--help'], standalone_mode=False)",
        "from donabe.settings import load_settings",
    ],
)
def test_nothing_heavy_is_loaded(code: str) -> None:
    assert loaded_by(code) & HEAVY == set()


def test_client_needs_no_server_and_no_engine() -> None:
    loaded = loaded_by("from donabe.client import Client")
    assert loaded & {"fastapi", "numpy", "uvicorn", "donabe._core", "donabe.server"} == set()
