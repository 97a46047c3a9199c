"""Writes GGUF files out of the pieces of others: split sets become one file, metadata gets a key. Copies bytes,
decodes none.

Blocking; call from worker threads. Sources must have passed the validator.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from donabe.store import gguf_tables as tables
from donabe.store.gguf import Entry, GgufReader, Tensor

_VERSION = 3
_CHUNK_BYTES = 4 << 20

Progress = Callable[[int], None]


def merge_gguf(sources: Sequence[Path], target: Path, *, add_texts: Mapping[str, str] | None = None) -> None:
    """Write one GGUF with the metadata of the first source and the tensors of all.

    Args:
        sources: The parts of a split set in order, or one file.
        target: Created or replaced.
        add_texts: String keys to add or replace.

    The keys that describe a split set are left out.
    """
    readers: list[GgufReader] = []
    try:
        readers.extend(GgufReader(path) for path in sources)
        added = dict(add_texts or {})
        with open(target, "wb") as out:
            _write_header(out, readers, added)
            _write_data(out, readers, readers[0].alignment)
    finally:
        for reader in readers:
            reader.close()


def _write_header(out: BinaryIO, readers: Sequence[GgufReader], added: Mapping[str, str]) -> None:
    first = readers[0]
    kept = [key for key in first.entries if not key.startswith("split.") and key not in added]
    n_tensors = sum(len(reader.tensors) for reader in readers)
    out.write(tables.MAGIC + struct.pack("<IQQ", _VERSION, n_tensors, len(kept) + len(added)))
    with open(first.path, "rb") as source:
        for key in kept:
            entry = first.entries[key]
            out.write(_text(key) + _type_bytes(entry))
            _copy(source, out, entry.offset, _value_bytes(source, entry))
    for key, value in added.items():
        out.write(_text(key) + struct.pack("<I", tables.STRING) + _text(value))
    position = 0
    for reader in readers:
        for tensor in reader.tensors:
            out.write(_tensor_info(tensor, position))
            position += _padded(tensor.n_bytes, first.alignment)
    _pad(out, first.alignment)


def _write_data(out: BinaryIO, readers: Sequence[GgufReader], alignment: int) -> None:
    for reader in readers:
        with open(reader.path, "rb") as source:
            for tensor in reader.tensors:
                _copy(source, out, reader.data_start + tensor.offset, tensor.n_bytes)
                _pad(out, alignment)


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _type_bytes(entry: Entry) -> bytes:
    if entry.is_array:
        return struct.pack("<IIQ", entry.kind, entry.item, entry.count)
    return struct.pack("<I", entry.kind)


def _value_bytes(source: BinaryIO, entry: Entry) -> int:
    """Length of a value in the file, without its type."""
    if entry.item != tables.STRING:
        return entry.count * tables.SCALARS[entry.item][2]
    position = entry.offset
    for _ in range(entry.count):
        source.seek(position)
        (length,) = struct.unpack("<Q", source.read(8))
        position += 8 + length
    return position - entry.offset


def _tensor_info(tensor: Tensor, offset: int) -> bytes:
    kind = next(number for number, known in tables.TENSOR_TYPES.items() if known == tensor.type)
    shape = b"".join(struct.pack("<Q", length) for length in tensor.shape)
    return _text(tensor.name) + struct.pack("<I", len(tensor.shape)) + shape + struct.pack("<IQ", kind, offset)


def _padded(n_bytes: int, alignment: int) -> int:
    return -(-n_bytes // alignment) * alignment


def _pad(out: BinaryIO, alignment: int) -> None:
    out.write(b"\0" * (-out.tell() % alignment))


def _copy(source: BinaryIO, out: BinaryIO, start: int, n_bytes: int) -> None:
    source.seek(start)
    while n_bytes:
        chunk = source.read(min(n_bytes, _CHUNK_BYTES))
        if not chunk:
            raise EOFError("the source became shorter while it was copied")
        out.write(chunk)
        n_bytes -= len(chunk)
