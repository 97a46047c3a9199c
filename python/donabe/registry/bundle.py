"""Bundles: models in one plain tar file, for machines without a network. `donabe save` writes one, `donabe load` reads
it.

    blobs/sha256-<hex>                               every blob once
    manifests/<host>/<namespace>/<model>/<tag>       then the manifests

Unpacked by hand into a store's folder, a bundle is that store. Reading never unpacks by name: a member must be a
regular file whose name parses as a digest or a model name; content is verified; models appear only after everything
was read. Blocking; call from a worker thread.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from donabe.errors import DonabeError, InvalidNameError, InvalidRequestError, SourceError, StoreError, VerificationError
from donabe.store.digest import Digest
from donabe.store.files import require_space
from donabe.store.manifests import MAX_MANIFEST_BYTES, Manifest
from donabe.store.models import ModelStore
from donabe.store.names import ModelName
from donabe.store.specs import build_spec
from donabe.types import PullProgress

_BLOCK = 512
_CHUNK = 1 << 20
_MAX_MEMBERS = 100_000
_MAX_BLOB_BYTES = 1 << 46


def save_bundle(store: ModelStore, names: Iterable[str | ModelName], target: BinaryIO) -> Iterator[PullProgress]:
    """Write models and everything they need to an open file.

    Raises:
        ModelNotFoundError, StoreError: A model is missing or damaged.
        StoreError: A name is too long for the format.
    """
    manifests = [store.read_manifest(name) for name in names]
    digests = dict.fromkeys(layer.digest for stored in manifests for layer in stored.manifest.all_layers)
    for digest in digests:
        yield from _save_blob(store, digest, target)
    for stored in manifests:
        target.write(_header("/".join(("manifests", *stored.name.parts)), len(stored.data)))
        target.write(_padded(stored.data))
    target.write(b"\0" * _BLOCK * 2)
    target.flush()
    yield PullProgress(status="success")


def _save_blob(store: ModelStore, digest: Digest, target: BinaryIO) -> Iterator[PullProgress]:
    path = store.blobs.path(digest)
    size, done = path.stat().st_size, 0
    target.write(_header(f"blobs/{digest.file_name}", size))
    with open(path, "rb") as source:
        while chunk := source.read(_CHUNK):
            target.write(chunk)
            done += len(chunk)
            yield PullProgress(status=f"saving {digest.short}", digest=str(digest), total=size, completed=done)
    if done != size:
        raise StoreError(f"blob {digest.short} changed while it was saved")
    target.write(b"\0" * (-size % _BLOCK))


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    try:
        if size < 1 << 33:
            return info.tobuf(tarfile.USTAR_FORMAT)
        return info.tobuf(tarfile.GNU_FORMAT)  # sizes beyond 8 GiB need GNU's numbers
    except ValueError as error:
        raise StoreError(f"{name.removeprefix('manifests/')} is too long a name for a bundle") from error


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % _BLOCK)


def load_bundle(store: ModelStore, source: BinaryIO) -> Iterator[PullProgress]:
    """Read a bundle from an open file (or pipe) into the store. Existing models of the same names are replaced.

    Raises:
        SourceError: It is not a bundle, or holds something a bundle must not.
        VerificationError, ModelFileError: A blob is not what its name says, or no usable model.
        StoreError: The store can't be written.
    """
    manifests: dict[ModelName, bytes] = {}
    added: list[Digest] = []
    try:
        for member in _members(source):
            if member.digest is not None:
                yield from _load_blob(store, member, source, added)
            elif member.name is not None:
                manifests[member.name] = _read_exactly(source, member.size)
            _read_exactly(source, -member.size % _BLOCK)
        if not manifests:
            raise SourceError("the bundle holds no model")
        yield PullProgress(status="verifying models")
        for name, data in manifests.items():
            _check_model(store, name, data)
    except DonabeError:
        store.discard_unused(added)
        raise
    yield PullProgress(status="writing manifest")
    for name, data in manifests.items():
        store.write_manifest(store.canonical(name), data)
    yield PullProgress(status="success")


def _load_blob(store: ModelStore, member: _Member, source: BinaryIO, added: list[Digest]) -> Iterator[PullProgress]:
    digest = member.digest
    assert digest is not None
    require_space(store.layout.root, member.size)
    with store.blobs.writer() as writer:
        while writer.size < member.size:
            writer.write(_read_exactly(source, min(_CHUNK, member.size - writer.size)))
            yield PullProgress(
                status=f"loading {digest.short}", digest=str(digest), total=member.size, completed=writer.size
            )
        _, is_new = writer.commit(digest)
    if is_new:
        added.append(digest)


def _check_model(store: ModelStore, name: ModelName, data: bytes) -> None:
    try:
        manifest = Manifest.decode(data)
    except StoreError as error:
        raise SourceError(f"{name.short}: {error}") from error
    for layer in manifest.all_layers:
        if not store.blobs.has(layer.digest, layer.size):
            raise VerificationError(f"{name.short}: blob {layer.digest.short} is missing from the bundle")
    build_spec(name, manifest, "", 0.0, store.blobs, strict=bool(manifest.of_kind("model")))


@dataclass(frozen=True, slots=True)
class _Member:
    """One file of a bundle: a blob (`digest`) or a manifest (`name`)."""

    size: int
    digest: Digest | None = None
    name: ModelName | None = None


def _members(source: BinaryIO) -> Iterator[_Member]:
    """The members' headers; the caller reads each one's content, padding included, before asking for the next."""
    for _ in range(_MAX_MEMBERS):
        header = source.read(_BLOCK)
        if not header.strip(b"\0"):
            return
        yield _parse_header(header)
    raise SourceError(f"the bundle has more than {_MAX_MEMBERS} members")


def _parse_header(header: bytes) -> _Member:
    """Parse a tar header by hand: the standard library would read extended headers of any size into memory."""
    if len(header) < _BLOCK or header[257:262] != b"ustar":
        raise SourceError("not a bundle: it is no tar file", hint="bundles are made with `donabe save`, uncompressed")
    total = sum(header[:148]) + sum(header[156:]) + 8 * ord(" ")
    if _number(header[148:156]) != total:
        raise SourceError("the bundle is damaged: a header's checksum is wrong")
    if header[156:157] not in {b"0", b"\0"}:
        raise SourceError("the bundle holds something that is not a plain file")
    name = header[:100].partition(b"\0")[0].decode("ascii", "replace")
    prefix = header[345:500].partition(b"\0")[0].decode("ascii", "replace") if header[257:263] == b"ustar\0" else ""
    return _classify(f"{prefix}/{name}" if prefix else name, _number(header[124:136]))


def _classify(path: str, size: int) -> _Member:
    folder, *parts = path.split("/")
    try:
        if folder == "blobs" and len(parts) == 1 and 0 <= size <= _MAX_BLOB_BYTES:
            return _Member(size, digest=Digest.parse(parts[0]))
        if folder == "manifests" and len(parts) == 4 and 0 <= size <= MAX_MANIFEST_BYTES:
            return _Member(size, name=ModelName(*parts))
    except (InvalidNameError, InvalidRequestError):
        pass
    shown = "".join(character if character.isprintable() else "?" for character in path)[:80]
    raise SourceError(f"the bundle holds {shown!r}, which is neither a blob nor a manifest")


def _number(field: bytes) -> int:
    """A number of a tar header: octal text, or GNU's base 256."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    try:
        return int(field.strip(b" \0") or b"0", 8)
    except ValueError as error:
        raise SourceError("the bundle is damaged: a header's number is none") from error


def _read_exactly(source: BinaryIO, size: int) -> bytes:
    parts, missing = [], size
    while missing:
        data = source.read(missing)
        if not data:
            raise VerificationError("the bundle is cut off", hint="copy it again")
        parts.append(data)
        missing -= len(data)
    return b"".join(parts)
