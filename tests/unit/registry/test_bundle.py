"""Bundles: what goes in comes out, plain tar tools read them, and hostile ones change nothing."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from tests.fakes.registry_gguf import tiny_model
from tests.fakes.registry_store import add_model

from donabe.errors import DonabeError, ModelNotFoundError, SourceError, VerificationError
from donabe.registry.bundle import load_bundle, save_bundle
from donabe.store.check import check_store
from donabe.store.digest import Digest
from donabe.store.models import ModelStore

WEIGHTS = tiny_model().encode()


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "area" / "models")


def _save(store: ModelStore, *names: str) -> bytes:
    target = io.BytesIO()
    list(save_bundle(store, names, target))
    return target.getvalue()


def _load(store: ModelStore, data: bytes) -> list[str]:
    return [event.status for event in load_bundle(store, io.BytesIO(data))]


def test_bundle_carries_models_over(store: ModelStore, tmp_path: Path) -> None:
    add_model(store, "a", system=b"Say hi!")
    add_model(store, "h:5000/team/b:t", license=b"MIT" * 500)
    data = _save(store, "A", "h:5000/team/b:t")
    other = ModelStore(tmp_path / "other")
    assert _load(other, data)[-2:] == ["writing manifest", "success"]
    for name in ("a", "h:5000/team/b:t"):
        assert other.read_manifest(name).data == store.read_manifest(name).data
    assert check_store(other, deep=True) == ()


def test_unpacked_with_tar_it_is_a_store(store: ModelStore, tmp_path: Path) -> None:
    add_model(store, "a", system=b"Say hi!")
    folder = tmp_path / "unpacked"
    with tarfile.open(fileobj=io.BytesIO(_save(store, "a"))) as archive:
        archive.extractall(folder, filter="data")
    assert ModelStore(folder).resolve("a").system == "Say hi!"


def test_saving_a_missing_model(store: ModelStore) -> None:
    with pytest.raises(ModelNotFoundError):
        _save(store, "absent")


def test_sizes_beyond_8_gib_are_written_in_gnu_form() -> None:
    from donabe.registry.bundle import _header, _parse_header

    digest = Digest.of_bytes(b"x")
    assert _parse_header(_header(f"blobs/{digest.file_name}", 1 << 40)).size == 1 << 40


def _tar(*members: tuple[str | tarfile.TarInfo, bytes]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return target.getvalue()


def _special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


BLOB = f"blobs/{Digest.of_bytes(WEIGHTS).file_name}"
HOSTILE = {
    "empty": b"",
    "text": b"hello",
    "zeros": b"\0" * 1024,
    "cut header": _tar((BLOB, WEIGHTS))[:300],
    "cut content": _tar((BLOB, WEIGHTS))[:700],
    "blob only": _tar((BLOB, WEIGHTS)),
    "traversal": _tar(("../x", b"evil")),
    "deep traversal": _tar(("blobs/../../x", b"evil")),
    "absolute": _tar(("/etc/x", b"evil")),
    "traversal in a manifest": _tar(("manifests/../../x/y", b"{}")),
    "dotted manifest": _tar(("manifests/h/n/../t", b"{}")),
    "hidden manifest": _tar(("manifests/h/n/m/.t", b"{}")),
    "short digest": _tar(("blobs/sha256-00", b"x")),
    "other folder": _tar(("x/y", b"evil")),
    "symlink": _tar((_special(BLOB, tarfile.SYMTYPE, "/etc/passwd"), b"")),
    "hard link": _tar((_special(BLOB, tarfile.LNKTYPE, "/etc/passwd"), b"")),
    "folder": _tar((_special("blobs", tarfile.DIRTYPE), b"")),
    "device": _tar((_special(BLOB, tarfile.CHRTYPE), b"")),
    "fifo": _tar((_special(BLOB, tarfile.FIFOTYPE), b"")),
    "long name record": _tar((_special("././@LongLink", tarfile.GNUTYPE_LONGNAME), b"x" * 2000)),
    "pax record": _tar((_special("x", tarfile.XHDTYPE), b"30 path=../../x\n")),
    "sparse": _tar((_special(BLOB, tarfile.GNUTYPE_SPARSE), b"")),
    "wrong content": _tar((BLOB, WEIGHTS[:-1] + b"!")),
    "manifest not JSON": _tar(("manifests/h/n/m/t", b"{")),
    "manifest too large": _tar(("manifests/h/n/m/t", b" " * ((4 << 20) + 1))),
    "control characters": _tar(("blobs/\x1b[2J", b"x")),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bundle_changes_nothing(store: ModelStore, data: bytes) -> None:
    add_model(store, "kept")
    area = store.layout.root.parent
    before = {path: path.read_bytes() for path in area.rglob("*") if path.is_file() and path.suffix != ".lock"}
    with pytest.raises((SourceError, VerificationError)) as caught:
        _load(store, data)
    assert str(caught.value).isprintable()
    after = {path: path.read_bytes() for path in area.rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert after == before


def test_flipped_checksum_is_noticed(store: ModelStore) -> None:
    data = bytearray(_tar((BLOB, WEIGHTS)))
    data[100] ^= 1
    with pytest.raises(SourceError, match="checksum"):
        _load(store, bytes(data))


def test_bundle_that_lacks_a_blob(store: ModelStore, tmp_path: Path) -> None:
    add_model(store, "a", system=b"x")
    manifest = store.read_manifest("a").data
    with pytest.raises(VerificationError, match="missing from the bundle"):
        _load(
            ModelStore(tmp_path / "other"),
            _tar((BLOB, WEIGHTS), ("manifests/registry.ollama.ai/library/a/latest", manifest)),
        )
    assert not ModelStore(tmp_path / "other").blobs.has(Digest.of_bytes(WEIGHTS))


def test_bundle_with_a_malformed_model(store: ModelStore, tmp_path: Path) -> None:
    add_model(store, "a")
    evil = ModelStore(tmp_path / "evil")
    add_model(evil, "bad", tiny_model().without("general.architecture"))
    with pytest.raises(DonabeError, match="architecture"):
        _load(store, _save(evil, "bad"))
    assert [name.short for name in store.names()] == ["a:latest"]
