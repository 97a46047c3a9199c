"""State copies and the latency bound: what a step has no time to copy waits, is copied in part, or is given up."""

from __future__ import annotations

import itertools

import pytest
from tests.fakes.engine_harness import KINDS, EngineHarness, fake_model, plain_answer, prompt

from donabe.engine.copies import FIRST_RATE, Copies, Rate
from donabe.engine.scheduler import MAX_DEFERRED_STEPS

BOUND_S = 0.1
COPY_S = 1e-6  # of a byte: a state of 300 tokens takes 30 ms
COUNTING = [kind for kind in KINDS if kind not in ("recurrent", "opaque")]


def harness(kind: str = "dense", copy_s: float = COPY_S, **options) -> EngineHarness:
    """An engine that has measured its steps, and one copy."""
    options = {"n_ctx": 2048, "n_batch": 256, "max_step_latency_s": BOUND_S, "n_parallel": 3} | options
    h = EngineHarness(model=fake_model(kind, copy_s=copy_s), **options)
    for i in range(2):
        h.answer(prompt(150, 90 + i), max_tokens=20, cache_salt="warm up")
    h.cache.copies.begin_step(None)
    while h.cache.eviction.evict_one(h.clock.now):
        pass
    return h


def worst_gap(h: EngineHarness, request_id: str = "stream") -> float:
    times = h.times[request_id]
    return max(b - a for a, b in itertools.pairwise(times))


def stream(h: EngineHarness, n_tokens: int = 400) -> None:
    h.submit("stream", prompt(20, 77), max_tokens=n_tokens)
    h.step(5)


@pytest.mark.parametrize("kind", COUNTING)
def test_gap_stays_bounded_while_many_prefixes_are_evicted(kind):
    h = harness(kind)
    for i in range(5):
        h.answer(prompt(300, i), max_tokens=4)
    n_before = h.context.memory.n_copied_bytes
    stream(h)
    for i in range(6):
        h.submit(f"new{i}", prompt(500, 10 + i), max_tokens=4)
    h.run()
    assert h.cache.eviction.n_evictions > 4
    assert h.context.memory.n_copied_bytes - n_before > 100_000, "nothing was copied, so nothing was tested"
    assert worst_gap(h) <= BOUND_S
    for i in range(6):
        assert h.tokens[f"new{i}"][0] == plain_answer(h.model, prompt(500, 10 + i), max_tokens=4)


def test_evicted_prefixes_are_not_lost_where_a_later_step_has_time_for_them():
    h = harness()
    for i in range(6):
        h.answer(prompt(300, i), max_tokens=4)
    stream(h)
    h.submit("big", prompt(1500, 10), max_tokens=4)  # 5 prefixes have to go: 30 ms each
    h.run()
    assert worst_gap(h) <= BOUND_S
    for i in range(5):
        n_before = h.context.n_evaluated
        h.answer([*prompt(300, i), 5], max_tokens=1)
        assert h.context.n_evaluated - n_before <= 2, i


def test_of_a_state_that_takes_longer_than_a_step_the_front_is_kept_where_it_can_be_cut():
    h = harness(n_ctx=1024)
    h.answer([*prompt(800), *prompt(100, 1)], max_tokens=4)  # 90 ms
    h.engine._budget._max_step_latency_s = 0.06
    stream(h, 100)
    h.submit("new", prompt(700, 3), max_tokens=4)
    h.run()
    assert worst_gap(h) <= 0.06
    n_before = h.context.n_evaluated
    h.answer([*prompt(800)[:400], *prompt(20, 5)], max_tokens=1)
    assert 20 < h.context.n_evaluated - n_before < 420 - 64


@pytest.mark.parametrize("kind", ["iswa", "hybrid"])
def test_a_state_that_takes_longer_than_a_step_and_cant_be_cut_is_given_up(kind):
    h = harness(kind, n_ctx=1024)
    h.answer(prompt(900), max_tokens=4)
    h.engine._budget._max_step_latency_s = 0.05
    stream(h, 60)
    h.submit("new", prompt(700, 3), max_tokens=4)
    h.run()
    assert worst_gap(h) <= 0.05
    assert h.answer(prompt(900), max_tokens=4) == plain_answer(h.model, prompt(900), max_tokens=4)


@pytest.mark.parametrize("kind", COUNTING)
@pytest.mark.parametrize("copy_s", [COPY_S, 20 * COPY_S])
def test_gap_stays_bounded_when_others_are_preempted_and_resumed(kind, copy_s):
    h = harness(kind, copy_s, n_ctx=1024, headroom_tokens=4)
    stream(h, 300)
    for i in range(2):
        h.submit(f"long{i}", prompt(300, i), max_tokens=150)
    h.run()
    assert h.engine.status().n_preemptions > 0
    assert worst_gap(h) <= BOUND_S
    for i in range(2):
        assert h.tokens[f"long{i}"][0] == plain_answer(h.model, prompt(300, i), max_tokens=150)


@pytest.mark.parametrize("kind", ["iswa", "hybrid", "hybrid_iswa", "recurrent"])
def test_checkpoints_of_several_prompts_are_spread_over_steps(kind):
    h = harness(kind, n_parallel=8, n_seq_max=20)
    h.context.memory.copy_s = 0.03 / h.cache.copies.partial_bytes  # two in a step, no more
    h.cache.copies._saving = Rate()
    h.answer(prompt(40, 52), max_tokens=2)  # one to learn that
    stream(h)
    n_before, largest = h.context.memory.n_copied_bytes, 0
    for i in range(6):
        h.submit(str(i), prompt(40, i), max_tokens=2)
    while h.engine.has_work():
        n_step = h.context.memory.n_copied_bytes
        h.step()
        largest = max(largest, h.context.memory.n_copied_bytes - n_step)
    assert h.context.memory.n_copied_bytes - n_before >= 6 * h.cache.copies.partial_bytes
    assert largest <= 3 * h.cache.copies.partial_bytes
    assert worst_gap(h) <= BOUND_S


def test_outputs_of_a_step_do_not_wait_for_its_checkpoint():
    h = harness("hybrid")
    stream(h)
    h.submit("other", prompt(40), max_tokens=2)
    published = []
    h.engine._publish = lambda outputs: published.append(h.context.memory.n_copied_bytes)
    n_before = h.context.memory.n_copied_bytes
    while h.context.memory.n_copied_bytes == n_before:
        n_published = len(published)
        h.step()
    assert len(published) == n_published + 1
    assert published[-2] == n_before


def test_without_a_stream_nothing_is_held_back():
    h = harness(copy_s=100 * COPY_S, n_ctx=1024)
    h.answer(prompt(900), max_tokens=4)
    h.answer(prompt(700, 3), max_tokens=4)
    n_before = h.context.n_evaluated
    h.answer([*prompt(900), 7], max_tokens=1)
    assert h.context.n_evaluated - n_before <= 2


def test_admission_does_not_wait_for_ever_for_the_time_of_a_copy(monkeypatch):
    h = harness()
    for i in range(6):
        h.answer(prompt(300, i), max_tokens=4)
    stream(h)
    monkeypatch.setattr(h.cache.eviction, "_is_worth_waiting", lambda branch: True)
    h.submit("new", prompt(700, 9), max_tokens=4)
    h.step(MAX_DEFERRED_STEPS)
    assert h.scheduler.running[-1].call.request.request_id != "new"
    h.step(2)
    assert h.scheduler.running[-1].call.request.request_id == "new"


def test_nothing_is_copied_that_nobody_would_keep():
    h = harness(cache_ram_bytes=0, n_ctx=1024)
    n_before = h.context.memory.n_copied_bytes
    for i in range(4):
        h.answer(prompt(500, i), max_tokens=4)
    assert h.cache.eviction.n_evictions > 1
    assert h.context.memory.n_copied_bytes == n_before


def test_rate_follows_large_copies_more_than_small_ones():
    rate = Rate()
    assert rate() == FIRST_RATE
    rate.observe(1_000_000, 0.001)
    rate.observe(100, 0.001)  # the fixed cost of a call
    assert rate() > 0.4e9
    for _ in range(10):
        rate.observe(1_000_000, 0.01)
    assert rate() == pytest.approx(1e8, rel=0.3)


def test_size_of_the_next_state_is_learnt_from_the_last():
    h = EngineHarness("iswa")
    copies: Copies = h.cache.copies
    assert copies.whole_bytes(100) == 100 * 100
    h.submit("a", prompt(200), max_tokens=30)
    h.step(8)
    seq_id = h.scheduler.running[0].seq_id
    copies.save(seq_id, partial=True)
    blob = copies.save(seq_id)
    assert copies.whole_bytes(blob.n_tokens) == pytest.approx(blob.nbytes, rel=0.01)
    assert copies.whole_bytes(blob.n_tokens + 100) == pytest.approx(blob.nbytes + 10_000, rel=0.05)
