"""`donabe key` on a key file."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from donabe.cli.app import root
from donabe.errors import InvalidRequestError
from donabe.server.keys import KeyFile, KeyRing


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    monkeypatch.setenv("DONABE_HOME", str(tmp_path))

    def invoke(*args: str):
        return CliRunner().invoke(root, ["key", *args], catch_exceptions=False)

    return invoke


def test_created_key_opens_the_server_and_revoking_ends_it(invoke, tmp_path):
    text = invoke("create", "laptop", "--scope", "manage", "--requests-per-minute", "5").stdout.strip()
    ring = KeyRing((), KeyFile(tmp_path / "keys.json"))
    found = ring.find(text)
    assert (found.name, found.scope, found.requests_per_minute) == ("laptop", "manage", 5)
    assert "laptop" in invoke("list").stdout
    assert text not in invoke("list").stdout
    assert invoke("revoke", "laptop").stdout == "revoked laptop\n"
    assert ring.find(text) is None


def test_a_name_is_needed(invoke):
    with pytest.raises(InvalidRequestError, match="needs a name"):
        invoke("create")
    with pytest.raises(InvalidRequestError, match="no key"):
        invoke("revoke", "nobody")
