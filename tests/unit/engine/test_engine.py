"""Engine.step by hand: outputs, endings, counters."""

from __future__ import annotations

import pytest
from tests.fakes.engine_harness import KINDS, EngineHarness, fake_model, plain_answer, prompt

from donabe.errors import (
    ComputeError,
    ContextLengthError,
    InvalidRequestError,
    KvFullError,
    RunnerError,
    ServerBusyError,
)
from donabe.types import FinishReason


@pytest.mark.parametrize("kind", KINDS)
def test_one_request_prefills_in_chunks_and_ends_once(kind):
    h = EngineHarness(kind, n_batch=32)
    h.submit("a", prompt(100), max_tokens=5)
    h.run()
    assert len(h.tokens["a"][0]) == 5
    (final,) = h.finals["a"]
    assert final.finish_reason is FinishReason.LENGTH
    assert final.usage.n_prompt_tokens == 100 and final.usage.n_output_tokens == 5
    assert max(n for batch in h.context.batches for _, n in batch) <= 32
    assert h.tokens["a"][0] == plain_answer(h.model, prompt(100), max_tokens=5)


def test_end_of_generation_token_ends_with_stop():
    model = fake_model(eog_every=5)
    h = EngineHarness(model=model)
    h.submit("a", prompt(20), max_tokens=None)
    h.run()
    assert h.finals["a"][0].finish_reason is FinishReason.STOP
    assert h.tokens["a"][0][-1] == 2


def test_stop_string_index_is_reported():
    tokens = plain_answer(fake_model(), prompt(20), max_tokens=4)
    h = EngineHarness()
    h.submit("a", prompt(20), stop=(b"nowhere", f" {tokens[2]}".encode()))
    h.run()
    assert h.finals["a"][0].finish_reason is FinishReason.STOP
    assert h.finals["a"][0].stop_index == 1


def test_generation_ends_with_length_at_the_context_limit_of_a_request():
    h = EngineHarness(n_ctx_per_request=64)
    h.submit("a", prompt(60), max_tokens=None)
    h.run()
    assert h.finals["a"][0].finish_reason is FinishReason.LENGTH
    assert len(h.tokens["a"][0]) == 4


def test_max_tokens_zero_ends_at_once_without_a_step():
    h = EngineHarness()
    h.submit("a", prompt(20), max_tokens=0)
    h.run()
    assert h.finals["a"][0].finish_reason is FinishReason.LENGTH
    assert h.context.batches == []


def test_prompt_longer_than_the_context_is_refused_at_submit():
    h = EngineHarness(n_ctx_per_request=50)
    with pytest.raises(ContextLengthError) as error:
        h.submit("a", prompt(50))
    assert (error.value.n_prompt_tokens, error.value.n_ctx) == (50, 50)
    assert not h.engine.has_work()


@pytest.mark.parametrize(
    ("fields", "field"), [({"n": 0}, "n"), ({"max_tokens": -1}, "max_tokens"), ({"n_keep": -2}, "n_keep")]
)
def test_bad_request_field_is_named(fields, field):
    with pytest.raises(InvalidRequestError) as error:
        EngineHarness().submit("a", prompt(5), **fields)
    assert error.value.field == field


def test_empty_prompt_and_reused_id_are_refused():
    h = EngineHarness()
    with pytest.raises(InvalidRequestError, match="no tokens"):
        h.submit("a", [])
    h.submit("a", prompt(5))
    with pytest.raises(InvalidRequestError, match="in use"):
        h.submit("a", prompt(5))
    h.run()
    h.submit("a", prompt(5))


def test_full_queue_refuses_and_the_rest_is_served():
    h = EngineHarness(n_waiting_max=2)
    h.submit("a", prompt(5))
    h.submit("b", prompt(6))
    with pytest.raises(ServerBusyError):
        h.submit("c", prompt(7))
    h.run()
    assert set(h.finals) == {"a", "b"}


def test_queue_counts_requests_not_completions_or_cancels():
    h = EngineHarness(n_waiting_max=4, n_parallel=1)
    for i in range(3):
        h.submit(str(i), prompt(5 + i), n=128, max_tokens=1)
        h.engine.cancel("nobody")
    h.step()
    h.submit("3", prompt(9), max_tokens=1)  # the others' sequences wait already, this one only to be taken
    with pytest.raises(ServerBusyError, match="4 requests"):
        h.submit("4", prompt(9))
    h.engine.cancel("1")
    h.step()
    h.submit("4", prompt(9), max_tokens=1)
    h.run()
    assert set(h.finals) == set("01234")


def test_running_sequences_decode_together():
    h = EngineHarness(n_parallel=4)
    for i in range(4):
        h.submit(str(i), prompt(10, i), max_tokens=6)
    h.step(2)
    assert len(h.context.batches[-1]) == 4
    h.run()
    for i in range(4):
        assert h.tokens[str(i)][0] == plain_answer(h.model, prompt(10, i), max_tokens=6)


def test_several_completions_prefill_once_and_differ_by_seed():
    h = EngineHarness()
    h.submit("a", prompt(200), n=3, seed=7, sampler_params={"temperature": 1.0})
    h.run()
    texts = [tuple(h.tokens["a"][i]) for i in range(3)]
    assert len(set(texts)) == 3
    assert len(h.ends["a"]) == 3 and len(h.finals["a"]) == 1
    assert h.context.n_evaluated <= 200 + 3 * 9
    h.submit("b", prompt(200), n=3, seed=7, sampler_params={"temperature": 1.0})
    h.run()
    assert [tuple(h.tokens["b"][i]) for i in range(3)] == texts


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_steps", [0, 1, 2, 6])
def test_cancel_at_any_stage_takes_effect_at_the_next_step(kind, n_steps):
    h = EngineHarness(kind, n_batch=32, n_parallel=1, prefix_cache=False)
    h.submit("a", prompt(100), max_tokens=50)
    h.submit("b", prompt(90, 1), max_tokens=50)
    h.step(n_steps)
    h.engine.cancel("a")
    h.engine.cancel("b")
    h.engine.cancel("unknown")
    h.step()
    assert not h.engine.has_work()
    assert [h.finals[r][0].finish_reason for r in "ab"] == [FinishReason.ABORT] * 2
    assert h.cache.tree.n_cells == 0 and h.samplers.bound() == []


def test_cancelled_leader_does_not_stop_its_followers():
    h = EngineHarness(n_batch=32)
    shared = prompt(150)
    h.submit("a", [*shared, 11])
    h.submit("b", [*shared, 12])
    h.step(2)
    h.engine.cancel("a")
    h.run()
    assert h.tokens["b"][0] == plain_answer(h.model, [*shared, 12])
    assert h.context.n_evaluated <= 151 + 8 + 32


def test_sampling_error_fails_its_request_only():
    h = EngineHarness()
    h.submit("a", prompt(10))
    h.submit("b", prompt(11, 1))
    h.step(2)
    h.samplers.fail_on.add(h.scheduler.running[0].seq_id)
    h.run()
    assert isinstance(h.finals["a"][0].error, ComputeError)
    assert h.finals["a"][0].finish_reason is FinishReason.ERROR
    assert h.finals["b"][0].finish_reason is FinishReason.LENGTH


def test_native_failure_ends_every_request_once_and_closes_the_engine():
    h = EngineHarness(n_parallel=1)
    h.submit("a", prompt(10))
    h.submit("b", prompt(11), n=2)
    h.step(2)
    h.submit("c", prompt(12))
    h.context.fail_next = [ComputeError("the backend failed")]
    with pytest.raises(ComputeError):
        h.engine.step()
    h.engine.fail_all(RunnerError("again"))
    assert {r: len(f) for r, f in h.finals.items()} == {"a": 1, "b": 1, "c": 1}
    assert all(isinstance(f[0].error, ComputeError) for f in h.finals.values())
    with pytest.raises(RunnerError):
        h.submit("d", prompt(5))


def test_failure_is_told_even_when_the_native_context_is_unusable():
    h = EngineHarness()
    h.submit("a", prompt(10))
    h.step(2)
    h.submit("b", prompt(10))
    h.samplers.unbind = h.context.memory.seq_rm = None  # any call raises
    h.engine.fail_all(RunnerError("the runner stops"))
    assert {r: len(f) for r, f in h.finals.items()} == {"a": 1, "b": 1}
    assert not h.engine.has_work() and not h.engine.step()


def test_unexpected_full_pool_preempts_and_every_request_still_finishes():
    h = EngineHarness()
    for i in range(3):
        h.submit(str(i), prompt(60, i), max_tokens=20)
    h.step(4)
    h.context.fail_next = [KvFullError("full"), KvFullError("full")]
    h.run()
    assert h.engine.status().n_preemptions == 2
    for i in range(3):
        assert h.tokens[str(i)][0] == plain_answer(h.model, prompt(60, i), max_tokens=20)


def test_full_pool_with_one_request_ends_it_with_length():
    h = EngineHarness()
    h.submit("a", prompt(60), max_tokens=20)
    h.step(3)
    h.context.fail_next = [KvFullError("full")] * 2
    h.run()
    assert h.finals["a"][0].finish_reason is FinishReason.LENGTH


def test_context_shift_goes_on_beyond_the_context():
    h = EngineHarness(n_ctx_per_request=64)
    h.submit("a", prompt(40), max_tokens=100, context_shift=True, n_keep=10)
    h.run()
    assert len(h.tokens["a"][0]) == 100
    usage = h.finals["a"][0].usage
    assert usage.n_prompt_tokens == 40 and usage.n_truncated_tokens > 0


def test_status_counts_what_happened():
    h = EngineHarness()
    h.answer(prompt(40), max_tokens=4)
    h.answer(prompt(40), max_tokens=4)
    status = h.engine.status()
    assert status.n_running == status.n_waiting == 0
    assert status.n_output_tokens == 8
    assert status.n_cached_tokens == 39
    assert status.n_cells_used == status.n_cells_cached == 43
    assert status.step_s > 0 and status.python_s >= 0


def test_wait_for_work_returns_on_submit_and_on_wake():
    h = EngineHarness()
    assert not h.engine.wait_for_work(0.001)
    h.engine.wake()
    assert not h.engine.wait_for_work(5)
    h.submit("a", prompt(5))
    assert h.engine.wait_for_work(5)


def test_guesses_do_not_move_the_place_of_a_context_shift():
    answers = []
    for n_draft_max in (0, 4):
        h = EngineHarness(model=fake_model(copy_period=7), n_ctx_per_request=200, n_draft_max=n_draft_max)
        h.engine._speculation._step_time = lambda _: 1.0  # rows cost nothing: as much as possible is guessed
        answers.append(h.answer(prompt(7) * 4, max_tokens=400, context_shift=True, n_keep=8))
        assert (h.engine.status().n_draft_accepted > 20) == (n_draft_max > 0)
    assert answers[0] == answers[1]
