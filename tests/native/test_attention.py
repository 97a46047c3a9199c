"""CPU flash attention against plain attention: patches 0002 (masked runs) and 0003 (small batches)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tests.native.lab import Lab, Logits, assert_close, random_tokens

from donabe import _core

ModelPath = Callable[[str], str]
ARCHITECTURES = ["llama", "gemma3", "gpt-oss", "qwen3"]  # GQA, windows, sinks
TOLERANCE = 5e-4


def crowd(path: str, flash_attention: str, type_kv: str = "f16") -> Logits:
    """Logits of one decode step of 6 unrelated sequences in one cache, and of chunks beside them.

    Lengths differ, so every row of the mask has long masked runs, cut at odd places.
    """
    lab = Lab(path, flash_attention=flash_attention, type_k=type_kv, type_v=type_kv, n_ctx=2048, n_ubatch=64)
    lengths = [1, 13, 64, 100, 205, 331]
    for seq_id, length in enumerate(lengths):
        lab.feed(seq_id, random_tokens(length, seed=seq_id))
    lab.memory.seq_rm(2)  # a hole
    rows = []
    for n_new in (1, 2, 5, 17):
        batch = _core.Batch(128)
        for seq_id in (0, 1, 3, 4, 5):
            batch.add_tokens(seq_id, random_tokens(n_new, seed=50 + n_new), lab.memory.pos_max(seq_id) + 1, "last")
        lab.context.decode(batch)
        rows.append(lab.logits())
    return np.concatenate(rows)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_flash_attention_equals_plain_attention_in_a_crowded_cache(tiny_model: ModelPath, architecture: str) -> None:
    path = tiny_model(architecture)
    assert_close(crowd(path, "on"), crowd(path, "off"), TOLERANCE)


@pytest.mark.parametrize("type_kv", ["f32", "q8_0"])
def test_other_cache_types_agree_too(tiny_model: ModelPath, type_kv: str) -> None:
    path = tiny_model("llama")
    tolerance = TOLERANCE if type_kv == "f32" else 1e-2
    assert_close(crowd(path, "on", type_kv), crowd(path, "off"), tolerance)


def test_thread_count_does_not_change_the_result(tiny_model: ModelPath) -> None:
    rows = []
    for n_threads in (1, 2):
        lab = Lab(tiny_model("llama"), flash_attention="on")
        for seq_id in range(4):
            lab.feed(seq_id, random_tokens(70 + 50 * seq_id, seed=seq_id))
        lab.context.set_threads(n_threads, n_threads)
        rows.append(lab.feed(3, random_tokens(3, seed=9)))
    assert_close(rows[0], rows[1], TOLERANCE)


def test_masked_cells_do_not_leak_into_a_sequence(tiny_model: ModelPath) -> None:
    path = tiny_model("llama")
    alone = Lab(path, flash_attention="on").feed(5, random_tokens(40, seed=5))
    lab = Lab(path, flash_attention="on")
    for seq_id in range(5):
        lab.feed(seq_id, random_tokens(90 + seq_id, seed=seq_id))
    assert_close(lab.feed(5, random_tokens(40, seed=5)), alone, TOLERANCE)
