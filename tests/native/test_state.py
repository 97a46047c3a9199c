"""Saving and restoring sequences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tests.native.lab import EXACT, Lab, assert_close, join, random_tokens

from donabe import _core
from donabe.errors import InvalidArgumentError, KvFullError, StateError

ModelPath = Callable[[str], str]
PROMPT = random_tokens(60, seed=1)
TAIL = random_tokens(9, seed=2)

ARCHITECTURES = ["llama", "gemma3", "mamba2", "granitehybrid", "lfm2", "deepseek32"]


def reload(blob: _core.StateBlob) -> _core.StateBlob:
    """Through bytes, as from a disk."""
    return _core.StateBlob.from_bytes(bytes(memoryview(blob)), partial=blob.partial, n_tokens=blob.n_tokens)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("flash_attention", ["off", "on"])
def test_round_trip_into_another_sequence_and_context(
    tiny_model: ModelPath, architecture: str, flash_attention: str
) -> None:
    lab = Lab(tiny_model(architecture), flash_attention=flash_attention)
    lab.feed(0, PROMPT)
    blob = reload(lab.memory.get_state(0))
    other = Lab(tiny_model(architecture), flash_attention=flash_attention)
    other.feed(5, TAIL)
    other.memory.set_state(5, blob)
    assert (other.memory.pos_max(5), blob.n_tokens, blob.partial) == (59, 60, False)
    tolerance = EXACT if flash_attention == "off" else 5e-4
    assert_close(other.feed(5, TAIL), lab.fresh(join(PROMPT, TAIL)), tolerance)
    assert_close(lab.feed(0, TAIL), lab.fresh(join(PROMPT, TAIL)), tolerance)


def test_segments_of_a_dense_sequence_are_put_together_again(tiny_model: ModelPath) -> None:
    """Each node of a tree can be stored by itself, and a path put together from its nodes."""
    lab = Lab(tiny_model("llama"))
    lab.feed(0, PROMPT)
    segments = []
    for p0, p1 in ((0, 21), (21, 45), (45, 60)):
        lab.memory.seq_cp(0, 1, p0, p1)
        segments.append((p0, p1, reload(lab.memory.get_state(1))))
        assert lab.memory.seq_rm(1)
    other = Lab(tiny_model("llama"))
    for seq_id in (3, 1, 2):
        other.memory.set_state(seq_id, segments[seq_id - 1][2])
    for seq_id, (p0, p1, _) in enumerate(segments, 1):
        other.memory.seq_cp(seq_id, 5, p0, p1)
        assert other.memory.seq_rm(seq_id)
    assert other.memory.pos_max(5) == 59
    assert_close(other.feed(5, TAIL), lab.fresh(join(PROMPT, TAIL)))


def test_blob_is_a_read_only_buffer(tiny_model: ModelPath) -> None:
    lab = Lab(tiny_model("llama"))
    lab.feed(0, PROMPT)
    blob = lab.memory.get_state(0)
    view = memoryview(blob)
    assert view.readonly
    assert view.nbytes == blob.nbytes
    array = np.frombuffer(blob, np.uint8)
    del blob
    assert array[0] == 0xD8  # the magic, little endian
    with pytest.raises((ValueError, BufferError)):
        array[0] = 0


@pytest.mark.parametrize("architecture", ["gemma3", "mamba2", "granitehybrid", "lfm2"])
def test_partial_state_rolls_a_sequence_back(tiny_model: ModelPath, architecture: str) -> None:
    lab = Lab(tiny_model(architecture))
    lab.feed(0, PROMPT[:40])
    checkpoint = reload(lab.memory.get_state(0, partial=True))
    assert checkpoint.partial
    lab.feed(0, PROMPT[40:])
    lab.memory.set_state(0, checkpoint)
    assert lab.memory.pos_max(0) == 39
    assert_close(lab.feed(0, TAIL), lab.fresh(join(PROMPT[:40], TAIL)))


def test_partial_state_of_a_hybrid_leaves_the_attention_cells_out(tiny_model: ModelPath) -> None:
    lab = Lab(tiny_model("granitehybrid"))
    sizes = []
    for part in (PROMPT[:20], PROMPT[20:]):
        lab.feed(0, part)
        sizes.append((lab.memory.get_state(0).nbytes, lab.memory.get_state(0, partial=True).nbytes))
    assert sizes[0][1] == sizes[1][1]
    assert sizes[0][0] < sizes[1][0]


def test_partial_state_needs_the_tokens_it_completes(tiny_model: ModelPath) -> None:
    lab = Lab(tiny_model("granitehybrid"))
    lab.feed(0, PROMPT)
    checkpoint = lab.memory.get_state(0, partial=True)
    lab.feed(1, PROMPT[:30])
    with pytest.raises(StateError, match="lacks"):
        lab.memory.set_state(1, checkpoint)
    assert lab.memory.pos_max(1) == -1


def test_state_of_an_empty_sequence_is_refused(tiny_model: ModelPath) -> None:
    with pytest.raises(StateError, match="empty"):
        Lab(tiny_model("llama")).memory.get_state(3)


def test_damaged_states_are_refused_and_leave_the_sequence_empty(tiny_model: ModelPath) -> None:
    lab = Lab(tiny_model("llama"))
    lab.feed(0, PROMPT)
    good = bytes(memoryview(lab.memory.get_state(0)))
    cases = {
        "cut": good[:-100],
        "longer": good + b"\0" * 8,
        "magic": b"\0\0\0\0" + good[4:],
        "short": good[:6],
        "noise": bytes(np.random.default_rng(0).integers(0, 256, 1000, dtype=np.uint8)),
    }
    for name, data in cases.items():
        lab.feed(1, TAIL)
        with pytest.raises(StateError):
            lab.memory.set_state(1, _core.StateBlob.from_bytes(data, partial=False, n_tokens=60))
        assert lab.memory.pos_max(1) == -1, name
    with pytest.raises(StateError):
        lab.memory.set_state(1, _core.StateBlob.from_bytes(good, partial=False, n_tokens=59))
    assert_close(lab.feed(0, TAIL), lab.fresh(join(PROMPT, TAIL)))


@pytest.mark.parametrize(("saved", "loaded"), [("llama", "gemma3"), ("mamba2", "llama"), ("granitehybrid", "mamba2")])
def test_states_of_other_models_are_refused(tiny_model: ModelPath, saved: str, loaded: str) -> None:
    source, target = Lab(tiny_model(saved)), Lab(tiny_model(loaded))
    source.feed(0, PROMPT)
    with pytest.raises(StateError):
        target.memory.set_state(0, source.memory.get_state(0))
    assert target.memory.pos_max(0) == -1


def test_state_of_another_layout_is_refused(tiny_model: ModelPath) -> None:
    source, target = Lab(tiny_model("llama")), Lab(tiny_model("llama"), flash_attention="on")
    source.feed(0, PROMPT)
    with pytest.raises(StateError):
        target.memory.set_state(0, source.memory.get_state(0))


def test_partial_blob_is_refused_by_dense_memory(tiny_model: ModelPath) -> None:
    lab = Lab(tiny_model("llama"))
    lab.feed(0, PROMPT)
    with pytest.raises(StateError, match="no partial state"):
        lab.memory.set_state(0, _core.StateBlob.from_bytes(b"xxxxxxxx", partial=True, n_tokens=60))
    assert lab.memory.pos_max(0) == 59


def test_state_that_finds_no_room_raises_kv_full(tiny_model: ModelPath) -> None:
    lab = Lab(tiny_model("llama"), n_ctx=256)
    lab.feed(0, random_tokens(120))
    blob = lab.memory.get_state(0)
    lab.feed(1, random_tokens(60))
    with pytest.raises(KvFullError, match="120 tokens"):
        lab.memory.set_state(2, blob)
    assert lab.memory.pos_max(2) == -1
    assert lab.memory.seq_rm(1)
    lab.memory.set_state(2, blob)
    assert lab.memory.pos_max(2) == 119


@pytest.mark.parametrize("n_tokens", [0, -1, 2**30])
def test_from_bytes_checks_its_arguments(n_tokens: int) -> None:
    with pytest.raises(InvalidArgumentError, match="n_tokens"):
        _core.StateBlob.from_bytes(b"x", partial=False, n_tokens=n_tokens)
    with pytest.raises(StateError, match="empty"):
        _core.StateBlob.from_bytes(b"", partial=False, n_tokens=1)
