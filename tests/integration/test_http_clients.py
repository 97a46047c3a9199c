"""Unmodified client libraries, each feature of each, against a live server; docs/compatibility.md says what works.

`ci/clients` installs the clients; without it only those of the `test` extra run. With DONABE_WRITE_MATRIX=1 the page is
rewritten, else what was found has to be what it says.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests import client_matrix, client_programs
from tests.client_matrix import CLIENTS, KINDS, PAGE
from tests.client_models import real_server, scripted_server
from tests.client_programs import command

WRITES = os.environ.get("DONABE_WRITE_MATRIX") == "1"
_results: client_matrix.Results = {}
_ran: set[tuple[str, str]] = set()


def run_check(check: str, kind: str, about: dict[str, str]) -> None:
    """Run a script; all its features work, and the page lists exactly these."""
    program, folder = command(check)
    done = subprocess.run(
        [*program, json.dumps(about)], cwd=folder, capture_output=True, text=True, timeout=280, check=False
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    [default, *_] = CLIENTS[check]
    for line in lines:
        outcomes = _results.setdefault((line.get("client", default), line["feature"]), {})
        outcomes[kind] = "yes" if line["ok"] else "no"
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line for line in lines if not line["ok"]] == [], done.stderr[-2000:]
    _ran.add((check, kind))
    if not WRITES:
        page = client_matrix.committed(PAGE.read_text(encoding="utf-8"))
        assert client_matrix.of_check(_results, check, kind) == client_matrix.of_check(page, check, kind)


@pytest.fixture(scope="module")
def scripted(tmp_path_factory) -> Iterator[dict[str, str]]:
    with scripted_server(tmp_path_factory.mktemp("scripted")) as about:
        yield about


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Iterator[dict[str, str]]:
    with real_server(tmp_path_factory.mktemp("real")) as about:
        yield about


@pytest.mark.parametrize("check", CLIENTS)
def test_every_feature_over_scripted_models(check, scripted):
    run_check(check, "scripted", scripted)


@pytest.mark.models
@pytest.mark.parametrize("check", CLIENTS)
def test_every_feature_with_a_real_model(check, real):
    run_check(check, "real", real)


@pytest.fixture(scope="module", autouse=True)
def written_page() -> Iterator[None]:
    yield
    if WRITES:
        client_matrix.write(PAGE, _results, _ran)


@pytest.mark.skipif(WRITES, reason="the page is written after this")
def test_the_page_is_as_it_was_written():
    """Nothing was edited by hand, its versions are the pinned ones, and it has no clients that nothing checks."""
    page = PAGE.read_text(encoding="utf-8")
    rows = client_matrix.committed(page)
    assert {client for client, _ in rows} == {client for clients in CLIENTS.values() for client in clients}
    assert page.startswith(client_matrix.head(rows) + client_matrix.REST)


def test_a_part_of_the_page_is_not_written(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before{client_matrix.REST}\nafter\n")
    results: client_matrix.Results = {("npm ollama", "chat"): {"scripted": "yes", "real": "yes"}}
    everything = {(check, kind) for check in CLIENTS for kind in KINDS}
    with pytest.raises(ValueError, match=r"did not run: node \(real\)"):
        client_matrix.write(page, results, everything - {("node", "real")})
    assert page.read_text().startswith("before")
    client_matrix.write(page, results, everything)
    assert client_matrix.committed(page.read_text()) == results
    assert page.read_text().endswith("| yes | yes |\n" + client_matrix.REST + "\nafter\n")


def test_pinned_versions_are_exact_and_name_no_host():
    npm = json.loads((client_matrix.CHECKS / "package.json").read_text(encoding="utf-8"))["dependencies"]
    assert all(version[0].isdigit() for version in npm.values())
    lines = (client_matrix.CHECKS / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert all("==" in line for line in lines if line and not line.startswith("#"))
    lock = (client_matrix.CHECKS / "package-lock.json").read_text(encoding="utf-8")
    assert "://" not in lock
    packages = json.loads(lock)["packages"]
    assert {name: packages[f"node_modules/{name}"]["version"] for name in npm} == npm


def test_clients_that_are_missing_or_not_as_pinned_fail_where_they_have_to_be_there(monkeypatch, tmp_path):
    monkeypatch.setenv("DONABE_CLIENTS", str(tmp_path))
    monkeypatch.setenv("DONABE_REQUIRE_CLIENTS", "0")
    (tmp_path / "installed").write_text("openai==0.1\n")
    with pytest.raises(pytest.skip.Exception, match="ci/clients"):
        command("node")
    assert command("openai")[0][0] == sys.executable
    monkeypatch.setenv("DONABE_REQUIRE_CLIENTS", "1")
    for check in CLIENTS:
        with pytest.raises(pytest.fail.Exception, match="ci/clients"):
            command(check)
    pins = [(client_programs.CHECKS / name).read_text(encoding="utf-8") for name in client_programs.PINS]
    (tmp_path / "installed").write_text("".join(pins))
    assert command("openai")[0][0] == str(tmp_path / "python" / "bin" / "python")
