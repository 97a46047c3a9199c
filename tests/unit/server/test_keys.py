"""The file of API keys: what it holds, who may read it, and several that change it at once."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

from donabe.errors import InvalidRequestError, SettingsError, StoreError
from donabe.server.keys import KeyFile, KeyRing
from donabe.store.locks import FileLock


def test_file_holds_no_key_and_is_private(tmp_path):
    file = KeyFile(tmp_path / "keys.json")
    key, text = file.create("mine", requests_per_minute=5)
    assert text not in (tmp_path / "keys.json").read_text()
    assert stat.S_IMODE((tmp_path / "keys.json").stat().st_mode) == 0o600
    assert KeyRing((), file).find(text) == key
    with pytest.raises(InvalidRequestError, match="already"):
        file.create("mine")
    with pytest.raises(InvalidRequestError, match="no key"):
        file.revoke("nobody")


def test_damaged_key_file_lets_nobody_in(tmp_path):
    (tmp_path / "keys.json").write_text("{")
    with pytest.raises(SettingsError, match="damaged"):
        KeyRing((), KeyFile(tmp_path / "keys.json")).find("x")


_CHANGE_KEYS = """
import sys
from pathlib import Path
from donabe.server.keys import KeyFile
file, name = KeyFile(Path(sys.argv[1])), sys.argv[2]
for number in range(15):
    file.create(f"{name}-{number}")
    if number % 3 == 0:
        file.revoke(f"{name}-{number}")
"""


def test_two_processes_lose_no_key_and_bring_none_back(tmp_path):
    path = tmp_path / "keys.json"
    KeyFile(path).create("first")
    commands = [[sys.executable, "-c", _CHANGE_KEYS, str(path), name] for name in ("a", "b")]
    writers = [subprocess.Popen(command, stderr=subprocess.PIPE) for command in commands]
    for writer in writers:
        _, errors = writer.communicate(timeout=60)
        assert writer.returncode == 0, errors.decode()
    expected = {f"{name}-{number}" for name in "ab" for number in range(15) if number % 3}
    assert {key.name for key in KeyFile(path).load()} == {"first", *expected}


def test_a_writer_waits_for_the_lock_but_not_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr("donabe.server.keys.LOCK_TIMEOUT_S", 0.1)
    with FileLock(tmp_path / "keys.lock"), pytest.raises(StoreError, match="changing the API keys"):
        KeyFile(tmp_path / "keys.json").create("mine")


def test_a_change_of_the_same_size_and_time_is_seen(tmp_path):
    file, path = KeyFile(tmp_path / "keys.json"), tmp_path / "keys.json"
    file.create("aaaa")
    assert [key.name for key in file.load()] == ["aaaa"]
    before = path.stat()
    other = tmp_path / "other"
    other.write_bytes(path.read_bytes().replace(b"aaaa", b"bbbb"))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(other, path)
    assert [key.name for key in file.load()] == ["bbbb"]


def test_unknown_priority_is_refused(tmp_path):
    with pytest.raises(InvalidRequestError, match="priority must be one of low, normal, high"):
        KeyFile(tmp_path / "keys.json").create("mine", priority="highest")


def test_keys_stored_before_there_were_priorities_are_normal(tmp_path):
    (tmp_path / "keys.json").write_text('[{"id":"a","name":"old","sha256":"00"}]')
    assert KeyFile(tmp_path / "keys.json").load()[0].priority == "normal"
