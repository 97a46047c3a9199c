"""Draft models: the same output in fewer steps, lanes that follow whatever happens, off where it does not pay."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.engine_harness import EngineHarness, fake_model, plain_answer, prompt

from donabe.engine.draft_model import why_unfit
from donabe.engine.speculation import PROBE, best_depth
from donabe.errors import ComputeError, KvFullError

CHEAP = {"decode_s": 0.001, "token_s": 0.00001}
TARGET = fake_model(token_s=0.0001)
TWIN = fake_model(**CHEAP)  # always right


def harness(model=TARGET, draft=TWIN, **options) -> EngineHarness:
    options.setdefault("n_draft_max", 6)
    return EngineHarness(model=model, draft=draft, **options)


def steps_of(h: EngineHarness) -> int:
    return len(h.context.batches)


def test_twin_is_always_right_and_saves_steps():
    h = harness()
    assert h.answer(prompt(50), max_tokens=120) == plain_answer(TARGET, prompt(50), max_tokens=120)
    status = h.engine.status()
    assert status.n_draft_accepted == status.n_draft_tokens > 80
    assert steps_of(h) < 40
    usage = next(iter(h.finals.values()))[0].usage
    assert usage.n_draft_accepted == status.n_draft_accepted


@pytest.mark.parametrize("kind", ["dense", "iswa"])
def test_wrong_guesses_change_nothing(kind):
    target = fake_model(kind, copy_period=9, token_s=0.0001)
    h = harness(target, fake_model("iswa" if kind == "dense" else "dense", copy_period=9, **CHEAP))
    assert h.answer(prompt(50), max_tokens=200) == plain_answer(target, prompt(50), max_tokens=200)
    status = h.engine.status()
    assert 0 < status.n_draft_accepted < status.n_draft_tokens


def test_limits_hold_inside_an_accepted_draft():
    model = replace(TARGET, eog_every=40)
    for n in range(5, 25):
        h = harness(model, replace(TWIN, eog_every=40))
        assert h.answer(prompt(50), max_tokens=n) == plain_answer(model, prompt(50), max_tokens=n)


def test_long_prompt_is_fed_in_pieces_between_steps():
    h = harness(n_ctx=2048)
    h.answer(prompt(600), max_tokens=200)
    fed = [sum(n for _, n in batch) for batch in h.draft_context.batches]
    assert max(fed) <= h.draft_context.n_batch
    assert sum(n > 16 for n in fed) > 5
    assert h.engine.status().n_draft_accepted > 50


def test_short_answer_to_a_long_prompt_is_not_worth_feeding():
    h = harness(n_ctx=2048)
    h.answer(prompt(600), max_tokens=10)
    assert h.draft_context.n_evaluated == 0


def test_completions_of_one_request_share_their_prompt():
    h = harness(n_ctx=2048)
    h.submit("a", prompt(200), n=3, max_tokens=60)
    h.run()
    want = plain_answer(TARGET, prompt(200), max_tokens=60)
    assert [h.tokens["a"][i] for i in range(3)] == [want] * 3
    assert h.draft_context.n_evaluated < 2 * 200 + 3 * 60 + 3 * 40


def test_other_salts_share_no_lane():
    h = harness()
    h.answer(prompt(100), max_tokens=60, cache_salt="a")
    before = h.draft_context.n_evaluated
    h.answer(prompt(100), max_tokens=60, cache_salt="b")
    assert h.draft_context.n_evaluated - before >= 100


def test_next_turn_goes_on_where_its_lane_is():
    h = harness()
    first = h.answer(prompt(100), max_tokens=60)
    before = h.draft_context.n_evaluated
    h.answer([*prompt(100), *first, *prompt(10, 5)], max_tokens=60)
    assert h.draft_context.n_evaluated - before < 100


def test_wrong_model_is_turned_off_for_longer_and_longer():
    h = harness(draft=fake_model(eog_every=1, **CHEAP), n_ctx=2048)
    h.answer(prompt(50), max_tokens=1000)
    assert h.engine.status().n_draft_tokens < 60


def test_slow_draft_is_not_used():
    h = harness(draft=replace(TWIN, decode_s=0.02))
    h.answer(prompt(50), max_tokens=300)
    assert h.engine.status().n_draft_tokens < 30


@pytest.mark.parametrize("error", [ComputeError("it broke"), KvFullError("no room")])
def test_failure_of_the_draft_is_nobody_elses(error):
    h = harness()
    h.draft_context.fail_next = [error]
    assert h.answer(prompt(50), max_tokens=60) == plain_answer(TARGET, prompt(50), max_tokens=60)
    assert h.draft.is_on == isinstance(error, KvFullError)
    assert bool(h.engine.status().n_draft_tokens) == h.draft.is_on


def test_context_shift_and_preemption_keep_guessing():
    h = harness(n_ctx=256, n_batch=32, headroom_tokens=4)
    for i in range(3):
        h.submit(str(i), prompt(60, i), max_tokens=90)
    h.run()
    assert h.engine.status().n_preemptions
    for i in range(3):
        assert h.tokens[str(i)][0] == plain_answer(TARGET, prompt(60, i), max_tokens=90)
    shifting = harness(n_ctx=128)
    shifting.answer(prompt(40), max_tokens=300, context_shift=True)
    assert shifting.engine.status().n_output_tokens == 300


def test_draft_with_a_shorter_context_stops_guessing_there():
    h = harness(draft=replace(TWIN, n_ctx_train=100))
    h.answer(prompt(60), max_tokens=100)
    assert h.draft_context.memory.pos_max(0) < 100
    assert 0 < h.engine.status().n_draft_accepted < 45


@pytest.mark.parametrize(("guess_s", "expected"), [(None, PROBE), (0.0, 6), (0.002, 4), (0.02, 0)])
def test_best_depth_counts_the_draft_models_time(guess_s, expected):
    assert best_depth([0.8], 1, 6, lambda _: 0.010, guess_s) == expected


def test_best_depth_of_several_sequences_shares_rounds():
    alone = best_depth([0.7], 1, 8, lambda _: 0.010, 0.002)
    together = best_depth([0.7] * 4, 4, 8, lambda _: 0.010, 0.002)
    assert together == alone == 3


def vocab(**changes):
    special = dict.fromkeys(("bos", "eos", "eot", "sep", "fim_pre", "fim_suf", "fim_mid"), -1)
    fields = {"n_tokens": 1000, "kind": "bpe", "eog_tokens": lambda: frozenset({2}), **special}
    fields["piece"] = lambda token, special: b"%d" % token
    return SimpleNamespace(**(fields | changes))


def model(kind="dense", **changes):
    return SimpleNamespace(memory_kind=kind, has_decoder=True, has_encoder=False, vocab=vocab(**changes))


@pytest.mark.parametrize(
    ("draft", "reason"),
    [
        (model(), None),
        (model("iswa"), None),
        (model("recurrent"), "recurrent"),
        (model(n_tokens=1001), "n_tokens is 1001, not 1000"),
        (model(kind="dense", bos=5), "bos"),
        (model(eog_tokens=lambda: frozenset({3})), "end an answer"),
        (model(piece=lambda token, special: b"x"), "token 0 has another text"),
    ],
)
def test_vocabularies_must_agree(draft, reason):
    found = why_unfit(model(), draft)
    assert found is None if reason is None else reason in found


ACTION = st.one_of(
    st.tuples(st.just("submit"), st.integers(0, 2), st.integers(0, 100), st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.just("cancel"), st.integers(0, 20)),
    st.tuples(st.just("step"), st.integers(1, 6)),
)


@settings(max_examples=60, deadline=None)
@given(
    actions=st.lists(ACTION, min_size=5, max_size=30),
    kind=st.sampled_from(["dense", "iswa"]),
    n_ctx=st.sampled_from([256, 1024]),
    n_parallel=st.integers(1, 4),
    is_twin=st.booleans(),
)
def test_answers_do_not_depend_on_the_draft(actions, kind, n_ctx, n_parallel, is_twin):
    target = fake_model(kind, copy_period=9, eog_every=60, token_s=0.0001)
    draft = fake_model(kind if is_twin else "dense", copy_period=9, eog_every=60 if is_twin else 0, **CHEAP)
    h = harness(target, draft, n_ctx=n_ctx, n_parallel=n_parallel, n_seq_max=n_parallel + 3, n_lanes=n_parallel)
    asked = {}
    for name, *args in actions:
        if name == "submit":
            trunk, n_trunk, n_own, max_tokens = args
            tokens = [*prompt(100, trunk)[:n_trunk], *prompt(n_own, 50 + len(asked))]
            asked[f"r{len(asked)}"] = (tokens, max_tokens)
            h.submit(f"r{len(asked) - 1}", tokens, max_tokens=max_tokens)
        elif name == "step":
            h.step(args[0])
        elif asked:
            h.engine.cancel(f"r{args[0] % len(asked)}")
    h.run()
    for request_id, (tokens, max_tokens) in asked.items():
        got, want = h.tokens[request_id][0], plain_answer(target, tokens, max_tokens=max_tokens)
        assert got == want[: len(got)]
        if h.ends[request_id][0].finish_reason.value != "abort":
            assert len(got) == len(want)
    lanes = h.draft_context.memory
    assert lanes.n_used() <= h.draft_context.n_ctx
