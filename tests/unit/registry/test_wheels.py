"""Finding models in wheels, and wheels that lie."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import pytest
from tests.fakes.registry_gguf import tiny_model
from tests.fakes.registry_packages import make_wheel

from donabe.errors import SourceError, VerificationError
from donabe.registry import wheels as reading
from donabe.registry.wheels import PackedModel, open_archive, read_member

MODEL = tiny_model().encode()


def find_model(wheels: list[Path], package: str) -> PackedModel:
    (model,) = reading.find_model(wheels, package)
    return model


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _zip(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def test_whole_model_is_found_and_read(tmp_path: Path) -> None:
    model = find_model([_write(tmp_path / "a.whl", make_wheel("a", {"sub/m.gguf": MODEL}))], "a")
    assert (model.file_name, model.size, model.digest) == ("m.gguf", len(MODEL), None)
    assert b"".join(read_member(model.pieces[0])) == MODEL


@pytest.mark.parametrize(
    "names", [("m.gguf.part00", "m.gguf.part01"), ("m.gguf.1", "m.gguf.2"), ("m.gguf-part-1of2", "m.gguf-part-2of2"),
              ("m.gguf.part9", "m.gguf.part10")],
)  # fmt: skip
def test_pieces_are_ordered_by_number(tmp_path: Path, names: tuple[str, str]) -> None:
    wheels = [
        _write(tmp_path / f"{index}.whl", make_wheel(f"p{index}", {name: data}))
        for index, (name, data) in enumerate(zip(reversed(names), (b"B", b"A"), strict=True))
    ]
    if names[0] == "m.gguf.part9":
        with pytest.raises(SourceError, match="missing or repeated"):
            find_model(wheels, "m")
        return
    model = find_model(wheels, "m")
    assert b"".join(data for piece in model.pieces for data in read_member(piece)) == b"AB"


def test_vision_projector_beside_the_model_is_not_the_model(tmp_path: Path) -> None:
    wheel = make_wheel("a", {"m.gguf": MODEL, "mmproj-m.gguf": MODEL})
    assert find_model([_write(tmp_path / "a.whl", wheel)], "a").file_name == "m.gguf"


@pytest.mark.parametrize("name", ["../../m.gguf", "/etc/m.gguf", "C:/m.gguf", "a/../../m.gguf", "..\\m.gguf"])
def test_member_names_never_become_paths(tmp_path: Path, name: str) -> None:
    model = find_model([_write(tmp_path / "a.whl", _zip(**{name: MODEL}))], "a")
    assert b"".join(read_member(model.pieces[0])) == MODEL
    assert [path.name for path in tmp_path.rglob("*")] == ["a.whl"]


@pytest.mark.parametrize(
    "data",
    [b"", b"PK\x03\x04", b"x" * 100, b"PK\x05\x06" + b"\0" * 10, make_wheel("a", {"m.gguf": MODEL})[:-30]],
)
def test_broken_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(VerificationError):
        find_model([_write(tmp_path / "a.whl", data)], "a")


def test_absurd_directory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 65_535, 65_535, 2_000_000_000, 0, 0)
    with pytest.raises(VerificationError, match="absurdly large"):
        open_archive(_write(tmp_path / "a.whl", b"x" * 100 + end))


def test_too_many_members_are_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(20_001):
            archive.writestr(f"{number}", b"")
    with pytest.raises(VerificationError, match="more than 20000 members"):
        open_archive(_write(tmp_path / "a.whl", buffer.getvalue()))


def test_damaged_data_is_refused(tmp_path: Path) -> None:
    wheel = bytearray(make_wheel("a", {"m.gguf": MODEL}))
    wheel[80] ^= 0xFF
    model = find_model([_write(tmp_path / "a.whl", bytes(wheel))], "a")
    with pytest.raises(VerificationError, match="damaged"):
        list(read_member(model.pieces[0]))


def test_understated_size_is_refused(tmp_path: Path) -> None:
    """A member that unpacks to more than it claims: a bomb with a modest label."""
    data = bytearray(_zip(**{"m.gguf": b"\0" * 1_000_000}))
    true_size = struct.pack("<I", 1_000_000)
    for _ in range(2):
        at = data.index(true_size)
        data[at : at + 4] = struct.pack("<I", 1000)
    model = find_model([_write(tmp_path / "a.whl", bytes(data))], "a")
    with pytest.raises(VerificationError):
        list(read_member(model.pieces[0]))


def test_split_set_is_found_in_order_over_several_wheels(tmp_path: Path) -> None:
    names = [f"m-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    wheels = [
        _write(tmp_path / "b.whl", make_wheel("b", {names[2]: b"C", names[0]: b"A"})),
        _write(tmp_path / "a.whl", make_wheel("a", {f"{names[1]}.part0": b"B", f"{names[1]}.part1": b"B"})),
    ]
    found = reading.find_model(wheels, "m")
    assert [model.file_name for model in found] == names
    assert [model.size for model in found] == [1, 2, 1]


def test_two_split_sets_are_several_models(tmp_path: Path) -> None:
    names = ("a-00001-of-00002.gguf", "b-00001-of-00002.gguf")
    with pytest.raises(SourceError, match="several models"):
        find_model([_write(tmp_path / "a.whl", make_wheel("a", dict.fromkeys(names, MODEL)))], "a")
