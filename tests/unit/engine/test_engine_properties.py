"""Random traces of submit, cancel and step on every memory kind: whatever happens, answers are those of a lone run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes import native
from tests.fakes.engine_harness import KINDS, EngineHarness, fake_model, prompt

from donabe.engine import compaction, disk_exchange, disk_tier
from donabe.engine.disk_tier import DiskTier
from donabe.engine.kinds import memory_kind
from donabe.types import FinishReason

ACTION = st.one_of(
    st.tuples(
        st.just("submit"),
        st.integers(0, 3),  # trunk
        st.integers(0, 150),  # tokens of it
        st.integers(1, 60),  # own tokens
        st.integers(1, 25),  # max_tokens
        st.integers(0, 2),  # priority
        st.sampled_from([1, 1, 1, 3]),  # n
    ),
    st.tuples(st.just("cancel"), st.integers(0, 30)),
    st.tuples(st.just("step"), st.integers(1, 6)),
    st.tuples(st.just("repeat"), st.integers(0, 30)),  # the same prompt again, or with its answer as a next turn
    st.tuples(st.just("idle")),
    st.tuples(st.just("outgrow"), st.integers(0, 3), st.integers(20, 60)),  # trunk, tokens: its context is shifted
    st.tuples(st.just("restart")),
)
SALTS = ("", "", "mine", "yours")
N_CTX_PER_REQUEST = 200
KEPT = 8  # prompt tokens that a context shift keeps


@lru_cache(maxsize=4096)
def expected(kind: str, period: int, tokens: tuple[int, ...], max_tokens: int, shifts: bool) -> list[int]:
    fields = {"context_shift": True, "n_keep": KEPT, "ignore_eos": True} if shifts else {}
    model = fake_model(kind, eog_every=50, copy_period=period)
    plain = EngineHarness(model=model, n_ctx=4096, n_batch=256, prefix_cache=False, n_ctx_per_request=N_CTX_PER_REQUEST)
    return plain.answer(tokens, max_tokens=max_tokens, **fields)


class Trace:
    """Plays actions on an engine and remembers what was asked."""

    def __init__(
        self,
        kind: str,
        period: int,
        home: Path | None = None,
        copy_s: float = 0.0,
        interval_s: float = 0.0,
        **options,
    ) -> None:
        self.kind, self.period, self.home, self.copy_s, self.interval_s = kind, period, home, copy_s, interval_s
        self.options = {"n_ctx_per_request": N_CTX_PER_REQUEST} | options
        self.asked: dict[str, tuple[tuple[int, ...], int, int, bool]] = {}
        self.ended: list[EngineHarness] = []
        self.h = self._start()

    def _start(self) -> EngineHarness:
        disk = None
        if self.home is not None:
            can_cut = memory_kind(self.kind, 24).can_cut
            disk = DiskTier(self.home, {"test": "trace"}, 300_000, can_cut=can_cut, native=native)
            disk.wait_for_index(5)
        model = fake_model(self.kind, eog_every=50, copy_period=self.period, copy_s=self.copy_s)
        return EngineHarness(model=model, disk=disk, **self.options)

    def submit(self, tokens, max_tokens: int, priority: int = 0, n: int = 1, *, shifts: bool = False) -> None:
        request_id = f"r{len(self.asked)}"
        tokens = tuple(tokens)[: self.h.engine.n_ctx_per_request - 1]
        self.asked[request_id] = (tokens, max_tokens, n, shifts)
        self.h.submit(
            request_id,
            tokens,
            max_tokens=max_tokens,
            priority=priority,
            n=n,
            boundaries=(len(tokens) // 2,),
            cache_salt=SALTS[len(self.asked) % len(SALTS)],
            context_shift=shifts,
            n_keep=KEPT,
            ignore_eos=shifts,
            output_interval_s=self.interval_s,
        )

    def play(self, action) -> None:
        name, *args = action
        ids = list(self.asked)
        if name == "submit":
            trunk, n_trunk, n_own, max_tokens, priority, n = args
            own = prompt(n_own, 1000 + len(self.asked))
            self.submit([*prompt(150, trunk)[:n_trunk], *own], max_tokens, priority, n)
        elif name == "step":
            self.h.step(args[0])
        elif name == "idle":
            self.h.engine.idle()
            self.h.check()
        elif name == "outgrow":
            trunk, n_trunk = args
            self.submit(prompt(150, trunk)[:n_trunk], N_CTX_PER_REQUEST + 20, shifts=True)
        elif name == "restart" and self.home is not None:
            self.close()
            self.h = self._start()
        elif ids and name == "cancel":
            self.h.engine.cancel(ids[args[0] % len(ids)])
        elif ids and name == "repeat":
            request_id = ids[args[0] % len(ids)]
            answer = self.h.tokens[request_id][0] if request_id in self.h.tokens else []
            self.submit([*self.asked[request_id][0], *answer], 8)

    def close(self) -> None:
        self.h.run()
        self.h.engine.close()
        self.ended.append(self.h)

    def verify(self) -> None:
        self.close()
        for request_id, (tokens, max_tokens, n, shifts) in self.asked.items():
            (h,) = [h for h in self.ended if request_id in h.finals]
            assert len(h.finals[request_id]) == 1, request_id
            assert len(h.ends[request_id]) == n
            want = expected(self.kind, self.period, tokens, max_tokens, shifts)
            for end in h.ends[request_id]:
                got = h.tokens[request_id][end.index]
                assert end.usage.n_output_tokens == len(got)
                if end.finish_reason is FinishReason.ABORT:
                    assert got == want[: len(got)]
                else:
                    assert end.error is None and got == want, request_id
        h = self.h
        for branch in list(h.cache.tree.branches):
            assert branch.is_idle
            h.cache.drop(branch)
        h.check()
        assert h.cache.tree.n_cells == 0 and h.context.memory.n_used() == 0


@pytest.fixture(autouse=True, scope="module")
def compaction_of_small_pools() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compaction, "MIN_PEAK_CELLS", 32)
        patch.setattr(compaction, "CELLS_PER_RUN", 64)
        patch.setattr(disk_exchange, "IDLE_S", 0.0)
        patch.setattr(disk_tier, "MIN_STORE_TOKENS", 48)
        patch.setattr(disk_tier, "MIN_GAIN_TOKENS", 16)
        yield


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(
    actions=st.lists(ACTION, min_size=5, max_size=40),
    n_ctx=st.sampled_from([256, 320, 1024]),
    n_batch=st.sampled_from([24, 64]),
    n_parallel=st.integers(1, 5),
    n_idle_ids=st.integers(1, 6),
    ram=st.sampled_from([0, 20_000, 1 << 20]),
    period=st.sampled_from([0, 0, 7]),
    has_disk=st.booleans(),
    pool=st.sampled_from([None, None, 5_000]),
    copy_s=st.sampled_from([0.0, 1e-6, 1e-4]),
    interval_s=st.sampled_from([0.0, 0.03, 1.0]),
)
def test_answers_do_not_depend_on_what_else_happens(
    kind, actions, n_ctx, n_batch, n_parallel, n_idle_ids, ram, period, has_disk, pool, copy_s, interval_s
):
    with tempfile.TemporaryDirectory() as home:
        trace = Trace(
            kind,
            period,
            Path(home) if has_disk else None,
            copy_s=copy_s,
            interval_s=interval_s,
            n_ctx=n_ctx,
            n_batch=n_batch,
            n_parallel=n_parallel,
            n_seq_max=n_parallel + n_idle_ids,
            cache_ram_bytes=ram,
            cache_pool_bytes=pool,
            n_draft_max=4 if period else 0,
            headroom_tokens=6,
        )
        for action in actions:
            trace.play(action)
        trace.verify()


def test_sequence_moved_and_preempted_in_one_step_keeps_its_sampler():
    trace = Trace("recurrent", 0, n_ctx=256, n_batch=24, n_parallel=3, n_seq_max=4, cache_ram_bytes=0)
    for n_own, max_tokens, priority, n in [(1, 1, 0, 1), (1, 1, 0, 1), (1, 2, 0, 3), (33, 1, 1, 3)]:
        trace.play(("submit", 0, 0, n_own, max_tokens, priority, n))
    trace.play(("cancel", 0))
    trace.verify()
