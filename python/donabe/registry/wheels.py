"""Looking inside wheels for model files. Members are read as streams; nothing is ever unpacked to a path from the
archive.

A wheel is a zip file made by a stranger: the directory's size, the number of members and their claimed lengths are
bounded, and reading stops where the claim ends.
"""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from donabe.errors import SourceError, VerificationError
from donabe.store.digest import Digest

_MAX_DIRECTORY_BYTES = 16 << 20
_MAX_MEMBERS = 20_000
_MAX_MODEL_BYTES = 1 << 40
_MAX_TEXT_BYTES = 1 << 20
_MODEL = re.compile(r"(?P<base>[^/]+\.gguf)", re.IGNORECASE)
_PART = re.compile(r"(?P<base>[^/]+\.gguf)[._-]?(?:part|chunk)?[._-]?(?P<number>\d{1,5})(?:of\d+)?", re.IGNORECASE)
_SPLIT = re.compile(r"(?P<prefix>.+)-\d{5}-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
_SUMS = re.compile(r"SHA256SUMS(\.txt)?", re.IGNORECASE)
_LICENSE = re.compile(r"(LICENSE|LICENCE|COPYING|NOTICE)([.-][^/]*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ModelMember:
    """A GGUF, or a numbered piece of one, inside a wheel."""

    wheel: Path
    member: str
    base: str  # the GGUF's file name
    number: int | None  # None = the whole file
    size: int


@dataclass(frozen=True, slots=True)
class PackedModel:
    """One GGUF found in one or more wheels, with what the wheels say about it."""

    file_name: str
    pieces: tuple[ModelMember, ...]
    digest: Digest | None
    licenses: tuple[str, ...]

    @property
    def size(self) -> int:
        return sum(piece.size for piece in self.pieces)


def find_model(wheels: Iterable[Path], package: str) -> tuple[PackedModel, ...]:
    """Find the one model that the wheels hold: a GGUF, whole or in pieces, or the GGUFs of a split set in order.

    Raises:
        SourceError: There is none, there are several, or pieces are missing.
        VerificationError: A wheel is damaged.
    """
    members: list[ModelMember] = []
    sums: dict[str, Digest] = {}
    licenses: list[str] = []
    others: set[str] = set()
    for wheel in wheels:
        with open_archive(wheel) as archive:
            for info in archive.infolist():
                name = info.filename.rsplit("/", 1)[-1]
                member = _model_member(wheel, info, name)
                if member is not None:
                    members.append(member)
                elif _SUMS.fullmatch(name):
                    sums |= _parse_sums(_read_text(archive, info))
                elif _LICENSE.fullmatch(name) and info.file_size <= _MAX_TEXT_BYTES:
                    licenses.append(_read_text(archive, info))
                others.add(name.rsplit(".", 1)[-1])
    texts = tuple(dict.fromkeys(text for text in licenses if text.strip()))
    files = [_join(group, package) for group in _group(members, package, others)]
    return tuple(PackedModel(pieces[0].base, pieces, sums.get(pieces[0].base), texts) for pieces in files)


def read_member(piece: ModelMember, chunk_bytes: int = 1 << 20) -> Iterator[bytes]:
    """The member's bytes, never more than its claimed size; the archive's checksum is verified at the end.

    Raises:
        VerificationError: The data is damaged or longer than claimed.
    """
    n_read = 0
    try:
        with open_archive(piece.wheel) as archive, archive.open(piece.member) as stream:
            while data := stream.read(chunk_bytes):
                n_read += len(data)
                if n_read > piece.size:
                    raise VerificationError(f"{piece.base}: the wheel holds more data than it claims")
                yield data
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise VerificationError(f"{piece.base}: the wheel is damaged ({error})", hint="pull it again") from error
    if n_read != piece.size:
        raise VerificationError(f"{piece.base}: the wheel holds {n_read} bytes of the {piece.size} it claims")


def open_archive(path: Path) -> zipfile.ZipFile:
    """Open a zip file whose directory has a bounded size.

    Raises:
        VerificationError: It is not a zip file, or an absurd one.
    """
    _check_directory_size(path)
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise VerificationError("the downloaded wheel is not a zip file", hint="pull it again") from error
    if len(archive.namelist()) > _MAX_MEMBERS:
        archive.close()
        raise VerificationError(f"the wheel has more than {_MAX_MEMBERS} members")
    return archive


def _check_directory_size(path: Path) -> None:
    """zipfile reads the whole central directory into objects; look at its claimed size before letting it."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, size - 65_557))
        tail = file.read()
        at = tail.rfind(b"PK\x05\x06")
        if at < 0 or len(tail) - at < 22:
            raise VerificationError("the downloaded wheel is not a zip file", hint="pull it again")
        (directory_bytes,) = struct.unpack_from("<I", tail, at + 12)
        if directory_bytes == 0xFFFF_FFFF:
            file.seek(max(0, size - len(tail) + at - 76))
            extended = file.read(76)
            mark = extended.find(b"PK\x06\x06")
            directory_bytes = struct.unpack_from("<Q", extended, mark + 40)[0] if 0 <= mark <= 28 else 1 << 63
    if directory_bytes > _MAX_DIRECTORY_BYTES:
        raise VerificationError("the wheel's directory is absurdly large")


def _model_member(wheel: Path, info: zipfile.ZipInfo, name: str) -> ModelMember | None:
    if info.is_dir() or info.flag_bits & 1 or not 0 < info.file_size <= _MAX_MODEL_BYTES:
        return None
    whole = _MODEL.fullmatch(name)
    if whole:
        return ModelMember(wheel, info.filename, whole["base"], None, info.file_size)
    part = _PART.fullmatch(name)
    return ModelMember(wheel, info.filename, part["base"], int(part["number"]), info.file_size) if part else None


def _group(members: list[ModelMember], package: str, suffixes: set[str]) -> Iterator[list[ModelMember]]:
    """What the wheels hold of each GGUF: one, or those of a split set."""
    models = [member for member in members if "mmproj" not in member.base.lower()]
    bases = sorted({member.base for member in models})
    if not bases:
        if "safetensors" in suffixes:
            raise SourceError(
                f"{package} holds a model in safetensors form, not GGUF", hint="choose a package with a .gguf file"
            )
        raise SourceError(f"{package} holds no .gguf file", hint="choose a package that ships a GGUF model")
    matches = [_SPLIT.fullmatch(base) for base in bases]
    is_set = len({(match["prefix"], match["count"]) if match else None for match in matches}) == 1
    if len(bases) > 1 and not (is_set and matches[0]):
        raise SourceError(f"{package} holds several models ({', '.join(bases[:5])})", hint="choose a package with one")
    for base in bases:
        yield [member for member in models if member.base == base]


def _join(members: list[ModelMember], package: str) -> tuple[ModelMember, ...]:
    """One GGUF: a whole copy of it if there is one, else its pieces in order."""
    whole = [member for member in members if member.number is None]
    if whole:
        return (whole[0],)
    pieces = sorted(members, key=lambda member: member.number or 0)
    numbers = [piece.number or 0 for piece in pieces]
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))) or numbers[0] > 1:
        raise SourceError(f"{package}: pieces of {pieces[0].base} are missing or repeated (found {numbers})")
    return tuple(pieces)


def _read_text(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> str:
    try:
        with archive.open(info) as stream:
            return stream.read(_MAX_TEXT_BYTES).decode("utf-8", "replace")
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise VerificationError(f"the wheel is damaged ({error})", hint="pull it again") from error


def _parse_sums(text: str) -> dict[str, Digest]:
    found = re.findall(r"^([0-9a-fA-F]{64}) [ *](.+)$", text, re.MULTILINE)
    return {name.strip().rsplit("/", 1)[-1]: Digest.parse(f"sha256:{hex_digits}") for hex_digits, name in found}
