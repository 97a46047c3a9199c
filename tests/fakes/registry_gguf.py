"""Writes small GGUF files for tests: well-formed ones, and ones that are wrong in exactly one place."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64, FLOAT64 = range(13)
F32, F16, Q4_0 = 0, 1, 2
_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True)
class Value:
    """A typed value. `item` set makes it an array; `count` overrides the length written for it."""

    kind: int
    value: Any
    item: int | None = None
    count: int | None = None


@dataclass(frozen=True)
class FakeTensor:
    name: str | bytes
    shape: tuple[int, ...]
    kind: int = F32
    offset: int | None = None  # None = where it belongs
    n_bytes: int | None = None


@dataclass(frozen=True)
class FakeGguf:
    """A file to write. Counts default to the truth."""

    values: tuple[tuple[str | bytes, Value], ...] = ()
    tensors: tuple[FakeTensor, ...] = ()
    magic: bytes = b"GGUF"
    version: int = 3
    n_values: int | None = None
    n_tensors: int | None = None
    alignment: int = 32
    data_bytes: int | None = None  # length of the data section; None = what the tensors need
    tail: bytes = field(default=b"")

    def with_value(self, key: str | bytes, value: Value) -> FakeGguf:
        """The same with one key added or replaced."""
        kept = tuple((name, old) for name, old in self.values if name != key)
        return replace(self, values=(*kept, (key, value)))

    def without(self, key: str) -> FakeGguf:
        return replace(self, values=tuple((name, old) for name, old in self.values if name != key))

    def encode(self) -> bytes:
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        n_values = len(self.values) if self.n_values is None else self.n_values
        out = self.magic + struct.pack("<IQQ", self.version, n_tensors, n_values)
        for key, value in self.values:
            out += _text(key) + _value(value)
        position = 0
        for tensor in self.tensors:
            offset = position if tensor.offset is None else tensor.offset
            out += _text(tensor.name) + struct.pack("<I", len(tensor.shape))
            out += b"".join(struct.pack("<Q", length) for length in tensor.shape)
            out += struct.pack("<IQ", tensor.kind, offset)
            position += -(-_n_bytes(tensor) // self.alignment) * self.alignment
        out += b"\0" * (-len(out) % self.alignment)
        return out + b"\0" * (position if self.data_bytes is None else self.data_bytes) + self.tail

    def write(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.encode())
        return path


def text(value: str) -> Value:
    return Value(STRING, value)


def u32(value: int) -> Value:
    return Value(UINT32, value)


def array(item: int, values: Sequence[Any], count: int | None = None) -> Value:
    return Value(ARRAY, list(values), item, count)


def tiny_model(**extra: Value) -> FakeGguf:
    """A complete header of a llama model with three tokens and one tensor. Keyword names use `__` for dots."""
    values: dict[str | bytes, Value] = {
        "general.architecture": text("llama"),
        "general.name": text("Tiny"),
        "general.file_type": u32(1),
        "llama.block_count": u32(1),
        "llama.context_length": u32(128),
        "llama.embedding_length": u32(4),
        "llama.feed_forward_length": u32(8),
        "llama.attention.head_count": u32(2),
        "llama.attention.head_count_kv": u32(1),
        "llama.rope.dimension_count": u32(2),
        "llama.rope.freq_base": Value(FLOAT32, 10000.0),
        "tokenizer.ggml.model": text("llama"),
        "tokenizer.ggml.tokens": array(STRING, ["<unk>", "<s>", "</s>"]),
        "tokenizer.ggml.scores": array(FLOAT32, [0.0, 0.0, 0.0]),
        "tokenizer.ggml.token_type": array(INT32, [2, 3, 3]),
        "tokenizer.ggml.bos_token_id": u32(1),
        "tokenizer.ggml.eos_token_id": u32(2),
    }
    values |= {key.replace("__", "."): value for key, value in extra.items()}
    return FakeGguf(tuple(values.items()), (FakeTensor("token_embd.weight", (4, 3)),))


def split_model(count: int) -> list[bytes]:
    """The files of a split model, made as llama.cpp's tools do: the metadata is in the first one only."""
    whole = tiny_model()
    files = []
    for number in range(count):
        keys = (
            ("split.no", Value(UINT16, number)),
            ("split.count", Value(UINT16, count)),
            ("split.tensors.count", Value(INT32, count)),
        )
        tensor = FakeTensor("token_embd.weight" if number == 0 else f"blk.0.t{number}.weight", (4, 3))
        files.append(FakeGguf((*(whole.values if number == 0 else ()), *keys), (tensor,)).encode())
    return files


def _n_bytes(tensor: FakeTensor) -> int:
    if tensor.n_bytes is not None:
        return tensor.n_bytes
    count = 1
    for length in tensor.shape:
        count *= length
    n_block, n_bytes = {F32: (1, 4), F16: (1, 2), Q4_0: (32, 18)}.get(tensor.kind, (1, 1))
    return min(count // n_block * n_bytes, 1 << 16)


def _text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def _scalar(kind: int, value: Any) -> bytes:
    if isinstance(value, bytes) and kind != STRING:
        return value  # raw bytes in place of a scalar
    return _text(value) if kind == STRING else struct.pack(f"<{_CODES[kind]}", value)


def _value(value: Value) -> bytes:
    if value.item is None:
        return struct.pack("<I", value.kind) + _scalar(value.kind, value.value)
    count = len(value.value) if value.count is None else value.count
    body = b"".join(_scalar(value.item, item) for item in value.value)
    return struct.pack("<IIQ", value.kind, value.item, count) + body
