"""Stored responses: found by their caller only, kept over a restart, bounded in number, age and bytes."""

from __future__ import annotations

import sqlite3
import stat

import psutil
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
    now = [1000.0]
    store = ResponseStore(path, max_age_s=10.0, clock=lambda: now[0])
    store.put(response("a"), caller="")
    now[0] += 9
    assert store.get("a", caller="") is not None
    now[0] += 2
    assert store.get("a", caller="") is None  # also when nothing new has come since


def large(id: str, n_bytes: int) -> StoredResponse:
    return StoredResponse({"id": id}, [{"text": "x" * n_bytes}], 1)


def test_oldest_go_when_all_together_are_too_large(path):
    store = ResponseStore(path, max_bytes=10_000)
    for id in "abcd":
        store.put(large(id, 4000), caller="")
    assert [store.get(id, caller="") is not None for id in "abcd"] == [False, False, True, True]


def test_bytes_are_counted_again_after_a_restart(path):
    store = ResponseStore(path, max_bytes=10_000)
    store.put(large("a", 6000), caller="")
    store.close()
    store = ResponseStore(path, max_bytes=10_000)
    store.put(large("b", 6000), caller="")
    assert [store.get(id, caller="") is not None for id in "ab"] == [False, True]


def test_two_servers_on_one_file_share_the_bound(path):
    one, two = (ResponseStore(path, max_bytes=10_000) for _ in range(2))
    one.put(large("a", 4000), caller="")
    two.put(large("b", 4000), caller="")
    one.put(large("c", 4000), caller="")
    two.put(large("d", 1000), caller="")
    assert [two.get(id, caller="") is not None for id in "abcd"] == [False, True, True, True]
    two.delete("b", caller="")
    one.put(large("e", 4000), caller="")
    assert [one.get(id, caller="") is not None for id in "cde"] == [True, True, True]


def test_a_file_that_kept_no_count_is_counted(path):
    """As versions before the count wrote it."""
    store = ResponseStore(path, max_bytes=10_000)
    store.put(large("a", 6000), caller="")
    store.close()
    database = sqlite3.connect(path)
    database.executescript("DROP TRIGGER count_added; DROP TRIGGER count_removed; DROP TABLE stored;")
    database.close()
    store = ResponseStore(path, max_bytes=10_000)
    store.put(large("b", 6000), caller="")
    assert [store.get(id, caller="") is not None for id in "ab"] == [False, True]


def test_a_put_that_fails_changes_nothing(path, monkeypatch):
    store = ResponseStore(path, max_bytes=10_000)
    store.put(response("a"), caller="")
    with monkeypatch.context() as broken:
        broken.setattr(store, "_n_bytes", lambda: (_ for _ in ()).throw(StoreError("broken")))
        with pytest.raises(StoreError, match="broken"):
            store.put(large("a", 4000), caller="")
    assert store.get("a", caller="") == response("a")
    store.put(large("b", 4000), caller="")  # and the next one goes through


def test_replaced_and_deleted_ones_no_longer_count(path):
    store = ResponseStore(path, max_bytes=10_000)
    for _ in range(5):
        store.put(large("a", 6000), caller="")
    store.put(large("b", 3000), caller="")
    assert store.get("a", caller="") is not None
    store.delete("a", caller="")
    store.put(large("c", 6000), caller="")
    assert store.get("b", caller="") is not None


def test_one_that_is_too_large_alone_is_refused(path):
    store = ResponseStore(path, max_bytes=1000)
    with pytest.raises(StoreError, match="can't be stored"):
        store.put(large("a", 2000), caller="")


def test_unusable_file_is_a_clear_error(tmp_path):
    (tmp_path / "x").write_bytes(b"no database" * 100)
    with pytest.raises(StoreError, match="stored responses"):
        ResponseStore(tmp_path / "x").put(response("a"), caller="")


def test_a_damaged_file_is_closed_again(path):
    path.parent.mkdir()
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError) as caught:
        ResponseStore(path).get("a", caller="")
    assert caught.tb is not None  # what it keeps alive must not be the connection
    assert str(path) not in {file.path for file in psutil.Process().open_files()}
