"""Chunk sizes from step times."""

from __future__ import annotations

import pytest

from donabe.engine.budget import FIRST_CHUNK, MIN_CHUNK, ROW_TIMES_KEPT_STEPS, RowTimes, StepBudget


def measured(n_batch=512, bound=None, decode_s=0.010, token_s=0.001) -> StepBudget:
    budget = StepBudget(n_batch, bound, 1.0)
    for _ in range(20):
        budget.observe(2, 0, decode_s)
        budget.observe(2, 50, decode_s + 50 * token_s)
    return budget


def test_unmeasured_budget_is_careful_beside_decodes_and_full_alone():
    budget = StepBudget(512, None, 1.0)
    assert budget.prefill_tokens(3) == FIRST_CHUNK
    assert budget.prefill_tokens(0) == 512


def test_chunk_keeps_the_step_under_the_default_bound():
    budget = measured()
    n = budget.prefill_tokens(2)
    assert 112 <= n <= 128
    assert 0.010 + n * 0.001 <= 0.15


def test_slow_decode_raises_the_default_bound_to_twice_the_step():
    budget = measured(decode_s=0.4, token_s=0.01)
    assert budget.latency_bound_s(2) == 0.8
    assert 0.4 + budget.prefill_tokens(2) * 0.01 <= 0.8


def test_given_bound_is_kept_and_progress_is_guaranteed():
    assert measured(bound=0.05).prefill_tokens(2) * 0.001 + 0.010 <= 0.05
    assert measured(bound=0.001).prefill_tokens(2) == MIN_CHUNK


def test_alone_a_slow_machine_gets_steps_of_about_the_aimed_length():
    assert measured(token_s=0.004).prefill_tokens(0) == 250
    assert measured(token_s=0.1).prefill_tokens(0) == 128
    assert measured(token_s=0.0001).prefill_tokens(0) == 512


def test_short_prompt_alone_does_not_make_tokens_look_dear():
    budget = StepBudget(512, None, 1.0)
    budget.observe(1, 0, 0.010)
    budget.observe(0, 10, 0.020)  # half of it is the weights, which are read once however many tokens there are
    assert budget.prefill_cost_s == pytest.approx(0.001)
    assert budget.prefill_tokens(1) >= 112


def test_one_hiccup_does_not_make_the_chunk_tiny():
    budget = measured()
    before = budget.prefill_tokens(2)
    budget.observe(2, 100, 3.0)
    assert budget.prefill_tokens(2) >= before / 2


def test_lasting_slowness_shrinks_the_chunk_within_four_steps():
    budget = measured()
    for _ in range(4):
        budget.observe(2, 100, 0.010 + 100 * 0.004)
    assert budget.prefill_tokens(2) <= 48


def test_chunk_size_is_stable_under_noise():
    budget = measured()
    sizes = set()
    for i in range(30):
        budget.observe(2, 100, 0.010 + 100 * (0.001 + 0.00005 * (i % 3)))
        sizes.add(budget.prefill_tokens(2))
    assert len(sizes) <= 3


def test_row_times_between_measured_ones_are_interpolated():
    times = RowTimes()
    assert times(1) is None
    times.observe(1, 0.010)
    assert times(1) == 0.010 and times(3) is None
    times.observe(5, 0.018)
    assert times(3) == pytest.approx(0.014)
    assert times(9) == pytest.approx(0.026)


def test_row_times_forget_what_was_not_measured_for_long():
    times = RowTimes()
    times.observe(3, 0.5)
    for _ in range(ROW_TIMES_KEPT_STEPS):
        times.observe(1, 0.010)
    assert times(3) is None and times(1) == pytest.approx(0.010)


def test_row_times_get_over_a_disturbed_step():
    times = RowTimes()
    for seconds in (0.010, 0.300, 0.010, 0.010):
        times.observe(1, seconds)
    assert times(1) <= 0.0105


def test_batch_capacity_is_never_exceeded():
    budget = measured(n_batch=8)
    assert budget.prefill_tokens(8) == 0
    assert budget.prefill_tokens(5) <= 3
