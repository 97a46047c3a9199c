"""Long random traces of arrive, fork, cancel, preempt and evict over the real module, on every memory kind.

After every action the tree, the sequence ids and the native memory are compared, now and then also the cells, one by
one. Whatever happened, an answer is that of a lone request.

DONABE_TRACE_ACTIONS sets how many (default 250; a release is tried with 2,000).
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable

import pytest
from tests.native.engine_bench import KINDS, Answer, Bench, check_cells, prompt

from donabe.engine import compaction
from donabe.types import FinishReason

N_ACTIONS = int(os.environ.get("DONABE_TRACE_ACTIONS", "250"))
N_COMPARED = N_ACTIONS // 16  # answers computed once more, alone
CHECK_CELLS_EVERY = 25
WEIGHTS = {"submit": 16, "repeat": 8, "cancel": 8, "step": 60, "idle": 8}
N_CTX = 512


class Trace:
    """Random actions on one engine whose pool is too small for them; remembers what was asked."""

    def __init__(self, path: str, seed: int, n_cache_ram_bytes: int) -> None:
        self.bench = Bench(
            path,
            n_ctx=N_CTX,
            n_seq_max=7,
            n_batch=64,
            n_parallel=4,
            n_waiting_max=1 << 20,
            cache_ram_bytes=n_cache_ram_bytes,
            headroom_tokens=4,
        )
        self.random = random.Random(seed)
        self.asked: dict[str, tuple[list[int], int, int]] = {}  # tokens, max_tokens, n

    def play(self, n_actions: int) -> None:
        names, weights = list(WEIGHTS), list(WEIGHTS.values())
        for i in range(n_actions):
            name = self.random.choices(names, weights)[0]
            getattr(self, name)()
            self.bench.engine.check()
            if i % CHECK_CELLS_EVERY == 0:
                check_cells(self.bench.engine)
        self.bench.run()
        check_cells(self.bench.engine)

    def submit(self) -> None:
        trunk = prompt(160, self.random.randrange(4))[: self.random.randrange(160)]
        self._submit([*trunk, *prompt(self.random.randrange(1, 50), 1000 + len(self.asked))], len(trunk))

    def repeat(self) -> None:
        """An earlier prompt with the answer it got: the next turn, or the same again when there is none yet."""
        if self.asked:
            request_id = self.random.choice(list(self.asked))
            first = self.asked[request_id][0]
            self._submit([*first, *self.bench.tokens[request_id][0]][: N_CTX // 2], len(first))

    def _submit(self, tokens: list[int], boundary: int) -> None:
        request_id = str(len(self.asked))
        n, max_tokens = self.random.choice((1, 1, 1, 3)), self.random.randrange(1, 20)
        self.asked[request_id] = tokens, max_tokens, n
        priority, boundaries = self.random.choice((0, 0, 0, 1)), (boundary,) if 0 < boundary < len(tokens) else ()
        self.bench.submit(request_id, tokens, max_tokens=max_tokens, n=n, priority=priority, boundaries=boundaries)

    def cancel(self) -> None:
        if self.asked:
            recent = list(self.asked)[-8:]
            self.bench.engine.cancel(self.random.choice(recent))

    def step(self) -> None:
        self.bench.engine.step()

    def idle(self) -> None:
        self.bench.engine.idle()


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("n_cache_ram_bytes", [0, 1 << 20])
def test_random_trace_loses_no_cell_and_changes_no_answer(
    kind: str, n_cache_ram_bytes: int, tiny_model: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "MIN_PEAK_CELLS", 64)  # small pools are compacted, too
    monkeypatch.setattr(compaction, "CELLS_PER_RUN", 100)
    path = tiny_model(KINDS[kind])
    trace = Trace(path, seed=5 if kind == "opaque" else 3, n_cache_ram_bytes=n_cache_ram_bytes)
    trace.play(N_ACTIONS if kind != "opaque" else N_ACTIONS // 5)  # its states are copied whole
    bench = trace.bench
    assert set(bench.finals) == set(trace.asked)
    status = bench.engine.status()
    has_evicted = bench.engine._cache.eviction.n_evictions > 0 or kind == "opaque"  # that one has no idle branches
    assert status.n_preemptions > 0 or kind == "opaque"
    assert has_evicted
    assert status.n_forks > 0 or kind == "opaque"
    ends = Counter(final.finish_reason for final in bench.finals.values())
    assert ends[FinishReason.ABORT] > 0
    assert ends[FinishReason.LENGTH] > 0
    compare_with_lone_answers(trace, Bench(path, prefix_cache=False))
    for branch in list(bench.engine._cache.tree.branches):
        bench.engine._cache.drop(branch)
    assert bench.engine.status().n_cells_used == 0
    check_cells(bench.engine)


def compare_with_lone_answers(trace: Trace, plain: Bench) -> None:
    for request_id in trace.random.sample(list(trace.asked), min(N_COMPARED, len(trace.asked))):
        tokens, max_tokens, n = trace.asked[request_id]
        expected: Answer = plain.answer(tokens, max_tokens=max_tokens)
        answers = trace.bench.answers[request_id]
        if trace.bench.finals[request_id].finish_reason is not FinishReason.ABORT:
            assert [len(answers[i].tokens) for i in range(n)] == [max_tokens] * n
        for i in range(n):
            answers[i].assert_equals_until_a_tie(expected)
