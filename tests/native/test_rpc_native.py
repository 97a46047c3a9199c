"""The native side of RPC workers: what it refuses, and how it judges files of the cache."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from donabe import _core
from donabe.errors import InvalidArgumentError, LoadError


def test_build_tells_the_protocol_it_speaks() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", _core.build_info()["rpc_protocol"])


@pytest.mark.parametrize(
    ("connection", "devices", "n_threads"), [(-1, ["CPU"], 1), (0, [], 1), (0, ["CPU"], 0), (0, ["nothing"], 1)]
)
def test_serving_refuses_bad_arguments(connection: int, devices: list[str], n_threads: int) -> None:
    with pytest.raises(InvalidArgumentError):
        _core.rpc_serve_connection(connection, devices, n_threads)


def test_cache_file_is_sound_when_its_name_is_its_hash(tmp_path: Path) -> None:
    whole = tmp_path / "85944171f73967e8"  # FNV-1a of the text, as published with the algorithm
    whole.write_bytes(b"foobar")
    torn = tmp_path / "af63dc4c8601ec8c"
    torn.write_bytes(b"")
    assert _core.rpc_cache_file_is_sound(str(whole))
    assert not _core.rpc_cache_file_is_sound(str(torn))
    with pytest.raises(LoadError, match="can't be read"):
        _core.rpc_cache_file_is_sound(str(tmp_path / "absent"))
