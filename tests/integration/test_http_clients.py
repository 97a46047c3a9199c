"""Unmodified client libraries, each feature of each, against a live server; the results become docs/compatibility.md.

The clients come from environments of their own, made by `ci/clients` (DONABE_CLIENTS names their folder): `python/` is
a virtual environment, `node/` holds node_modules. Without them only the clients of the `test` extra run. With
DONABE_WRITE_MATRIX=1 the page is rewritten.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.client_script import script
from tests.fakes.live import running
from tests.fakes.server import make_server
from tests.fakes.settings import FakeSettings
from tests.model_store import SMOLLM2
from tests.real_server import real_server

ROOT = Path(__file__).parents[2]
CHECKS = ROOT / "tests" / "clients"
ENVIRONMENTS = Path(os.environ.get("DONABE_CLIENTS") or Path.home() / ".cache" / "donabe" / "clients")
OWN = ("ollama", "openai", "anthropic")
OTHERS = {"langchain": "langchain-ollama", "litellm": "litellm", "llama_index": "llama-index"}

Results = dict[tuple[str, str], dict[str, str]]  # (client, feature) -> {scripted or real: outcome}
_results: Results = {}


def command(check: str) -> list[str]:
    """How to run a check; skips the test when its client is not installed."""
    if check == "node":
        if not (ENVIRONMENTS / "node" / "node_modules").is_dir() or shutil.which("node") is None:
            pytest.skip("run ci/clients to install the npm clients")
        return ["node", str(CHECKS / "check_node.mjs")]
    if check in OWN:
        return [sys.executable, str(CHECKS / f"check_{check}.py")]
    python = ENVIRONMENTS / "python" / "bin" / "python"
    if not python.exists():
        pytest.skip("run ci/clients to install the Python clients")
    return [str(python), str(CHECKS / f"check_{check}.py")]


def run_check(check: str, kind: str, url: str, *models: str) -> None:
    folder = ENVIRONMENTS / "node" if check == "node" else CHECKS
    done = subprocess.run(
        [*command(check), url, *models], cwd=folder, capture_output=True, text=True, timeout=280, check=False
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    for line in lines:
        client = line.get("client") or f"PyPI {OTHERS.get(check, check)}"
        _results.setdefault((client, line["feature"]), {})[kind] = "yes" if line["ok"] else "no"
    failed = [line for line in lines if not line["ok"]]
    assert done.returncode == 0, done.stderr[-2000:]
    assert lines
    assert failed == [], done.stderr[-2000:]


@pytest.fixture(scope="module")
def scripted(tmp_path_factory) -> Iterator[str]:
    settings = FakeSettings(home=tmp_path_factory.mktemp("home"))
    with running(make_server(script=script, settings=settings).app) as url:
        yield url


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Iterator[str]:
    with real_server(tmp_path_factory.mktemp("home")) as server:
        yield server.url


@pytest.mark.parametrize("check", [*OWN, *OTHERS, "node"])
def test_every_feature_over_scripted_models(check, scripted):
    run_check(check, "scripted", scripted, "C", "T", "E")


@pytest.mark.models
@pytest.mark.parametrize("check", [*OWN, *OTHERS, "node"])
def test_every_feature_with_a_real_model(check, real):
    run_check(check, "real", real, SMOLLM2, "-", SMOLLM2)


@pytest.fixture(scope="module", autouse=True)
def matrix() -> Iterator[None]:
    yield
    if os.environ.get("DONABE_WRITE_MATRIX") == "1":
        file = ROOT / "docs" / "compatibility.md"
        _, heading, differences = file.read_text(encoding="utf-8").partition("\n## Where answers differ")
        file.write_text(page(_results) + heading + differences, encoding="utf-8")


def page(results: Results) -> str:
    lines = [
        "# Clients that work",
        "",
        "Written by `tests/integration/test_http_clients.py`, which runs every feature of every client, unmodified,",
        "against a live server: over scripted models, and with SmolLM2 135M, a real model that knows neither tools nor",
        "thinking (-).",
        "",
        "| client | feature | scripted | real model |",
        "|---|---|---|---|",
    ]
    for (client, feature), outcome in sorted(results.items()):
        lines.append(f"| {client} | {feature} | {outcome.get('scripted', '-')} | {outcome.get('real', '-')} |")
    return "\n".join(lines) + "\n"
