"""Long random traces of arrive, fork, cancel, preempt, evict, shift, guess, store and restart over the real module, on
every memory kind; callers with salts share with nobody else.

After every action the tree, the sequence ids and the native memory are compared, now and then also the cells, one by
one. Whatever happened, an answer is that of a lone request.

DONABE_TRACE_ACTIONS sets how many (default 250; `ci/soak` plays 2,000).
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.native.engine_bench import KINDS, Answer, Bench, check_cells, prompt

from donabe import _core
from donabe.engine import compaction, disk_exchange, disk_tier
from donabe.engine.disk_tier import DiskTier
from donabe.engine.kinds import memory_kind
from donabe.types import FinishReason

pytestmark = pytest.mark.timeout(7200)
N_ACTIONS = int(os.environ.get("DONABE_TRACE_ACTIONS", "250"))
N_COMPARED = N_ACTIONS // 16  # answers computed once more, alone
CHECK_CELLS_EVERY = 25
WEIGHTS = {"submit": 16, "repeat": 8, "cancel": 8, "step": 60, "idle": 8}
N_CTX = 512
N_CTX_PER_REQUEST = 352
SALTS = ("", "", "mine", "yours")
KEPT = 8  # prompt tokens that a context shift keeps
DISK_BYTES = 8 << 20


@dataclass(frozen=True)
class Asked:
    """A request of the trace."""

    tokens: list[int]
    max_tokens: int
    n: int
    shifts: bool


class Trace:
    """Random actions on one engine whose pool is too small for them; remembers what was asked."""

    def __init__(self, path: str, seed: int, n_cache_ram_bytes: int, home: Path | None = None) -> None:
        self.path, self.home, self.n_cache_ram_bytes = path, home, n_cache_ram_bytes
        self.random = random.Random(seed)
        self.interval_s = 0.002 if seed % 2 else 0.0  # a few steps of these models follow each other, or none
        self.asked: dict[str, Asked] = {}
        self.ended: list[Bench] = []
        self.bench = self._start()

    def _start(self) -> Bench:
        model = _core.Model(self.path)
        kind = memory_kind(model.memory_kind, model.n_swa)
        disk = None
        if self.home is not None:
            disk = DiskTier(self.home, {"test": "trace"}, DISK_BYTES, can_cut=kind.can_cut, native=_core)
        return Bench(
            self.path,
            n_ctx=N_CTX,
            n_ctx_per_request=N_CTX_PER_REQUEST,
            n_seq_max=7,
            n_batch=64,
            n_parallel=4,
            n_waiting_max=1 << 20,
            cache_ram_bytes=self.n_cache_ram_bytes,
            headroom_tokens=4,
            n_draft_max=4,
            disk=disk,
        )

    def restart(self) -> None:
        """Another engine in the same home, as after a model was unloaded."""
        self.bench.run()
        check_cells(self.bench.engine)
        self.bench.engine.close()
        self.ended.append(self.bench)
        self.bench = self._start()

    def bench_of(self, request_id: str) -> Bench:
        return next(bench for bench in (*self.ended, self.bench) if request_id in bench.finals)

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
            first = self.asked[request_id].tokens
            answer = self.bench.tokens[request_id][0] if request_id in self.bench.tokens else []
            self._submit([*first, *answer][: N_CTX // 2], len(first))

    def _submit(self, tokens: list[int], boundary: int) -> None:
        request_id = str(len(self.asked))
        n, max_tokens = self.random.choice((1, 1, 1, 3)), self.random.randrange(1, 20)
        shifts = len(self.asked) % 40 == 7  # a few that outgrow their context
        if shifts:
            n, max_tokens = 1, N_CTX_PER_REQUEST
        self.asked[request_id] = Asked(tokens, max_tokens, n, shifts)
        self.bench.submit(
            request_id,
            tokens,
            max_tokens=max_tokens,
            n=n,
            priority=self.random.choice((0, 0, 0, 1)),
            boundaries=(boundary,) if 0 < boundary < len(tokens) else (),
            cache_salt=self.random.choice(SALTS),
            context_shift=shifts,
            n_keep=KEPT,
            output_interval_s=self.interval_s,
        )

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
    assert status.n_preemptions > 0 or kind == "opaque"
    assert bench.engine._cache.eviction.n_evictions > 0
    assert status.n_forks > 0 or kind == "opaque"
    assert status.n_draft_accepted > 0 or kind not in ("dense", "iswa")
    ends = Counter(final.finish_reason for final in bench.finals.values())
    assert ends[FinishReason.ABORT] > 0
    assert ends[FinishReason.LENGTH] > 0
    usages = [final.usage for final in bench.finals.values() if final.usage is not None]
    assert any(usage.n_truncated_tokens for usage in usages), "no context was shifted"
    compare_with_lone_answers(trace, Bench(path, prefix_cache=False, n_ctx_per_request=N_CTX_PER_REQUEST))
    free_all(bench)


def test_random_trace_over_restarts_with_a_disk_tier(
    kind: str, tiny_model: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_exchange, "IDLE_S", 0.0)
    monkeypatch.setattr(disk_tier, "MIN_STORE_TOKENS", 64)
    monkeypatch.setattr(disk_tier, "MIN_GAIN_TOKENS", 24)
    path = tiny_model(KINDS[kind])
    trace = Trace(path, seed=4, n_cache_ram_bytes=1 << 18, home=tmp_path)
    n_cached_first = 0  # prompt tokens that the first requests after a restart took from files
    for _ in range(3):
        trace.play(N_ACTIONS // 4 if kind != "opaque" else N_ACTIONS // 12)
        trace.restart()
        for request_id in list(trace.asked)[-4:]:
            first = trace.asked[request_id]
            trace._submit([*first.tokens, *trace.ended[-1].tokens[request_id][0]][: N_CTX // 2], len(first.tokens))
        trace.bench.run()
        n_cached_first += trace.bench.engine.status().n_cached_tokens
    assert n_cached_first > 100
    compare_with_lone_answers(trace, Bench(path, prefix_cache=False, n_ctx_per_request=N_CTX_PER_REQUEST))
    free_all(trace.bench)
    trace.bench.engine.close()


def free_all(bench: Bench) -> None:
    for branch in list(bench.engine._cache.tree.branches):
        bench.engine._cache.drop(branch)
    assert bench.engine.status().n_cells_used == 0
    check_cells(bench.engine)


def compare_with_lone_answers(trace: Trace, plain: Bench) -> None:
    for request_id in trace.random.sample(list(trace.asked), min(N_COMPARED, len(trace.asked))):
        asked, bench = trace.asked[request_id], trace.bench_of(request_id)
        expected: Answer = plain.answer(
            asked.tokens, max_tokens=asked.max_tokens, context_shift=asked.shifts, n_keep=KEPT
        )
        answers = bench.answers[request_id]
        if bench.finals[request_id].finish_reason is not FinishReason.ABORT:
            assert [len(answers[i].tokens) for i in range(asked.n)] == [asked.max_tokens] * asked.n
        for i in range(asked.n):
            answers[i].assert_equals_until_a_tie(expected)
