"""Stored responses: found by their caller only, kept over a restart, bounded in number and age."""

from __future__ import annotations

import stat

import pytest

from donabe.errors import StoreError
from donabe.service.response_store import ResponseStore, StoredResponse


def response(id: str) -> StoredResponse:
    return StoredResponse({"id": id, "status": "completed"}, [{"type": "message"}, {"type": "reasoning"}], 1)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "home" / "responses.db"


def test_found_again_after_a_restart_and_private(path):
    store = ResponseStore(path)
    store.put(response("a"), caller="me")
    store.close()
    assert ResponseStore(path).get("a", caller="me") == response("a")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_belongs_to_its_caller(path):
    store = ResponseStore(path)
    store.put(response("a"), caller="me")
    assert store.get("a", caller="you") is None
    assert not store.delete("a", caller="you")
    assert store.delete("a", caller="me")
    assert store.get("a", caller="me") is None


def test_looking_makes_no_file(path):
    assert ResponseStore(path).get("a", caller="") is None
    assert not path.exists()


def test_oldest_go_when_there_are_too_many(path):
    store = ResponseStore(path, max_responses=2)
    for id in "abc":
        store.put(response(id), caller="")
    assert [store.get(id, caller="") is not None for id in "abc"] == [False, True, True]


def test_old_ones_go(path):
    store = ResponseStore(path, max_age_s=-1.0)
    store.put(response("a"), caller="")
    assert store.get("a", caller="") is None


def test_unusable_file_is_a_clear_error(tmp_path):
    (tmp_path / "x").write_bytes(b"no database" * 100)
    with pytest.raises(StoreError, match="stored responses"):
        ResponseStore(tmp_path / "x").put(response("a"), caller="")
