"""Bursts: steps that follow each other in one native call change no answer, and nobody waits longer for them."""

from __future__ import annotations

import pytest
from tests.fakes.engine_harness import KINDS, EngineHarness, fake_model, plain_answer, prompt

INTERVAL_S = 0.1  # of the fake clock: about nine steps of one row
STEP_S = 0.011


class Calls:
    """Counts the native calls of a harness and the steps that each took."""

    def __init__(self, h: EngineHarness) -> None:
        self.n_steps: list[int] = []
        call = h.context.decode_and_sample

        def counted(*args, **limits):
            result = call(*args, **limits)
            self.n_steps.append(result.n_steps)
            return result

        h.context.decode_and_sample = counted


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_single_steps_in_fewer_calls(kind):
    h = EngineHarness(model=fake_model(kind))
    calls = Calls(h)
    prompts = {str(i): prompt(20 + i, i) for i in range(3)}
    for request_id, tokens in prompts.items():
        h.submit(request_id, tokens, max_tokens=40, output_interval_s=INTERVAL_S)
    h.run()
    for request_id, tokens in prompts.items():
        assert h.tokens[request_id][0] == plain_answer(fake_model(kind), tokens, max_tokens=40)
    assert len(calls.n_steps) * 4 < sum(calls.n_steps)
    assert h.engine.status().n_steps == sum(calls.n_steps)
    assert h.engine.status().n_output_tokens == 3 * 40


def test_outputs_come_at_the_shortest_interval_asked_for():
    h = EngineHarness()
    h.submit("slow", prompt(20), max_tokens=60, output_interval_s=INTERVAL_S)
    h.submit("fast", prompt(20, 1), max_tokens=30, output_interval_s=0.04)
    h.run()
    gaps = [b - a for a, b in zip(h.times["fast"][1:], h.times["fast"][2:], strict=False)]
    assert 0.04 <= max(gaps) < 0.04 + 1.5 * STEP_S
    gaps = [b - a for a, b in zip(h.times["slow"], h.times["slow"][1:], strict=False)]
    assert max(gaps) < INTERVAL_S + 1.5 * STEP_S


def test_a_request_that_wants_every_token_prevents_bursts():
    h = EngineHarness()
    calls = Calls(h)
    h.submit("a", prompt(20), max_tokens=30, output_interval_s=INTERVAL_S)
    h.submit("b", prompt(20, 1), max_tokens=30)
    h.run()
    assert set(calls.n_steps) == {1}


@pytest.mark.parametrize("arrival", ["submit", "cancel", "wake"])
def test_an_arrival_ends_the_burst_after_the_step(arrival):
    h = EngineHarness()
    calls = Calls(h)
    h.submit("a", prompt(20), max_tokens=100, output_interval_s=INTERVAL_S)
    h.step(3)
    n_before = len(calls.n_steps)
    decode = h.context._decode_once
    n_steps = 0

    def interrupted(*args):
        nonlocal n_steps
        n_steps += 1
        if n_steps == 2:
            if arrival == "submit":
                h.submit("b", prompt(20, 1), max_tokens=5)
            elif arrival == "cancel":
                h.engine.cancel("a")
            else:
                h.engine.wake()
        return decode(*args)

    h.context._decode_once = interrupted
    h.step()
    assert calls.n_steps[n_before:] == [2]
    h.context._decode_once = decode
    h.step()
    if arrival == "submit":
        assert [s.call.request.request_id for s in h.scheduler.running] == ["a", "b"]
    h.run()
    assert set(h.finals) == ({"a", "b"} if arrival == "submit" else {"a"})


def test_the_end_of_one_ends_the_burst_of_all():
    h = EngineHarness(n_parallel=2)
    calls = Calls(h)
    for i, max_tokens in enumerate([4, 50, 10]):
        h.submit(str(i), prompt(20, i), max_tokens=max_tokens, output_interval_s=INTERVAL_S)
    h.step()
    while "0" not in h.finals:
        h.step()
    assert len(h.tokens["0"][0]) == 4 == len(h.tokens["1"][0])
    h.step()  # the third was waiting for a place, which did not keep the two from a burst
    assert calls.n_steps == [1, 1, 2, 1]  # of the prompts, to see what a step takes, a burst, the next prompt
    h.run()
    assert len(h.tokens["2"][0]) == 10


def test_a_burst_stops_where_the_pool_or_the_context_ends():
    h = EngineHarness(n_ctx=64, n_ctx_per_request=48, headroom_tokens=4, prefix_cache=False)
    h.submit("a", prompt(20), max_tokens=100, output_interval_s=1.0)
    h.submit("b", prompt(20, 1), max_tokens=100, output_interval_s=1.0)
    h.run()
    for request_id, tokens in {"a": prompt(20), "b": prompt(20, 1)}.items():
        want = plain_answer(fake_model(), tokens, max_tokens=100)
        got = h.tokens[request_id][0]
        assert got == want[: len(got)] and len(tokens) + len(got) >= 48
    assert h.engine.status().n_preemptions > 0


def test_a_repetition_ends_the_burst_so_that_guesses_begin():
    model = fake_model(copy_period=7)
    h = EngineHarness(model=model, n_draft_max=4)
    h.engine._speculation._step_time = lambda _: 1.0
    tokens = prompt(40)
    h.submit("a", tokens, max_tokens=60, output_interval_s=1.0)
    h.run()
    assert h.tokens["a"][0] == plain_answer(model, tokens, max_tokens=60)
    alone = EngineHarness(model=model, n_draft_max=4)
    alone.engine._speculation._step_time = lambda _: 1.0
    alone.submit("a", tokens, max_tokens=60)
    alone.run()
    assert h.engine.status().n_draft_accepted == alone.engine.status().n_draft_accepted > 0


def test_a_paused_sequence_looks_again_when_its_pause_is_over():
    model = fake_model(copy_period=7)
    h = EngineHarness(model=model, n_draft_max=4)
    h.submit("a", prompt(40), max_tokens=200, output_interval_s=0.05)
    times = {1: 1.0}
    h.engine._speculation._step_time = lambda n: times.get(n, 100.0)  # guesses never pay
    calls = Calls(h)
    h.run()
    assert h.engine.status().n_draft_tokens == 0
    assert max(calls.n_steps) > 3
