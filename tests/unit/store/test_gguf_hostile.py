"""Malformed GGUFs: each is refused by the validator, fast, in bounded memory, with an error that names the cause."""

from __future__ import annotations

import os
import struct
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.registry_gguf import (
    ARRAY,
    BOOL,
    FLOAT32,
    FLOAT64,
    INT8,
    INT32,
    INT64,
    Q4_0,
    STRING,
    UINT8,
    UINT32,
    UINT64,
    FakeGguf,
    FakeTensor,
    Value,
    array,
    text,
    tiny_model,
    u32,
)  # fmt: skip

from donabe.errors import ModelFileError
from donabe.store.summary import require_model

GOOD = tiny_model()
BYTES = GOOD.encode()
TENSOR = GOOD.tensors[0]
I64 = 2**63
SIZE_KEYS = ("block_count", "context_length", "embedding_length")
SOFT_KEYS = (
    "attention.head_count", "attention.head_count_kv", "feed_forward_length", "rope.dimension_count", "expert_count",
    "attention.key_length", "attention.value_length", "ssm.state_size", "wkv.head_size", "attention.sliding_window",
)  # fmt: skip
VOCAB = "tokenizer.ggml."


def _header(n_tensors: int, n_values: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_values)


def _raw_value(kind: int, body: bytes) -> bytes:
    return _header(0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<I", kind) + body


def _tensor(**changes: object) -> FakeGguf:
    return replace(GOOD, tensors=(replace(TENSOR, **changes),))  # type: ignore[arg-type]


def _tensors(*tensors: FakeTensor, **changes: object) -> FakeGguf:
    return replace(GOOD, tensors=tensors, **changes)  # type: ignore[arg-type]


def _wrong_structure() -> dict[str, bytes | FakeGguf]:
    cases: dict[str, bytes | FakeGguf] = {}
    for name, data in {
        "empty": b"", "one byte": b"G", "three bytes": b"GGU", "magic only": b"GGUF", "zeros": b"\0" * 512,
        "zip": b"PK\x03\x04" + b"\0" * 60, "html": b"<!DOCTYPE html><html>", "lfs pointer": b"version https://git-lfs",
        "old ggml": b"lmgg" + b"\0" * 60, "ggjt": b"tjgg" + b"\0" * 60, "swapped magic": b"FUGG" + BYTES[4:],
        "text": b"hello world",
    }.items():  # fmt: skip
        cases[name] = data
    for version in (0, 1, 4, 255, 2**31, 2**32 - 1, 0x0300_0000):
        cases[f"version {version}"] = replace(GOOD, version=version)
    # counts
    for count in (2**63, 2**63 - 1, 2**64 - 1, 2**40, 2**32, 10**6):
        cases[f"{count} keys"] = replace(GOOD, n_values=count)
        cases[f"{count} tensors"] = replace(GOOD, n_tensors=count)
        cases[f"array of {count} strings"] = GOOD.with_value("x", array(STRING, ["a"], count))
        cases[f"array of {count} floats"] = GOOD.with_value("x", array(FLOAT32, [1.0], count))
        cases[f"array of {count} doubles"] = GOOD.with_value("x", array(FLOAT64, [1.0], count))
        cases[f"string of {count} bytes"] = _raw_value(STRING, struct.pack("<Q", count) + b"abc")
        cases[f"key of {count} bytes"] = _header(0, 1) + struct.pack("<Q", count) + b"abc"
    cases["one key too many"] = replace(GOOD, n_values=len(GOOD.values) + 1)
    cases["one tensor too many"] = replace(GOOD, n_tensors=2, data_bytes=0)
    cases["key 65536 long"] = GOOD.with_value("k" * 65_536, u32(1))
    # value types
    for kind in (13, 14, 100, 2**31, 2**32 - 1):
        cases[f"value type {kind}"] = _raw_value(kind, b"\0" * 64)
        cases[f"element type {kind}"] = _raw_value(ARRAY, struct.pack("<IQ", kind, 1) + b"\0" * 64)
    cases["nested array"] = _raw_value(ARRAY, struct.pack("<IQ", ARRAY, 1) + b"\0" * 64)
    # keys
    cases["empty key"] = GOOD.with_value("", u32(1))
    cases["key with NUL"] = GOOD.with_value(b"a\0b", u32(1))
    cases["key not ASCII"] = GOOD.with_value("\u00e4".encode(), u32(1))
    cases["key invalid UTF-8"] = GOOD.with_value(b"\xff\xfe", u32(1))
    cases["key with newline"] = GOOD.with_value(b"a\nb", u32(1))
    cases["key twice"] = replace(GOOD, values=(*GOOD.values, GOOD.values[0]))
    # alignment
    for number in (0, 1, 2, 4, 3, 7, 24, 33, 65_535, 131_072, 2**31, 2**32 - 1):
        cases[f"alignment {number}"] = GOOD.with_value("general.alignment", u32(number))
    cases["alignment text"] = GOOD.with_value("general.alignment", text("32"))
    cases["alignment u64"] = GOOD.with_value("general.alignment", Value(UINT64, 32))
    cases["alignment array"] = GOOD.with_value("general.alignment", array(UINT32, [32]))
    # tensors
    for n_dims in (0, 5, 100, 2**31, 2**32 - 1):
        raw = GOOD.encode()
        at = raw.index(b"token_embd.weight") + len(b"token_embd.weight")
        cases[f"{n_dims} dimensions"] = raw[:at] + struct.pack("<I", n_dims) + raw[at + 4 :]
    for length in (0, 2**63, 2**64 - 1, 2**62, 2**40):
        cases[f"dimension {length}"] = _tensor(shape=(4, length))
    cases["product wraps to small"] = _tensor(shape=(2**32, 2**32, 2**2))
    cases["product wraps to zero"] = _tensor(shape=(2**31, 2**31, 4, 1))
    cases["product overflows by one"] = _tensor(shape=(2**61 + 1, 8))
    for kind in (4, 5, 31, 32, 33, 36, 37, 38, 43, 255, 2**31, 2**32 - 1):
        cases[f"tensor type {kind}"] = _tensor(kind=kind)
    for length in (1, 31, 33):
        cases[f"Q4_0 row of {length}"] = _tensor(kind=Q4_0, shape=(length, 2))
    for offset in (1, 31, 33, 2**31 + 1):
        cases[f"offset {offset} not aligned"] = _tensor(offset=offset)
    for offset in (32, 64, 2**31, 2**40, 2**63, 2**64 - 32):
        cases[f"offset {offset} beyond the end"] = _tensor(offset=offset)
    cases["data missing"] = replace(GOOD, data_bytes=0)
    cases["data one byte short"] = replace(GOOD, data_bytes=47)
    cases["tensor name empty"] = _tensor(name="")
    cases["tensor name too long"] = _tensor(name="n" * 64)
    cases["tensor name with NUL"] = _tensor(name=b"a\0b")
    cases["tensor name with escape"] = _tensor(name=b"\x1b[2J")
    cases["tensor twice"] = _tensors(TENSOR, TENSOR)
    cases["tensors overlap whole"] = _tensors(FakeTensor("a", (16,), offset=0), FakeTensor("b", (16,), offset=0))
    cases["tensors overlap partly"] = _tensors(FakeTensor("a", (16,), offset=0), FakeTensor("b", (16,), offset=32))
    cases["tensor inside another"] = _tensors(FakeTensor("a", (64,), offset=0), FakeTensor("b", (8,), offset=64))
    return cases


def _wrong_meaning() -> dict[str, bytes | FakeGguf]:
    cases: dict[str, bytes | FakeGguf] = {}
    cases["no architecture"] = GOOD.without("general.architecture")
    for name, value in {
        "number": u32(1), "empty": text(""), "array": array(STRING, ["llama"]), "long": text("a" * 65),
        "escape": text("\x1b[31m"), "slash": text("../x"), "space": text("a b"), "not ASCII": text("\u00e4"),
    }.items():  # fmt: skip
        cases[f"architecture {name}"] = GOOD.with_value("general.architecture", value)
    cases["file type text"] = GOOD.with_value("general.file_type", text("Q4_0"))
    # vocabulary
    for key, wrong in {
        "tokens": (u32(1), text("x"), array(UINT32, [1, 2, 3]), array(INT8, [1, 2, 3]), array(STRING, [])),
        "scores": (u32(1), array(INT8, [1, 2, 3]), array(FLOAT64, [1, 2, 3]), array(STRING, ["a", "b", "c"]),
                   array(FLOAT32, [1, 2]), array(FLOAT32, [1, 2, 3, 4]), array(FLOAT32, []), array(UINT32, [1, 2, 3])),
        "token_type": (u32(1), array(INT8, [1, 2, 3]), array(FLOAT32, [1, 2, 3]), array(INT64, [1, 2, 3]),
                       array(INT32, [1, 2]), array(INT32, [1, 2, 3, 4]), array(INT32, [])),
        "merges": (u32(1), text("a b"), array(UINT32, [1])),
        "precompiled_charsmap": (u32(1), array(FLOAT32, [1.0]), text("x")),
        "bos_token_id": (u32(3), u32(2**31), Value(INT32, -2), text("1"), Value(FLOAT32, 1.0), Value(BOOL, True)),
        "eos_token_id": (u32(3), u32(2**32 - 2), Value(INT32, -2**31)),
        "eot_token_id": (u32(4), Value(UINT64, 2**63), Value(INT64, -(2**63))),
        "eos_token_ids": (array(UINT32, [1, 99]), array(STRING, ["a"]), array(UINT8, [0] * 1025)),
    }.items():  # fmt: skip
        for index, value in enumerate(wrong):
            cases[f"{key} wrong {index}"] = GOOD.with_value(VOCAB + key, value)
    cases["ids without tokens"] = GOOD.without(VOCAB + "tokens").without(VOCAB + "scores").without(VOCAB + "token_type")
    cases["scores without tokens"] = GOOD.without(VOCAB + "tokens")
    # sizes
    for key in SIZE_KEYS:
        for value in (u32(0), u32(2**31), u32(2**32 - 1), Value(INT32, -1), Value(UINT64, 2**63), text("1"),
                      Value(FLOAT32, 1.0), array(UINT32, []), array(UINT32, [1] * 513)):  # fmt: skip
            cases[f"{key} = {value.value!r:.24} ({value.kind})"] = GOOD.with_value(f"llama.{key}", value)
    for key in SOFT_KEYS:
        for value in (u32(2**32 - 1), Value(INT32, -1), Value(UINT64, 2**63), text("1")):
            cases[f"{key} = {value.value!r} ({value.kind})"] = GOOD.with_value(f"llama.{key}", value)
    cases["more kv heads than heads"] = GOOD.with_value("llama.attention.head_count_kv", u32(3))
    cases["zero key length"] = GOOD.with_value("llama.attention.key_length", u32(0))
    rwkv = FakeGguf((("general.architecture", text("rwkv7")), ("rwkv7.wkv.head_size", u32(0))), GOOD.tensors)
    cases["zero RWKV head"] = rwkv
    cases["more experts used than there are"] = GOOD.with_value("llama.expert_count", u32(2)).with_value(
        "llama.expert_used_count", u32(3)
    )
    cases["no experts used"] = GOOD.with_value("llama.expert_count", u32(2)).with_value(
        "llama.expert_used_count", u32(0)
    )
    for number, value in enumerate((u32(5), u32(2**32 - 2), Value(INT32, -2), text("mean"))):
        cases[f"pooling wrong {number}"] = GOOD.with_value("llama.pooling_type", value)
    cases["too many experts"] = GOOD.with_value("llama.expert_count", u32(1025))
    cases["rope base NaN"] = GOOD.with_value("llama.rope.freq_base", Value(FLOAT32, float("nan")))
    cases["epsilon infinite"] = GOOD.with_value("llama.attention.layer_norm_rms_epsilon", Value(FLOAT32, float("inf")))
    # template and split
    cases["template number"] = GOOD.with_value("tokenizer.chat_template", u32(1))
    cases["template array"] = GOOD.with_value("tokenizer.chat_template", array(STRING, ["x"]))
    cases["template huge"] = GOOD.with_value("tokenizer.chat_template", text("x" * (256 * 1024 + 1)))
    cases["named template number"] = GOOD.with_value("tokenizer.chat_template.tool_use", u32(1))
    cases["split beyond"] = GOOD.with_value("split.count", u32(2)).with_value("split.no", u32(2))
    cases["split negative"] = GOOD.with_value("split.count", Value(INT32, -1))
    cases["split absurd"] = GOOD.with_value("split.count", u32(2**31))
    cases["split text"] = GOOD.with_value("split.count", text("2"))
    return cases


CORPUS = _wrong_structure() | _wrong_meaning()
TRUNCATED = range(4, len(BYTES) - 32, 23)


def _refuse(path: Path) -> ModelFileError:
    """The error, checked for speed and memory."""
    tracemalloc.start()
    started = time.thread_time()  # not the wall clock: other work on the machine is not the validator's
    try:
        with pytest.raises(ModelFileError) as caught:
            require_model(path)
        seconds, (_, peak) = time.thread_time() - started, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert seconds < 0.1
    assert peak < 8 << 20
    return caught.value


def test_corpus_is_large_enough() -> None:
    assert len(CORPUS) + len(TRUNCATED) >= 200


@pytest.mark.parametrize("name", CORPUS)
def test_malformed_file_is_refused(name: str, tmp_path: Path) -> None:
    case = CORPUS[name]
    path = tmp_path / "evil.gguf"
    path.write_bytes(case if isinstance(case, bytes) else case.encode())
    error = _refuse(path)
    assert str(error).startswith("evil.gguf: ")
    assert "\n" not in str(error)
    assert "\x1b" not in str(error)
    assert len(str(error)) < 400


@pytest.mark.parametrize("length", TRUNCATED)
def test_truncated_file_is_refused(length: int, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(BYTES[:length])
    _refuse(path)


def test_refusals_name_what_is_wrong(tmp_path: Path) -> None:
    wanted = {
        "lfs pointer": "Git LFS pointer",
        "data missing": "cut off or damaged: tensor 'token_embd.weight'",
        "tensors overlap whole": "tensors 'a' and 'b' overlap",
        "alignment 0": "general.alignment is 0",
        "bos_token_id wrong 0": "tokenizer.ggml.bos_token_id is 3",
        "version 1": "version 1 is not supported",
        "version 50331648": "big-endian",
    }
    for name, words in wanted.items():
        case = CORPUS[name]
        path = tmp_path / "m.gguf"
        path.write_bytes(case if isinstance(case, bytes) else case.encode())
        assert words in str(_refuse(path))


def test_device_and_folder_are_refused_without_reading(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    for path in (Path("/dev/zero"), tmp_path, tmp_path / "pipe.gguf"):
        assert "not a regular file" in str(_refuse(path))


def test_missing_file_is_a_model_file_error(tmp_path: Path) -> None:
    assert "No such file" in str(_refuse(tmp_path / "absent.gguf"))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(BYTES) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_any_mutation_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(BYTES)
    for position, byte in changes:
        data[position] = byte
    path = tmp_path_factory.getbasetemp() / "mutated.gguf"
    path.write_bytes(data)
    try:
        require_model(path)
    except ModelFileError as error:
        assert str(error).startswith("mutated.gguf: ")
