"""A tiny model that can write: random weights of a generated GGUF under a 128-token vocabulary of characters.

The generated models' own vocabulary is a dummy without end tokens or UTF-8. Only the metadata is replaced;
tensors are copied as they are.
"""

from __future__ import annotations

import struct
from pathlib import Path

UINT32, INT32, FLOAT32, STRING, ARRAY = 4, 5, 6, 8, 9
_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6

BOS, EOS, TOOL, TURN = 1, 2, 3, 4
SPECIAL = ["<unk>", "<s>", "</s>", "<|tool|>", "<|turn|>"]
BYTES = [0xC3, 0xA9, 0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0x98, 0x80]  # é € 😀
WORDS = ["true", "false", "null", "ab", "abc", "st", "op", "stop", '{"', '":', "12", "▁the", "name", "▁▁"]


def vocabulary() -> tuple[list[str], list[int]]:
    characters = ["▁" if code == 32 else chr(code) for code in range(32, 127)]
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in BYTES), *WORDS, *characters]
    kinds = [UNKNOWN] + [CONTROL] * (len(SPECIAL) - 1) + [BYTE] * len(BYTES)
    kinds += [NORMAL] * (len(tokens) - len(kinds))
    while len(tokens) < 128:
        kinds.append(NORMAL)
        tokens.append(f"fill{len(tokens)}")
    assert len(tokens) == 128
    return tokens, kinds


def token_of(text: str) -> int:
    return vocabulary()[0].index(text)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _array(kind: int, items: list[bytes]) -> bytes:
    return struct.pack("<IQ", kind, len(items)) + b"".join(items)


def _tokenizer() -> dict[str, tuple[int, bytes]]:
    tokens, kinds = vocabulary()
    number = {"bos_token_id": BOS, "eos_token_id": EOS, "unknown_token_id": 0}
    entries: dict[str, tuple[int, bytes]] = {
        "tokenizer.ggml.model": (STRING, _string("llama")),
        "tokenizer.ggml.tokens": (ARRAY, _array(STRING, [_string(token) for token in tokens])),
        "tokenizer.ggml.scores": (ARRAY, _array(FLOAT32, [struct.pack("<f", -float(i)) for i in range(128)])),
        "tokenizer.ggml.token_type": (ARRAY, _array(INT32, [struct.pack("<i", kind) for kind in kinds])),
        "tokenizer.ggml.add_space_prefix": (7, b"\x00"),
    }
    return entries | {f"tokenizer.ggml.{key}": (UINT32, struct.pack("<I", value)) for key, value in number.items()}


def _value_end(data: bytes, at: int, kind: int) -> int:
    if kind == STRING:
        return at + 8 + int(struct.unpack_from("<Q", data, at)[0])
    if kind == ARRAY:
        item, count = struct.unpack_from("<IQ", data, at)
        at += 12
        if item in _WIDTHS:
            return at + _WIDTHS[item] * int(count)
        for _ in range(count):
            at = _value_end(data, at, item)
        return at
    return at + _WIDTHS[kind]


def _tensor_infos_end(data: bytes, at: int, n_tensors: int) -> int:
    for _ in range(n_tensors):
        at = _value_end(data, at, STRING)
        n_dims = struct.unpack_from("<I", data, at)[0]
        at += 4 + 8 * n_dims + 4 + 8
    return at


def _aligned(n: int) -> int:
    return (n + 31) // 32 * 32


def write_text_model(source: Path, target: Path, **strings: str) -> None:
    """Copy a generated model, with this vocabulary and further string metadata (dots written as double underscores)."""
    data = source.read_bytes()
    magic, version, n_tensors, n_entries = struct.unpack_from("<4sIQQ", data)
    assert magic == b"GGUF" and version == 3
    entries: dict[str, tuple[int, bytes]] = {}
    at = 24
    for _ in range(n_entries):
        key_end = _value_end(data, at, STRING)
        key = data[at + 8 : key_end].decode()
        kind = struct.unpack_from("<I", data, key_end)[0]
        at = _value_end(data, key_end + 4, kind)
        entries[key] = (kind, data[key_end + 4 : at])
    entries |= _tokenizer() | {key.replace("__", "."): (STRING, _string(text)) for key, text in strings.items()}
    infos = data[at : _tensor_infos_end(data, at, n_tensors)]
    tensors = data[_aligned(at + len(infos)) :]
    head = struct.pack("<4sIQQ", b"GGUF", 3, n_tensors, len(entries))
    head += b"".join(_string(key) + struct.pack("<I", kind) + raw for key, (kind, raw) in entries.items()) + infos
    target.write_bytes(head.ljust(_aligned(len(head)), b"\0") + tensors)
