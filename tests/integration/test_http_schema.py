"""Requests made up from the OpenAPI document never make the server fail. Needs schemathesis from `ci/clients`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tests.fakes.client_script import script
from tests.fakes.live import running
from tests.fakes.server import make_server
from tests.fakes.settings import FakeSettings

ENVIRONMENTS = Path(os.environ.get("DONABE_CLIENTS") or Path.home() / ".cache" / "donabe" / "clients")

# /api/me answers 503 on purpose: there are no accounts.
OPTIONS = ("--exclude-path", "/api/me", "--checks", "not_a_server_error", "--phases", "fuzzing", "--max-examples", "10")


def test_made_up_requests_never_fail_the_server(tmp_path):
    program = ENVIRONMENTS / "python" / "bin" / "schemathesis"
    if not program.exists():
        pytest.skip("run ci/clients to install schemathesis")
    with running(make_server(script=script, settings=FakeSettings(home=tmp_path)).app) as url:
        done = subprocess.run(
            [program, "run", f"{url}/openapi.json", *OPTIONS],
            capture_output=True,
            text=True,
            timeout=280,
            cwd=tmp_path,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-4000:]
