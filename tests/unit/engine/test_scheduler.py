"""Who runs, how much, in which order: plans read off the batches of single steps."""

from __future__ import annotations

import itertools

import pytest
from tests.fakes.engine_harness import EngineHarness, fake_model, plain_answer, prompt

from donabe.types import FinishReason


def last_batch(h: EngineHarness) -> dict[str, int]:
    """request id -> tokens in the last step."""
    by_id = {s.seq_id: s.call.request.request_id for s in h.scheduler.running}
    return {by_id.get(seq_id, "?"): n for seq_id, n in h.context.batches[-1]}


def test_decode_comes_first_and_prefill_gets_the_rest():
    h = EngineHarness(n_batch=64)
    h.submit("a", prompt(10), max_tokens=50)
    h.step(3)
    h.submit("b", prompt(500, 1))
    h.step()
    assert last_batch(h)["a"] == 1
    assert 16 <= last_batch(h)["b"] <= 63


def test_prefill_is_shared_and_the_leftover_goes_to_the_oldest():
    h = EngineHarness(n_batch=64, n_parallel=3)
    h.submit("a", prompt(200))
    h.submit("b", prompt(210, 1))
    h.submit("c", prompt(5, 2), max_tokens=1)
    h.step()
    assert last_batch(h) == {"a": 21 + 16 + 1, "b": 21, "?": 5}


@pytest.mark.parametrize("n_prompts", [5, 12])
def test_more_prompts_than_shares_of_a_step_take_turns(n_prompts):
    h = EngineHarness(n_batch=64, n_parallel=n_prompts, n_seq_max=n_prompts + 2, n_ctx=8192)
    for i in range(n_prompts):
        h.submit(str(i), prompt(400, i), max_tokens=1)
    h.step(10 * n_prompts // 4)
    n_computed = sorted(s.n_computed for s in h.scheduler.running)
    assert len(n_computed) == n_prompts
    assert n_computed[-1] - n_computed[0] <= 16
    h.run()


def test_higher_priority_is_prefilled_first_where_not_all_get_a_share():
    h = EngineHarness(n_batch=32, n_parallel=6, n_ctx=8192)
    for i in range(4):
        h.submit(f"low{i}", prompt(100, i), max_tokens=1)
    h.step()
    h.submit("high", prompt(100, 9), max_tokens=1, priority=1)
    h.run()
    assert next(iter(h.finals)) == "high"


def test_alone_a_prompt_is_prefilled_at_full_batch_size():
    h = EngineHarness(n_batch=64)
    h.submit("a", prompt(200))
    h.step(3)
    assert [n for batch in h.context.batches for _, n in batch] == [64, 64, 64]


@pytest.mark.parametrize("bound", [None, 0.08])
def test_gap_of_a_running_stream_stays_bounded_while_a_long_prompt_comes_in(bound):
    model = fake_model(decode_s=0.010, token_s=0.002)
    h = EngineHarness(model=model, n_ctx=4096, n_batch=512, max_step_latency_s=bound)
    h.submit("stream", prompt(20), max_tokens=200)
    h.step(10)
    h.submit("long", prompt(1600, 1), max_tokens=2)
    h.run()
    gaps = [b - a for a, b in zip(h.times["stream"], h.times["stream"][1:], strict=False)]
    assert max(gaps) <= (bound or 0.15)
    ttft = h.finals["long"][0].usage
    assert ttft.prompt_s <= 1.3 * 1600 * 0.002 * (0.15 if bound is None else 0.08) / ((bound or 0.15) * 0.85 - 0.012)


@pytest.mark.parametrize("has_draft_model", [False, True])
def test_guesses_count_in_the_bound_of_a_step_with_prompts(has_draft_model):
    model = fake_model(decode_s=0.010, token_s=0.002, copy_period=7)
    draft = fake_model(decode_s=0.0001, token_s=0.00001, copy_period=7) if has_draft_model else None
    h = EngineHarness(
        model=model, n_ctx=4096, n_batch=256, max_step_latency_s=0.1, n_draft_max=6, draft=draft, n_lanes=5
    )
    h.engine._speculation._step_time = lambda _: 1.0  # rows cost nothing: as much as possible is guessed
    for i in range(3):
        h.submit(str(i), prompt(7, i) * 4, max_tokens=400)
    h.step(20)
    before = h.engine.status().n_draft_tokens
    h.submit("long", prompt(1600, 9), max_tokens=2)
    while not h.tokens["long"][0]:
        h.step()
    assert h.engine.status().n_draft_tokens > before
    for i in range(3):
        gaps = [b - a for a, b in itertools.pairwise(h.times[str(i)])]
        assert max(gaps) <= 0.1


def test_oldest_first_when_nothing_else_differs():
    h = EngineHarness(n_parallel=1)
    for name in "abc":
        h.submit(name, prompt(10, ord(name)), max_tokens=2)
    h.run()
    assert list(h.finals) == ["a", "b", "c"]


def test_callers_take_turns():
    h = EngineHarness(n_parallel=2)
    for i in range(4):
        h.submit(f"alice{i}", prompt(10, i), caller="alice", max_tokens=4)
    for i in range(2):
        h.submit(f"bob{i}", prompt(10, 10 + i), caller="bob", max_tokens=4)
    h.run()
    assert set(list(h.finals)[:4]) == {"alice0", "alice1", "bob0", "bob1"}


def test_higher_priority_is_admitted_first_and_preempts_lower():
    h = EngineHarness(n_parallel=1)
    h.submit("low", prompt(40), max_tokens=20)
    h.step(3)
    h.submit("next", prompt(40, 1), max_tokens=4)
    h.submit("high", prompt(40, 2), max_tokens=4, priority=5)
    h.run()
    assert list(h.finals) == ["high", "low", "next"]
    assert h.engine.status().n_preemptions == 1
    assert h.tokens["low"][0] == plain_answer(h.model, prompt(40), max_tokens=20)


def test_equal_priority_never_preempts_for_a_place():
    h = EngineHarness(n_parallel=1)
    h.submit("a", prompt(40), max_tokens=20)
    h.step(3)
    h.submit("b", prompt(40, 1))
    h.run()
    assert h.engine.status().n_preemptions == 0


@pytest.mark.parametrize("kind", ["dense", "iswa", "hybrid", "hybrid_iswa", "opaque"])
@pytest.mark.parametrize("ram", [0, 1 << 20])
def test_full_pool_preempts_the_newest_and_resumes_with_the_same_text(kind, ram):
    h = EngineHarness(kind, n_ctx=256, n_parallel=3, cache_ram_bytes=ram, headroom_tokens=4)
    for i in range(3):
        h.submit(str(i), prompt(60, i), max_tokens=80)
    h.run()
    assert h.engine.status().n_preemptions >= 1
    assert not any(s for s in h.ends["0"] if s.usage.n_output_tokens != 80)
    for i in range(3):
        assert h.finals[str(i)][0].finish_reason is FinishReason.LENGTH
        assert h.tokens[str(i)][0] == plain_answer(h.model, prompt(60, i), max_tokens=80)


def test_request_that_does_not_fit_waits_and_nobody_overtakes_it():
    h = EngineHarness(n_ctx=256, n_parallel=4)
    h.submit("a", prompt(150), max_tokens=20)
    h.step(4)
    h.submit("big", prompt(200, 1), max_tokens=20)
    h.submit("small", prompt(10, 2), max_tokens=20)
    h.step()
    assert [s.call.request.request_id for s in h.scheduler.running] == ["a"]
    h.run()
    assert next(iter(h.finals)) == "a" and h.engine.status().n_preemptions == 0


def test_prompt_as_large_as_the_pool_runs_alone():
    h = EngineHarness(n_ctx=256)
    h.answer(prompt(100, 5), max_tokens=3)
    assert len(h.answer(prompt(250), max_tokens=None)) == 6


def test_idle_engine_computes_nothing():
    h = EngineHarness()
    h.answer(prompt(20))
    n = len(h.context.batches)
    assert not h.engine.has_work()
    h.step(3)
    assert len(h.context.batches) == n


def test_recurrent_running_ids_stay_consecutive():
    h = EngineHarness("recurrent", n_parallel=4, n_seq_max=8)
    for i in range(4):
        h.submit(str(i), prompt(20, i), max_tokens=4 + 8 * (i != 1))
    while h.engine.has_work():
        h.step()
        ids = sorted(seq_id for seq_id, _ in h.context.batches[-1])
        assert ids == list(range(len(ids)))
    for i in range(4):
        assert h.tokens[str(i)][0] == plain_answer(h.model, prompt(20, i), max_tokens=4 + 8 * (i != 1))
