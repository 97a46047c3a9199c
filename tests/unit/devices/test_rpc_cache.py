"""The folder of an RPC worker's tensors: one user at a time, and nothing torn is ever believed."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from donabe.devices import rpc_cache
from donabe.devices.rpc_cache import open_cache


def name_of(data: bytes) -> str:
    """FNV-1a, as ggml names its files."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % (1 << 64)
    return f"{value:016x}"


class Native:
    def rpc_cache_file_is_sound(self, path: str) -> bool:
        return name_of(Path(path).read_bytes()) == Path(path).name


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"lock"}


def test_whole_files_stay_and_torn_ones_go(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    with open_cache(str(folder), Native()) as used:
        assert used == str(folder)
        (folder / name_of(b"whole")).write_bytes(b"whole")
        (folder / name_of(b"torn")).write_bytes(b"to")
    assert files(folder) == {name_of(b"whole")}


def test_second_user_goes_without(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc_cache, "LOCK_WAIT_S", 0.05)
    with open_cache(str(tmp_path), Native()) as first, open_cache(str(tmp_path), Native()) as second:
        assert (first, second) == (str(tmp_path), "")
    assert "another connection uses the cache" in capfd.readouterr().err
    with open_cache(str(tmp_path), Native()) as third:
        assert third == str(tmp_path)


def test_short_use_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_cache, "LOCK_WAIT_S", 60.0)
    first = open_cache(str(tmp_path), Native())
    first.__enter__()
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(open_cache(str(tmp_path), Native()).__enter__)
        first.__exit__(None, None, None)
        assert second.result(60) == str(tmp_path)


def test_what_a_killed_user_left_is_checked_by_the_next(tmp_path: Path) -> None:
    old = tmp_path / name_of(b"old")
    old.write_bytes(b"old, changed by nobody here")  # from before: its user ended well and had checked it
    os.utime(old, (1, 1))
    with pytest.raises(KeyboardInterrupt), open_cache(str(tmp_path), Native()):
        (tmp_path / name_of(b"torn")).write_bytes(b"t")
        raise KeyboardInterrupt
    assert name_of(b"torn") in files(tmp_path)
    with open_cache(str(tmp_path), Native()):
        assert files(tmp_path) == {old.name, "in-use"}


def test_no_folder_is_no_cache() -> None:
    with open_cache("", Native()) as used:
        assert used == ""
