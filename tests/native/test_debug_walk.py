"""What llama.cpp's own debug output says of a step: how many ubatches, how many cells are in use, and how far up."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from tests.native.engine_bench import KINDS, Bench, check_cells, prompt
from tests.native.lab import Lab, random_tokens

from donabe import _core

TinyModel = Callable[[str], str]
DebugLines = Callable[[], list[str]]
CELLS = re.compile(r"find_slot: stream\[\d+\], n = *(\d+), used = *(\d+), head = .* n_swa = *(\d+)")


@pytest.fixture
def debug_lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[DebugLines]:
    """debug_lines() are the lines since the last call, for contexts made in this test."""
    monkeypatch.setenv("LLAMA_BATCH_DEBUG", "1")
    monkeypatch.setenv("LLAMA_KV_CACHE_DEBUG", "1")
    _core.set_log_level(1)
    yield lambda: [text for _, text in _core.drain_logs(1 << 20)]
    _core.set_log_level(2)
    _core.drain_logs(1 << 20)


def n_ubatches(lines: list[str]) -> int:
    return sum("added ubatch to split" in line for line in lines)


def cells(lines: list[str]) -> tuple[int, int]:
    """Highest cell in use plus one, and cells in use, of the attention cache without a window, before the decode."""
    found = [match for line in lines if (match := CELLS.search(line)) and match[3] == "0"]
    return int(found[0][1]), int(found[0][2])


def probe(bench: Bench, debug_lines: DebugLines) -> tuple[int, int]:
    """Decode one token of a sequence that nobody knows, to see the cells as they are."""
    seq_id = bench.engine._cache.seq_ids.allocate()
    batch = _core.Batch(1)
    batch.add_tokens(seq_id, np.array([5], np.int32), 0, "last")
    debug_lines()
    bench.context.decode(batch)
    bench.context.memory.seq_rm(seq_id)
    bench.engine._cache.seq_ids.release(seq_id)
    return cells(debug_lines())


def test_gaps_between_recurrent_ids_cost_ubatches(tiny_model: TinyModel, debug_lines: DebugLines) -> None:
    """Why ids are kept consecutive; also that the count below can be wrong."""
    lab = Lab(tiny_model("mamba2"))
    for seq_id in range(8):
        lab.feed(seq_id, random_tokens(10, seed=seq_id))
    counts = []
    for ids in ([0, 1, 2, 3], [0, 2, 4, 6]):
        lab.batch.clear()
        positions = np.array([lab.memory.pos_max(i) + 1 for i in ids], np.int32)
        lab.batch.add_decode(np.array(ids, np.int32), np.full(4, 9, np.int32), positions)
        debug_lines()
        lab.context.decode(lab.batch)
        counts.append(n_ubatches(debug_lines()))
    assert counts == [1, 4]


@pytest.mark.parametrize("kind", ["dense", "iswa", "recurrent", "hybrid", "hybrid_iswa", "opaque"])
def test_sequences_that_decode_together_are_one_ubatch(
    kind: str, tiny_model: TinyModel, debug_lines: DebugLines
) -> None:
    bench = Bench(tiny_model(KINDS[kind]), n_seq_max=16, n_parallel=8)
    for i in range(14):  # some end early, others come: ids in between become free
        bench.submit(str(i), prompt(20, i), max_tokens=6 + 5 * (i % 4), boundaries=(10,))
    n_together = 0
    while bench.engine.has_work():
        before = bench.n_evaluated
        debug_lines()
        assert bench.engine.step()
        n_running = bench.engine.status().n_running
        lines = debug_lines()
        if bench.n_evaluated == before:  # nothing was prefilled
            assert n_ubatches(lines) == 1
            n_together += n_running > 3
    assert n_together > 5


@pytest.mark.parametrize("kind", ["dense", "iswa", "hybrid", "hybrid_iswa"])
def test_cells_of_the_tree_are_those_in_use(kind: str, tiny_model: TinyModel, debug_lines: DebugLines) -> None:
    bench = Bench(tiny_model(KINDS[kind]), n_ctx=512, n_seq_max=8, n_parallel=3, headroom_tokens=4)
    for i in range(12):
        shared = prompt(120, i % 3)
        bench.submit(str(i), [*shared, *prompt(30, 10 + i)], max_tokens=12, boundaries=(120,))
    n_seen = set()
    while bench.engine.has_work():
        bench.engine.step()
        n_cells = bench.engine._cache.tree.n_cells
        if bench.engine._cache.seq_ids.n_free and n_cells < 512:
            assert probe(bench, debug_lines)[1] == n_cells
            n_seen.add(n_cells)
    assert len(n_seen) > 10


@pytest.mark.parametrize("kind", ["iswa", "hybrid", "hybrid_iswa"])
def test_compaction_of_whole_branches_lowers_the_highest_cell(
    kind: str, tiny_model: TinyModel, debug_lines: DebugLines
) -> None:
    path = tiny_model(KINDS[kind])
    bench = Bench(path, n_ctx=4096, n_parallel=6, cache_ram_bytes=1 << 26)
    shared = prompt(400)
    for i in range(3):
        bench.submit(f"gone{i}", prompt(700, 90 + i), max_tokens=2)
        bench.submit(f"kept{i}", [*shared, *prompt(100, i)], max_tokens=4, boundaries=(400,))
    bench.run()
    cache = bench.engine._cache
    for branch in [b for b in cache.tree.branches if b.n >= 700]:
        cache.drop(branch)
    highest, n_used = probe(bench, debug_lines)
    assert n_used == cache.tree.n_cells and highest > 2 * n_used
    for _ in range(4):
        bench.engine.idle()
        check_cells(bench.engine)
    highest, n_used = probe(bench, debug_lines)
    assert highest == n_used == cache.tree.n_cells
    plain = Bench(path, prefix_cache=False)
    for i in range(3):
        tokens = [*shared, *prompt(100, i), *bench.tokens[f"kept{i}"][0], *prompt(10, 7)]
        n_before = bench.n_evaluated
        bench.answer(tokens).assert_equals(plain.answer(tokens))
        assert bench.n_evaluated - n_before <= 11


def test_compaction_lowers_the_highest_cell(tiny_model: TinyModel, debug_lines: DebugLines) -> None:
    """Also with cells in the middle of branches, which have others before and after them."""
    bench = Bench(tiny_model("llama"), n_ctx=4096, n_parallel=6, cache_ram_bytes=0)
    top, middle = prompt(400), prompt(300, 1)
    for i in range(3):
        bench.submit(f"other{i}", prompt(600, 90 + i), max_tokens=2)
        bench.submit(f"leaf{i}", [*top, *middle, *prompt(60 + 40 * i, 10 + i)], max_tokens=2)
    bench.submit("side", [*top, *prompt(200, 2)], max_tokens=2)
    bench.run()
    cache = bench.engine._cache
    for branch in [b for b in cache.tree.branches if b.buffer[0] != top[0]]:
        cache.drop(branch)
    n_branches = len(cache.tree.branches)
    highest, n_used = probe(bench, debug_lines)
    assert n_used == cache.tree.n_cells < 1400
    assert highest > 1.5 * n_used
    for _ in range(4):
        bench.engine.idle()
        check_cells(bench.engine)
    assert probe(bench, debug_lines) == (n_used, n_used)
    assert len(cache.tree.branches) == n_branches
    n_before = bench.n_evaluated
    tokens = [*top, *middle, *prompt(20, 50)]
    plain = Bench(tiny_model("llama"), prefix_cache=False)
    bench.answer(tokens).assert_equals(plain.answer(tokens))
    assert bench.n_evaluated - n_before <= 20
