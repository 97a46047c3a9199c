"""A pure-Python reader of GGUF headers, strict about structure. Runs before any native code sees a file.

Reads the header through one bounded window: nothing is allocated by a count the file claims, the weights are never
touched, and a file cut while it is read gives an error, not a signal (there is no mmap). Arrays are located, checked
to lie inside the file, and decoded only when asked for. What the values mean is checked by `gguf_rules`.

Layout: magic, version u32, n_tensors u64, n_kv u64, key/value pairs, tensor infos, padding, tensor data.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from donabe.errors import ModelFileError
from donabe.store import gguf_tables as tables
from donabe.store.gguf_tables import TensorType

_WINDOW_BYTES = 1 << 20
_MAX_KEYS = 65_536
_MAX_TENSORS = 131_072
_MAX_STRINGS = 1 << 23  # of all string arrays together; the largest vocabularies and merge lists have about 2^20
_MAX_STRING_BYTES = 1 << 24
_MAX_KEY_BYTES = 65_535
_MAX_NAME_BYTES = 63  # ggml's GGML_MAX_NAME, less the end mark
_MAX_ALIGNMENT = 65_536

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a value is. `count` is 1 for scalars; for arrays `item` is the element type and `offset` the first
    element.
    """

    kind: int
    item: int
    count: int
    offset: int

    @property
    def is_array(self) -> bool:
        return self.kind == tables.ARRAY

    @property
    def type_name(self) -> str:
        name = tables.value_type_name(self.item)
        return f"array of {name}" if self.is_array else name


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor's place. `offset` counts from the data section's start; `shape` is in ggml order, fastest first."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int

    @property
    def n_elements(self) -> int:
        count = 1
        for length in self.shape:
            count *= length
        return count

    @property
    def n_bytes(self) -> int:
        return self.n_elements // self.type.n_block * self.type.n_bytes


class _Window:
    """A forward-reading view of a file that never holds much more than one window of it."""

    def __init__(self, descriptor: int, size: int, file_name: str) -> None:
        self._descriptor = descriptor
        self.size = size
        self.file_name = file_name
        self.position = 0
        self._buffer = b""
        self._base = 0

    def error(self, message: str) -> ModelFileError:
        return ModelFileError(f"{self.file_name}: {message}", path=self.file_name)

    def take(self, n_bytes: int, what: str) -> bytes:
        """The next bytes; `what` names them in the error when the file ends first."""
        start = self.position
        if n_bytes > self.size - start:
            raise self.error(f"the file is cut off: {what} needs {n_bytes} bytes at {start}, the file has {self.size}")
        end = start + n_bytes
        if start < self._base or end > self._base + len(self._buffer):
            self._fill(start, max(n_bytes, _WINDOW_BYTES))
            if end > self._base + len(self._buffer):
                raise self.error(f"the file became shorter while it was read ({what})")
        self.position = end
        return self._buffer[start - self._base : end - self._base]

    def skip(self, n_bytes: int, what: str) -> None:
        if n_bytes > self.size - self.position:
            raise self.error(
                f"the file is cut off: {what} needs {n_bytes} bytes at {self.position}, the file has {self.size}"
            )
        self.position += n_bytes

    def skip_strings(self, count: int, what: str) -> None:
        """Walk `count` strings. A tight loop: vocabularies have hundreds of thousands of them."""
        unpack, size = _U64.unpack_from, self.size
        buffer, base, position = self._buffer, self._base, self.position
        limit = base + len(buffer) - 8
        for index in range(count):
            if position > limit or position < base:
                if size - position < 8:
                    raise self.error(f"the file is cut off inside {what}, item {index} of {count}")
                self._fill(position, _WINDOW_BYTES)
                buffer, base = self._buffer, self._base
                limit = base + len(buffer) - 8
                if position > limit:
                    raise self.error(f"the file became shorter while it was read ({what})")
            (length,) = unpack(buffer, position - base)
            position += 8 + length
            if position > size or length > _MAX_STRING_BYTES:
                raise self.error(f"{what}, item {index}: a string of {length} bytes does not fit in the file")
        self.position = position

    def u32(self, what: str) -> int:
        return int(_U32.unpack(self.take(4, what))[0])

    def u64(self, what: str) -> int:
        return int(_U64.unpack(self.take(8, what))[0])

    def text(self, what: str, limit: int) -> bytes:
        length = self.u64(what)
        if length > limit:
            raise self.error(f"{what} is {length} bytes long; at most {limit} are allowed")
        return self.take(length, what)

    def _fill(self, start: int, n_bytes: int) -> None:
        os.lseek(self._descriptor, start, os.SEEK_SET)
        parts, got = [], 0
        while got < n_bytes:
            part = os.read(self._descriptor, n_bytes - got)
            if not part:
                break
            parts.append(part)
            got += len(part)
        self._buffer, self._base = b"".join(parts), start


class GgufReader:
    """An open GGUF file: its header, parsed. Close it, or use it as a context manager.

    Args:
        path: A regular file; devices, pipes and folders are refused without being opened for reading.

    Raises:
        ModelFileError: The file is missing, or its header is not a well-formed one.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.file_name = self.path.name
        self._descriptor = _open_regular(self.path)
        try:
            self.size_bytes = os.fstat(self._descriptor).st_size
            self._window = _Window(self._descriptor, self.size_bytes, self.file_name)
            self.entries: dict[str, Entry] = {}
            self.tensors: list[Tensor] = []
            self.version = 0
            self._n_strings = 0
            self._parse()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> GgufReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- values ------------------------------------------------------------------------------------------------------

    def error(self, message: str) -> ModelFileError:
        return self._window.error(message)

    @property
    def architecture(self) -> str:
        return self.text("general.architecture")

    def get(self, key: str, default: Any = None) -> Any:
        """A value by key: a number, bool, str, or list. Decodes the whole array, so ask `entries` for its length
        first.
        """
        entry = self.entries.get(key)
        if entry is None:
            return default
        if not entry.is_array:
            return self._scalar(entry, key)
        return list(self.items(key))

    def items(self, key: str) -> Iterator[Any]:
        """The elements of an array, decoded one window at a time."""
        entry = self.entries[key]
        self._window.position = entry.offset
        if entry.item == tables.STRING:
            for _ in range(entry.count):
                yield self._window.text(key, _MAX_STRING_BYTES).decode("utf-8", "replace")
            return
        _, code, width = tables.SCALARS[entry.item]
        done = 0
        while done < entry.count:
            step = min(entry.count - done, _WINDOW_BYTES // width)
            self._window.position = entry.offset + done * width
            yield from struct.unpack(f"<{step}{code}", self._window.take(step * width, key))
            done += step

    def text(self, key: str, default: str = "") -> str:
        """A string value; `default` when the key is missing or holds something else."""
        entry = self.entries.get(key)
        return (
            str(self._scalar(entry, key)) if entry and not entry.is_array and entry.item == tables.STRING else default
        )

    def integer(self, key: str, default: int = 0) -> int:
        """An integer value; for an array of integers (one per layer) the largest."""
        entry = self.entries.get(key)
        if entry is None or entry.item not in tables.INTEGERS or entry.count == 0:
            return default
        return max(self.items(key)) if entry.is_array else int(self._scalar(entry, key))

    def _scalar(self, entry: Entry, key: str) -> Any:
        self._window.position = entry.offset
        if entry.item == tables.STRING:
            return self._window.text(key, _MAX_STRING_BYTES).decode("utf-8", "replace")
        _, code, width = tables.SCALARS[entry.item]
        return struct.unpack(f"<{code}", self._window.take(width, key))[0]

    # --- parsing -----------------------------------------------------------------------------------------------------

    def _parse(self) -> None:
        window = self._window
        magic = window.take(min(4, self.size_bytes), "the magic number")
        if magic != tables.MAGIC:
            raise window.error(f"not a GGUF file ({_guess(magic, self)})")
        self.version = window.u32("the version")
        if self.version & 0xFFFF == 0:
            raise window.error("a big-endian GGUF; this machine needs a little-endian one")
        if self.version not in tables.SUPPORTED_VERSIONS:
            raise window.error(f"GGUF version {self.version} is not supported (2 and 3 are)")
        n_tensors, n_keys = window.u64("the tensor count"), window.u64("the key count")
        if n_keys > _MAX_KEYS or n_keys * 13 > self.size_bytes:
            raise window.error(f"the header claims {n_keys} metadata keys, more than the file can hold")
        if n_tensors > _MAX_TENSORS or n_tensors * 25 > self.size_bytes:
            raise window.error(f"the header claims {n_tensors} tensors, more than the file can hold")
        for index in range(n_keys):
            self._parse_entry(index)
        self.alignment = self._read_alignment()
        names: set[str] = set()
        for index in range(n_tensors):
            tensor = self._parse_tensor(index)
            if tensor.name in names:
                raise window.error(f"tensor {tensor.name!r} appears twice")
            names.add(tensor.name)
            self.tensors.append(tensor)
        self.header_end = window.position
        self.data_start = -(-window.position // self.alignment) * self.alignment

    def _parse_entry(self, index: int) -> None:
        window = self._window
        raw = window.text(f"metadata key {index}", _MAX_KEY_BYTES)
        try:
            key = raw.decode("ascii")
        except UnicodeDecodeError:
            raise window.error(f"metadata key {index} is not ASCII") from None
        if not key or not key.isprintable():
            raise window.error(f"metadata key {index} is empty or unprintable")
        if key in self.entries:
            raise window.error(f"metadata key {key!r} appears twice")
        kind = window.u32(f"the type of {key}")
        item, count = kind, 1
        if kind == tables.ARRAY:
            item, count = window.u32(f"the element type of {key}"), window.u64(f"the length of {key}")
        entry = Entry(kind, item, count, window.position)
        if item == tables.STRING:
            self._n_strings += count
            if self._n_strings > _MAX_STRINGS or count * 8 > self.size_bytes - window.position:
                raise window.error(f"{key} claims {count} strings, more than the file can hold")
            window.skip_strings(count, key)
        elif item in tables.SCALARS:
            window.skip(count * tables.SCALARS[item][2], key)
        else:
            raise window.error(f"{key} has the unknown value type {item}")
        self.entries[key] = entry

    def _read_alignment(self) -> int:
        entry = self.entries.get("general.alignment")
        if entry is None:
            return tables.DEFAULT_ALIGNMENT
        resume = self._window.position
        if entry.kind != tables.UINT32:
            raise self._window.error(f"general.alignment must be uint32, it is {entry.type_name}")
        value = int(self._scalar(entry, "general.alignment"))
        self._window.position = resume
        if not 8 <= value <= _MAX_ALIGNMENT or value & (value - 1):
            raise self._window.error(
                f"general.alignment is {value}; it must be a power of two from 8 to {_MAX_ALIGNMENT}"
            )
        return value

    def _parse_tensor(self, index: int) -> Tensor:
        window = self._window
        raw = window.text(f"the name of tensor {index}", _MAX_NAME_BYTES)
        name = raw.decode("utf-8", "replace")
        if not raw or not name.isprintable():
            raise window.error(f"the name of tensor {index} is empty or unprintable")
        n_dims = window.u32(f"the shape of tensor {name!r}")
        if not 1 <= n_dims <= 4:
            raise window.error(f"tensor {name!r} has {n_dims} dimensions; 1 to 4 are allowed")
        shape = struct.unpack(f"<{n_dims}Q", window.take(8 * n_dims, f"the shape of tensor {name!r}"))
        if not all(1 <= length < 1 << 62 for length in shape):
            raise window.error(f"tensor {name!r} has the impossible shape {list(shape)}")
        number, offset = window.u32(f"the type of tensor {name!r}"), window.u64(f"the offset of tensor {name!r}")
        kind = tables.TENSOR_TYPES.get(number)
        if kind is None:
            raise window.error(f"tensor {name!r} has the unknown or removed type {number}")
        if shape[0] % kind.n_block:
            raise window.error(
                f"tensor {name!r}: rows of {shape[0]} are not whole blocks of {kind.name} ({kind.n_block})"
            )
        return Tensor(name, shape, kind, offset)


def _open_regular(path: Path) -> int:
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise ModelFileError(f"{path.name}: not a regular file", path=path.name)
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError as error:
        raise ModelFileError(f"{path.name}: no such file", path=path.name) from error
    except OSError as error:
        raise ModelFileError(f"{path.name}: can't be read ({error.strerror})", path=path.name) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # exchanged between the two calls
        os.close(descriptor)
        raise ModelFileError(f"{path.name}: not a regular file", path=path.name)
    return descriptor


def _guess(magic: bytes, reader: GgufReader) -> str:
    """What a file that is not GGUF probably is; the reader is positioned after its first four bytes."""
    if not magic:
        return "it is empty"
    known = {
        b"PK\x03\x04": "it looks like a zip or PyTorch file; convert it to GGUF first",
        b"vers": "it looks like a Git LFS pointer; fetch the real file",
        b"ggml": "it is the old GGML format; convert it to GGUF first",
        b"lmgg": "it is the old GGML format; convert it to GGUF first",
        b"tjgg": "it is the old GGJT format; convert it to GGUF first",
        b"fmgg": "it is the old GGMF format; convert it to GGUF first",
        b"<!DO": "it is an HTML page",
        b"<htm": "it is an HTML page",
        b"FUGG": "its bytes are swapped",
    }
    if magic in known:
        return known[magic]
    if reader.path.suffix == ".safetensors":
        return "it is a safetensors file; convert it to GGUF first"
    return f"it starts with {magic!r}"
