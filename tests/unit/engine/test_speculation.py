"""Prompt lookup: guesses found, output unchanged, off where it does not pay."""

from __future__ import annotations

import numpy as np
import pytest
from tests.fakes.engine_harness import EngineHarness, fake_model, plain_answer, prompt

from donabe.engine.speculation import PAUSE_TOKENS, PROBE, Drafter, best_length, find_repeat


def tokens(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def test_find_repeat_continues_the_latest_earlier_occurrence():
    found = find_repeat(tokens(1, 2, 3, 7, 7, 1, 2, 3, 8, 9, 1, 2, 3), 2)
    assert found is not None and found.tolist() == [8, 9]


@pytest.mark.parametrize("values", [(), (1, 2, 3), (1, 2, 3, 4, 5, 6), (2, 3, 4, 9, 2, 3)])
def test_find_repeat_finds_nothing(values):
    assert find_repeat(tokens(*values), 4) is None


def test_find_repeat_of_a_run_of_one_token():
    found = find_repeat(tokens(5, 5, 5, 5), 4)
    assert found is not None and found.tolist() == [5]


def test_drafter_learns_its_rate_and_hopes_again_after_a_pause():
    drafter = Drafter()
    for _ in range(20):
        drafter.observe(4, 0)
    assert drafter.rate < 0.01
    drafter.pause(100)
    assert (drafter.n_paused_until, drafter.rate) == (100 + PAUSE_TOKENS, 0.5)


@pytest.mark.parametrize(
    ("rate", "row_s", "expected"),
    [(0.9, 0.0, 6), (0.9, 0.001, 6), (0.5, 0.001, 2), (0.9, 0.010, 0), (0.1, 0.002, 0)],
)
def test_best_length_weighs_the_cost_of_rows_against_right_guesses(rate, row_s, expected):
    """A step takes 10 ms and row_s for each row."""
    assert best_length(rate, 1, 6, lambda n: 0.010 + row_s * (n - 1)) == expected


def test_best_length_probes_what_was_never_measured():
    assert best_length(0.7, 1, 6, {1: 0.010}.get) == PROBE
    assert best_length(0.7, 1, 6, lambda _: None) == 0


def test_guesses_stop_where_rows_cost_as_much_as_tokens():
    model = fake_model(copy_period=9, decode_s=0.0, token_s=0.010)
    h = EngineHarness(model=model, n_draft_max=6)
    h.answer(prompt(50), max_tokens=300)
    assert h.engine.status().n_draft_tokens < 30


@pytest.mark.parametrize("kind", ["dense", "iswa"])
def test_output_is_the_same_with_fewer_steps(kind):
    model = fake_model(kind, copy_period=9)
    h = EngineHarness(model=model, n_draft_max=6)
    assert h.answer(prompt(50), max_tokens=200) == plain_answer(model, prompt(50), max_tokens=200)
    assert len(h.context.batches) < 170
    status = h.engine.status()
    assert 0 < status.n_draft_accepted <= status.n_draft_tokens
    assert status.n_output_tokens == 200


def test_limits_hold_inside_an_accepted_draft():
    model = fake_model(copy_period=9, eog_every=40)
    for n in range(20, 30):
        h = EngineHarness(model=model, n_draft_max=8)
        assert h.answer(prompt(50), max_tokens=n) == plain_answer(model, prompt(50), max_tokens=n)


@pytest.mark.parametrize("kind", ["recurrent", "hybrid"])
def test_memory_that_cannot_roll_back_gets_no_drafts(kind):
    h = EngineHarness(model=fake_model(kind, copy_period=9), n_draft_max=6)
    h.answer(prompt(50), max_tokens=50)
    assert h.engine.status().n_draft_tokens == 0


def test_text_without_repeats_costs_no_rows():
    h = EngineHarness(n_draft_max=6)
    h.answer(prompt(50), max_tokens=100)
    assert h.context.n_evaluated == 50 + 99


def test_many_sequences_with_drafts_equal_plain_output():
    model = fake_model(copy_period=7)
    h = EngineHarness(model=model, n_draft_max=6, n_ctx=400, n_batch=32, headroom_tokens=4)
    for i in range(4):
        h.submit(str(i), prompt(40, i), max_tokens=80)
    h.run()
    for i in range(4):
        assert h.tokens[str(i)][0] == plain_answer(model, prompt(40, i), max_tokens=80)
