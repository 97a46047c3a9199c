"""The file format of stored prefixes: who made it, which tokens, and the native state blobs, all authenticated.

    magic 8 | version u32 | header length u32 | header | HMAC-SHA256 of all before, 32 | blobs

The header is a list of fields, each with its name and both lengths, so that no two field lists give the same bytes. It
holds the model's fingerprint, a keyed digest of adapter set and salt, the token ids, length and SHA-256 of each blob.
Nothing of a file is interpreted before its HMAC was found right: llama.cpp does not check the states it is given.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from donabe.engine.tokens import Int32Array
from donabe.errors import StateError

MAGIC = b"DONABEPX"
VERSION = 1
KEY_BYTES = 32
KEY_FILE = "prefix-cache.key"
SUFFIX = ".prefix"
TEMP_SUFFIX = ".tmp"

_PREAMBLE = struct.Struct("<8sII")
_LENGTHS = struct.Struct("<HQ")
_SEGMENT = struct.Struct("<qBQ32s")  # n_tokens, partial, n_bytes, SHA-256
_MAC_BYTES = 32
_HEADER_BYTES_MAX = 64 << 20
_O_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_O_BINARY = getattr(os, "O_BINARY", 0)


@dataclass(frozen=True, slots=True)
class Segment:
    """One state blob of a file: the whole state of the path, or a partial state after n_tokens of it."""

    n_tokens: int
    partial: bool
    n_bytes: int
    digest: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Header:
    """What a file says of itself. `segments[0]` is the whole state after all tokens, the others are partial."""

    fingerprint: bytes  # packed fields
    scope: bytes  # keyed digest of what may share it: adapters and salt
    tokens: Int32Array
    segments: tuple[Segment, ...]

    @property
    def n_payload_bytes(self) -> int:
        return sum(segment.n_bytes for segment in self.segments)


def pack_fields(fields: Iterable[tuple[str, bytes]]) -> bytes:
    """Names and values, each with its length: equal bytes only for equal fields."""
    parts = []
    for name, value in fields:
        tag = name.encode()
        parts += [_LENGTHS.pack(len(tag), len(value)), tag, value]
    return b"".join(parts)


def unpack_fields(data: bytes) -> dict[str, bytes]:
    """Raises StateError when the lengths do not add up or a name is there twice."""
    fields: dict[str, bytes] = {}
    at = 0
    while at < len(data):
        if at + _LENGTHS.size > len(data):
            raise StateError("a field is cut off")
        n_tag, n_value = _LENGTHS.unpack_from(data, at)
        at += _LENGTHS.size
        end = at + n_tag + n_value
        if end > len(data):
            raise StateError("a field is longer than the header")
        name = data[at : at + n_tag].decode(errors="replace")
        if name in fields:
            raise StateError(f"field {name} is there twice")
        fields[name] = data[at + n_tag : end]
        at = end
    return fields


def pack_texts(texts: Mapping[str, str]) -> bytes:
    return pack_fields((name, text.encode()) for name, text in sorted(texts.items()))


def scope_of(key: bytes, adapters: str, salt: str) -> bytes:
    """Digest of what separates callers; keyed, so that a file does not tell a guessable salt."""
    packed = pack_fields([("adapters", adapters.encode()), ("salt", salt.encode())])
    return hmac.digest(key, b"donabe prefix scope\0" + packed, "sha256")


def segment_of(blob: memoryview, n_tokens: int, *, partial: bool) -> Segment:
    return Segment(n_tokens, partial, blob.nbytes, hashlib.sha256(blob).digest())


def write_container(path: Path, key: bytes, header: Header, blobs: Sequence[memoryview]) -> int:
    """Write a file that only this user can read; it appears whole or not at all. Returns its size."""
    front = _front(key, header)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{TEMP_SUFFIX}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _O_NOFOLLOW | _O_BINARY, 0o600)
        with open(descriptor, "wb", buffering=0) as file:
            for part in (memoryview(front), *blobs):
                _write_all(file, part)
            os.fsync(file.fileno())  # else the name could outlive a power failure, and the contents not
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return len(front) + header.n_payload_bytes


def open_container(path: Path) -> BinaryIO:
    """Raises OSError, also when the path is a symbolic link."""
    return open(os.open(path, os.O_RDONLY | _O_NOFOLLOW | _O_BINARY), "rb", buffering=0)


def read_header(file: BinaryIO, key: bytes) -> Header:
    """The header at the file's beginning; the file stands at the first blob then.

    Raises:
        StateError: It is not whole, not of this version, or was not written with this key.
    """
    start = _read_exactly(file, _PREAMBLE.size)
    magic, version, n_header = _PREAMBLE.unpack(start)
    if magic != MAGIC or version != VERSION:
        raise StateError("not a stored prefix of this version")
    if n_header > _HEADER_BYTES_MAX:
        raise StateError("its header is too long")
    body = _read_exactly(file, n_header)
    mac = _read_exactly(file, _MAC_BYTES)
    if not hmac.compare_digest(mac, _mac(key, start + body)):
        raise StateError("its signature is wrong")
    header = _parse(body)
    n_expected = _PREAMBLE.size + n_header + _MAC_BYTES + header.n_payload_bytes
    n_bytes = os.fstat(file.fileno()).st_size
    if n_bytes != n_expected:
        raise StateError(f"it has {n_bytes} bytes instead of {n_expected}")
    return header


def read_blob(file: BinaryIO, segment: Segment) -> bytes:
    """The next blob. Raises StateError when it is not the one that was written."""
    data = _read_exactly(file, segment.n_bytes)
    if not hmac.compare_digest(hashlib.sha256(data).digest(), segment.digest):
        raise StateError("its checksum is wrong")
    return data


def load_key(home: Path) -> bytes:
    """This installation's key, made on first use. One that others could have read or written is replaced.

    Raises OSError when the folder can't be used.
    """
    path = home / KEY_FILE
    for _ in range(3):
        try:
            with open_container(path) as file:
                info = os.fstat(file.fileno())
                data = file.read(KEY_BYTES + 1)
                if len(data) == KEY_BYTES and is_private(info):
                    return data
            path.unlink(missing_ok=True)
        except FileNotFoundError:
            pass
        _make_key(home, path)
    raise PermissionError(f"{path} can't be kept private")


def is_private(info: os.stat_result) -> bool:
    """Ours, and closed to everybody else."""
    if os.name == "nt":
        return True
    return info.st_uid == os.geteuid() and not stat.S_IMODE(info.st_mode) & 0o077


def make_private_folder(path: Path) -> None:
    """Create the folder, or close an own one to others. Raises OSError when it is a link or somebody else's."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    info = path.lstat()
    if not stat.S_ISDIR(info.st_mode) or (os.name != "nt" and info.st_uid != os.geteuid()):
        raise PermissionError(f"{path} is not a folder of this user")
    if not is_private(info):
        path.chmod(0o700)


def _make_key(home: Path, path: Path) -> None:
    """The first of several processes wins; the others read its key."""
    home.mkdir(parents=True, exist_ok=True)
    temporary = home / f"{KEY_FILE}.{secrets.token_hex(4)}{TEMP_SUFFIX}"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _O_NOFOLLOW | _O_BINARY, 0o600)
        with open(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
        except OSError:  # a file system without hard links
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _mac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, b"donabe prefix file\0" + data, "sha256")


def _front(key: bytes, header: Header) -> bytes:
    segments = b"".join(_SEGMENT.pack(s.n_tokens, s.partial, s.n_bytes, s.digest) for s in header.segments)
    body = pack_fields(
        [
            ("fingerprint", header.fingerprint),
            ("scope", header.scope),
            ("tokens", header.tokens.astype("<i4").tobytes()),
            ("segments", segments),
        ]
    )
    start = _PREAMBLE.pack(MAGIC, VERSION, len(body)) + body
    return start + _mac(key, start)


def _parse(body: bytes) -> Header:
    fields = unpack_fields(body)
    try:
        tokens = np.frombuffer(fields["tokens"], "<i4").astype(np.int32)
        segments = tuple(Segment(n, bool(p), size, digest) for n, p, size, digest in _segments(fields["segments"]))
        header = Header(fields["fingerprint"], fields["scope"], tokens, segments)
    except (KeyError, ValueError, struct.error) as error:
        raise StateError(f"its header can't be read: {error}") from None
    whole = header.segments[:1]
    if not whole or whole[0].partial or whole[0].n_tokens != len(tokens) or len(tokens) == 0:
        raise StateError("its header contradicts itself")
    if any(not s.partial or not 0 < s.n_tokens <= len(tokens) for s in header.segments[1:]):
        raise StateError("its header contradicts itself")
    return header


def _segments(data: bytes) -> Iterable[tuple[int, int, int, bytes]]:
    return _SEGMENT.iter_unpack(data)


def _read_exactly(file: BinaryIO, n_bytes: int) -> bytes:
    if n_bytes > os.fstat(file.fileno()).st_size:
        raise StateError("it is cut off")
    data = file.read(n_bytes)
    while len(data) < n_bytes:  # one read of the system gives 2 GiB at most
        more = file.read(n_bytes - len(data))
        if not more:
            raise StateError("it is cut off")
        data += more
    return data


def _write_all(file: BinaryIO, part: memoryview) -> None:
    part = part.cast("B") if part.format != "B" or part.ndim != 1 else part
    while part.nbytes:
        part = part[file.write(part) :]
