"""Files of stored prefixes: whole and unchanged, or refused."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys

import numpy as np
import pytest

from donabe.engine import disk_container as container
from donabe.errors import StateError

KEY = bytes(range(32))
TOKENS = np.arange(5, 25, dtype=np.int32)
BLOBS = [b"whole state" * 9, b"partial"]


def header(**changes) -> container.Header:
    segments = (
        container.segment_of(memoryview(BLOBS[0]), 20, partial=False),
        container.segment_of(memoryview(BLOBS[1]), 12, partial=True),
    )
    fields = {"fingerprint": b"model", "scope": b"s" * 32, "tokens": TOKENS, "segments": segments} | changes
    return container.Header(**fields)


def write(path, key=KEY, **changes):
    return container.write_container(path, key, header(**changes), [memoryview(b) for b in BLOBS])


def read(path, key=KEY):
    with container.open_container(path) as file:
        found = container.read_header(file, key)
        return found, [container.read_blob(file, segment) for segment in found.segments]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.prefix"


def test_a_file_reads_back_and_is_private(path):
    n_bytes = write(path)
    found, blobs = read(path)
    assert blobs == BLOBS
    assert (found.fingerprint, found.scope) == (b"model", b"s" * 32)
    assert found.tokens.tolist() == TOKENS.tolist() and found.segments == header().segments
    assert path.stat().st_size == n_bytes
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == [path.name]


def test_any_changed_byte_is_refused(path):
    write(path)
    good = path.read_bytes()
    for i in range(len(good)):
        path.write_bytes(good[:i] + bytes([good[i] ^ (1 << i % 8)]) + good[i + 1 :])
        with pytest.raises(StateError):
            read(path)


def test_any_other_length_is_refused(path):
    write(path)
    good = path.read_bytes()
    for bad in (*(good[:n] for n in range(len(good))), good + b"\0", good * 2):
        path.write_bytes(bad)
        with pytest.raises(StateError):
            read(path)


def test_another_key_is_refused(path):
    write(path)
    with pytest.raises(StateError, match="signature"):
        read(path, key=bytes(32))


@pytest.mark.parametrize(
    "segments",
    [
        (),
        (container.Segment(19, False, 3, b"d" * 32),),
        (container.Segment(20, True, 3, b"d" * 32),),
        (container.Segment(20, False, 3, b"d" * 32), container.Segment(21, True, 3, b"d" * 32)),
        (container.Segment(20, False, 3, b"d" * 32), container.Segment(4, False, 3, b"d" * 32)),
    ],
)
def test_a_signed_header_that_contradicts_itself_is_refused(path, segments):
    container.write_container(path, KEY, header(segments=segments), [memoryview(b"abc")] * len(segments))
    with pytest.raises(StateError, match="contradicts"):
        read(path)


def test_a_link_is_not_followed(path, tmp_path):
    write(tmp_path / "real")
    path.symlink_to(tmp_path / "real")
    with pytest.raises(OSError):
        container.open_container(path)


def test_adapter_and_salt_can_not_stand_for_each_other():
    pairs = [("a", "b"), ("b", "a"), ("ab", ""), ("", "ab"), ("a\0", "b"), ("a", "\0b"), ("salt", "adapters")]
    assert len({container.scope_of(KEY, *pair) for pair in pairs}) == len(pairs)
    assert container.scope_of(KEY, "a", "b") != container.scope_of(bytes(32), "a", "b")


def test_fields_are_read_back_or_refused():
    fields = [("a", b"1"), ("", b""), ("b", b"x" * 300)]
    packed = container.pack_fields(fields)
    assert container.unpack_fields(packed) == dict(fields)
    for bad in (packed[:-1], packed + b"\0", packed + packed):
        with pytest.raises(StateError):
            container.unpack_fields(bad)


def test_the_key_is_made_once_and_private(tmp_path):
    home = tmp_path / "home"
    key = container.load_key(home)
    assert len(key) == container.KEY_BYTES and key != bytes(container.KEY_BYTES)
    assert container.load_key(home) == key
    assert stat.S_IMODE((home / container.KEY_FILE).stat().st_mode) == 0o600
    assert os.listdir(home) == [container.KEY_FILE]


@pytest.mark.parametrize("spoil", ["readable", "short", "long"])
def test_a_key_others_may_know_is_replaced(tmp_path, spoil):
    key = container.load_key(tmp_path)
    path = tmp_path / container.KEY_FILE
    if spoil == "readable":
        path.chmod(0o644)
    else:
        path.write_bytes(key[:-1] if spoil == "short" else key + b"x")
    assert container.load_key(tmp_path) != key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_folders_are_closed_to_others_and_links_refused(tmp_path):
    folder = tmp_path / "open"
    folder.mkdir(mode=0o755)
    container.make_private_folder(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(OSError):
        container.make_private_folder(tmp_path / "link")


WRITER = """
import sys
from pathlib import Path
import numpy as np
from donabe.engine import disk_container as c
tokens = np.arange(1000, dtype=np.int32)
blob = memoryview(bytes(3_000_000))
segment = c.segment_of(blob, 1000, partial=False)
print("ready", flush=True)
for i in range(100_000):
    header = c.Header(b"", b"", tokens, (segment,))
    c.write_container(Path(sys.argv[1]) / f"{i % 7}.prefix", bytes(range(32)), header, [blob])
"""


def test_a_killed_writer_leaves_whole_files_only(tmp_path):
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"ready\n"
            while not any(tmp_path.glob("*.prefix")):
                pass
            process.send_signal(signal.SIGKILL)
    paths = list(tmp_path.glob("*.prefix"))
    assert paths
    for path in paths:
        assert len(read(path)[1][0]) == 3_000_000


def test_contents_are_on_the_disk_before_the_file_has_its_name(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: events.append(("fsync", os.fstat(fd).st_size)) or fsync(fd))
    monkeypatch.setattr(os, "replace", lambda *paths: events.append(("replace", 0)) or replace(*paths))
    size = write(tmp_path / "a.prefix")
    assert events == [("fsync", size), ("replace", 0)]
