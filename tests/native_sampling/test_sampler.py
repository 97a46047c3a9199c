"""Sampler.sample on rows of logits, against a reference that sorts everything."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.native_sampling import reference

from donabe import _core
from donabe.errors import BusyError, InvalidArgumentError

Row = npt.NDArray[np.float32]


def make_row(rng: np.random.Generator, n: int, shape: str) -> Row:
    """Rows as models give them (peaked), flat ones, and ones full of ties."""
    scale = {"peaked": 2.0, "flat": 0.3, "ties": 1.0}[shape]
    row = rng.standard_normal(n) * scale
    if shape == "peaked":
        row[rng.integers(0, n, 20)] += rng.uniform(5, 15, 20)
    if shape == "ties":
        row = np.round(row)
    return row.astype(np.float32)


CHAINS: list[dict[str, Any]] = [
    {"top_k": 40, "top_p": 0.9},
    {"top_k": 1},
    {"top_k": 5000, "top_p": 0.99, "min_p": 0.01},
    {"top_k": 0, "top_p": 0.9},
    {"top_k": 0, "top_p": 0.999},
    {"top_k": 0, "top_p": 0.5, "min_p": 0.1},
    {"top_k": 0, "top_p": 1.0, "min_p": 0.05},
    {"top_k": 0, "top_p": 1.0},
    {"top_k": 40, "top_p": 1.0, "min_p": 0.2},
]


@pytest.mark.parametrize("shape", ["peaked", "flat", "ties"])
@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_partial_selection_gives_the_tokens_of_a_full_sort(
    small_vocab_model: _core.Model, rng: np.random.Generator, chain: dict[str, Any], shape: str
) -> None:
    n_rows, temperature, seed = 16, 0.8, 99
    n_vocab = small_vocab_model.vocab.n_tokens
    sampler = _core.Sampler(small_vocab_model, _core.SamplerParams(seed=seed, temperature=temperature, **chain))
    n_sharp = 0
    for uniform in reference.uniforms(seed, n_rows):
        row = make_row(rng, n_vocab, shape)
        expected = reference.distribution(row, temperature=temperature, **{"top_p": 0.9} | chain)
        allowed = expected.allowed(uniform)
        assert sampler.sample(row) in allowed or expected.is_at_cut
        n_sharp += len(allowed) == 1 and not expected.is_at_cut
    assert n_sharp >= n_rows // 2


@pytest.mark.parametrize("chain", [{"top_k": 0, "top_p": 0.9}, {"top_k": 0, "top_p": 0.5, "min_p": 0.1}], ids=str)
def test_samplers_of_four_threads_give_the_tokens_of_full_sorts_on_100000_rows(
    small_vocab_model: _core.Model, rng: np.random.Generator, chain: dict[str, Any]
) -> None:
    """250 rows of 32,000 logits, each turned by 400 distances: a sorted row serves for all of its turns."""
    n_rows, n_turns, n_threads, temperature = 250, 400, 4, 0.8
    n_vocab = small_vocab_model.vocab.n_tokens
    rows = [make_row(rng, n_vocab, "peaked") for _ in range(n_rows)]
    expected = [reference.distribution(row, temperature=temperature, **chain) for row in rows]
    turns = rng.integers(0, n_vocab, (n_rows, n_turns))
    found = np.empty((n_rows, n_turns), np.int64)

    def run(part: int) -> None:
        sampler = _core.Sampler(small_vocab_model, _core.SamplerParams(seed=part, temperature=temperature, **chain))
        for i in range(part, n_rows, n_threads):
            twice = np.concatenate([rows[i], rows[i]])  # a turned row is a part of it
            for j, turn in enumerate(turns[i]):
                found[i, j] = sampler.sample(twice[n_vocab - turn : 2 * n_vocab - turn])

    threads = [threading.Thread(target=run, args=(part,)) for part in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    n_sharp = 0
    for part in range(n_threads):
        own = range(part, n_rows, n_threads)
        draws = reference.uniforms(part, len(own) * n_turns).reshape(len(own), n_turns)
        for i, uniforms in zip(own, draws, strict=True):
            if expected[i].is_at_cut:
                continue
            first, end = expected[i].ranks(uniforms)
            logits = rows[i][expected[i].tokens]  # in the order they are drawn in
            drawn = rows[i][(found[i] - turns[i]) % n_vocab]  # by their logits: turning changes the order of equal ones
            assert ((logits[first] >= drawn) & (drawn >= logits[end])).all()
            n_sharp += int((first == end).sum())
    assert n_sharp > 0.95 * n_rows * n_turns


def test_distribution_follows_the_softmax(small_vocab_model: _core.Model) -> None:
    row = np.full(small_vocab_model.vocab.n_tokens, -np.inf, np.float32)
    row[[10, 500, 31_000]] = np.log([0.2, 0.5, 0.3])
    for chain in ({"top_k": 0, "top_p": 1.0}, {"top_k": 3, "top_p": 1.0}):
        sampler = _core.Sampler(small_vocab_model, _core.SamplerParams(seed=3, temperature=1.0, **chain))
        drawn = [sampler.sample(row) for _ in range(2000)]
        shares = [drawn.count(token) / 2000 for token in (10, 500, 31_000)]
        assert np.allclose(shares, [0.2, 0.5, 0.3], atol=0.04)


def test_greedy_takes_the_lowest_id_of_the_largest(vocab_model: _core.Model, rng: np.random.Generator) -> None:
    sampler = _core.Sampler(vocab_model, _core.SamplerParams(temperature=0.0))
    for shape in ("peaked", "ties"):
        for _ in range(20):
            row = make_row(rng, vocab_model.vocab.n_tokens, shape)
            assert sampler.sample(row) == int(row.argmax())


def test_greedy_passes_over_nan_and_banned_tokens(vocab_model: _core.Model) -> None:
    row = np.full(vocab_model.vocab.n_tokens, -np.inf, np.float32)
    row[7], row[151_900], row[8] = np.nan, -3.0, -4.0
    assert _core.Sampler(vocab_model, _core.SamplerParams(temperature=0.0)).sample(row) == 151_900
    assert _core.Sampler(vocab_model, _core.SamplerParams(temperature=0.7, top_k=0, top_p=1.0)).sample(row) in (
        8,
        151_900,
    )


@pytest.mark.parametrize(
    "chain",
    [
        {"top_k": 0, "top_p": 1.0},
        {"top_k": 40},
        {"top_k": 0, "top_p": 0.9},
        {"top_k": 100, "xtc_probability": 0.5},
        {"top_k": 100, "typical_p": 0.7},
        {"mirostat": 1, "mirostat_tau": 9.0},
        {"mirostat": 2},
    ],
    ids=str,
)
def test_a_seed_repeats_and_another_differs(
    small_vocab_model: _core.Model, rng: np.random.Generator, chain: dict[str, Any]
) -> None:
    rows = [make_row(rng, small_vocab_model.vocab.n_tokens, "peaked") for _ in range(20)]

    def run(seed: int) -> list[int]:
        sampler = _core.Sampler(small_vocab_model, _core.SamplerParams(seed=seed, temperature=1.0, **chain))
        return [sampler.sample(row) for row in rows]

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_random_seeds_differ(vocab_model: _core.Model, rng: np.random.Generator) -> None:
    row = make_row(rng, vocab_model.vocab.n_tokens, "flat")
    params = _core.SamplerParams(temperature=1.0, top_k=0, top_p=1.0)
    draws = {_core.Sampler(vocab_model, params).sample(row) for _ in range(8)}
    assert len(draws) > 1


def test_penalties_match_the_formula(vocab_model: _core.Model, rng: np.random.Generator) -> None:
    history = rng.integers(0, 300, 100).astype(np.int32)
    penalties = {"repeat_penalty": 1.7, "presence_penalty": 0.4, "frequency_penalty": 0.3}
    sampler = _core.Sampler(vocab_model, _core.SamplerParams(temperature=0.0, repeat_last_n=16, **penalties))
    sampler.accept_prompt(history)
    tokens = list(history)
    for _ in range(60):
        row = np.full(vocab_model.vocab.n_tokens, -50, np.float32)
        row[:300] = rng.uniform(-3, 3, 300)
        adjusted = reference.adjust(row, tokens, repeat=1.7, presence=0.4, frequency=0.3, last_n=16)
        token = sampler.sample(row)
        assert token == int(adjusted.argmax())
        sampler.accept(token)
        tokens.append(token)


def test_whole_context_penalty_remembers_the_prompt_start(vocab_model: _core.Model) -> None:
    row = np.zeros(vocab_model.vocab.n_tokens, np.float32)
    row[5], row[6] = 2.0, 1.9
    params = _core.SamplerParams(temperature=0.0, repeat_last_n=-1, repeat_penalty=1.5)
    sampler = _core.Sampler(vocab_model, params, n_ctx_train=1000)
    sampler.accept_prompt(np.array([5] + [9] * 900, np.int32))
    assert sampler.sample(row) == 6


def test_logit_bias_moves_and_bans(vocab_model: _core.Model, rng: np.random.Generator) -> None:
    row = make_row(rng, vocab_model.vocab.n_tokens, "peaked")
    best = int(row.argmax())
    biased = _core.Sampler(vocab_model, _core.SamplerParams(temperature=0.0, logit_bias={42: 100.0}))
    banned = _core.Sampler(vocab_model, _core.SamplerParams(temperature=0.0, logit_bias={best: -np.inf}))
    rest = row.copy()
    rest[best] = -np.inf
    assert biased.sample(row) == 42
    assert banned.sample(row) == int(rest.argmax())


def test_dry_breaks_a_loop(vocab_model: _core.Model) -> None:
    row = np.zeros(vocab_model.vocab.n_tokens, np.float32)
    row[13], row[99] = 5.0, 4.0
    loop = np.array([10, 11, 12, 13] * 6 + [10, 11, 12], np.int32)
    plain = _core.Sampler(vocab_model, _core.SamplerParams(temperature=0.0))
    dry = _core.Sampler(
        vocab_model, _core.SamplerParams(temperature=0.0, dry_multiplier=2.0, dry_penalty_last_n=64), n_ctx_train=64
    )
    for sampler in (plain, dry):
        sampler.accept_prompt(loop)
    assert plain.sample(row) == 13
    assert dry.sample(row) == 99


def test_xtc_leaves_out_the_top_choice(vocab_model: _core.Model) -> None:
    row = np.full(vocab_model.vocab.n_tokens, -20, np.float32)
    row[1], row[2] = 3.0, 2.5
    params = _core.SamplerParams(seed=5, temperature=1.0, top_k=40, top_p=1.0, xtc_probability=1.0, xtc_threshold=0.2)
    sampler = _core.Sampler(vocab_model, params)
    assert {sampler.sample(row) for _ in range(50)} == {2}


def test_mirostat_surprise_approaches_its_target(small_vocab_model: _core.Model) -> None:
    probabilities = 1.0 / np.arange(1, 5001) ** 1.1
    row = np.full(small_vocab_model.vocab.n_tokens, -np.inf, np.float32)
    row[:5000] = np.log(probabilities)
    surprise = -np.log2(probabilities / probabilities.sum())
    for target in (5.0, 7.0):
        params = _core.SamplerParams(seed=1, temperature=1.0, mirostat=2, mirostat_tau=target, mirostat_eta=0.2)
        sampler = _core.Sampler(small_vocab_model, params)
        drawn = [surprise[sampler.sample(row)] for _ in range(400)]
        assert abs(float(np.mean(drawn[100:])) - target) < 1.0


def test_typical_p_drops_the_atypical(vocab_model: _core.Model) -> None:
    row = np.full(vocab_model.vocab.n_tokens, -np.inf, np.float32)
    row[:101] = np.log([0.3] + [0.007] * 100)  # the likeliest token carries less surprise than the entropy
    params = _core.SamplerParams(seed=1, temperature=1.0, top_k=0, top_p=1.0, typical_p=0.5)
    sampler = _core.Sampler(vocab_model, params)
    assert 0 not in {sampler.sample(row) for _ in range(100)}


def test_clone_goes_on_alike_until_reseeded(vocab_model: _core.Model, rng: np.random.Generator) -> None:
    rows = [make_row(rng, vocab_model.vocab.n_tokens, "flat") for _ in range(10)]
    params = _core.SamplerParams(seed=4, temperature=1.0, repeat_penalty=1.3, top_k=100, xtc_probability=0.5)
    sampler = _core.Sampler(vocab_model, params)
    sampler.accept_prompt(np.arange(50, dtype=np.int32))
    twin, other = sampler.clone(), sampler.clone()
    other.set_seed(5)
    results = []
    for each in (sampler, twin, other):
        tokens = []
        for row in rows:
            tokens.append(each.sample(row))
            each.accept(tokens[-1])
        results.append(tokens)
    assert results[0] == results[1] != results[2]


def test_reset_starts_over(vocab_model: _core.Model, rng: np.random.Generator) -> None:
    row = make_row(rng, vocab_model.vocab.n_tokens, "peaked")
    sampler = _core.Sampler(vocab_model, _core.SamplerParams(temperature=0.9, repeat_penalty=2.0))
    first = []
    for _ in range(5):
        first.append(sampler.sample(row))
        sampler.accept(first[-1])
    sampler.reset()
    assert sampler.sample(row) == first[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 1.5),
        ("top_k", -2),
        ("min_p", -1.0),
        ("repeat_penalty", 0.0),
        ("repeat_last_n", -2),
        ("mirostat", 3),
        ("n_logprobs", -2),
        ("seed", -1),
        ("seed", 2**32),
        ("logit_bias", {3: float("inf")}),
        ("logit_bias", {3: float("nan")}),
        ("thinking_budget", 5),
        ("grammar", "a" * (5 << 20)),
    ],
)
def test_values_out_of_range_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(Exception, match=name) as caught:
        _core.SamplerParams(**{name: value})
    assert isinstance(caught.value, ValueError) or name == "grammar"


def test_wrong_arguments_are_refused(vocab_model: _core.Model) -> None:
    sampler = _core.Sampler(vocab_model, _core.SamplerParams())
    with pytest.raises(InvalidArgumentError, match="entries"):
        sampler.sample(np.zeros(5, np.float32))
    with pytest.raises(InvalidArgumentError, match="float32"):
        sampler.sample(np.zeros(vocab_model.vocab.n_tokens, np.float64))  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="token"):
        sampler.accept_prompt(np.array([10**6], np.int32))
    with pytest.raises(InvalidArgumentError, match="token"):
        _core.Sampler(vocab_model, _core.SamplerParams(logit_bias={10**6: 1.0}))
    with pytest.raises(TypeError, match="temprature"):
        _core.SamplerParams(temprature=1.0)  # type: ignore[call-arg]


def test_a_row_without_finite_logits_is_an_error(vocab_model: _core.Model) -> None:
    row = np.full(vocab_model.vocab.n_tokens, np.nan, np.float32)
    for temperature in (0.0, 1.0):
        with pytest.raises(Exception, match="no finite logits"):
            _core.Sampler(vocab_model, _core.SamplerParams(temperature=temperature)).sample(row)


def test_a_second_thread_gets_busy(vocab_model: _core.Model, rng: np.random.Generator) -> None:
    row = make_row(rng, vocab_model.vocab.n_tokens, "flat")
    sampler = _core.Sampler(vocab_model, _core.SamplerParams(temperature=1.0, top_k=0, top_p=1.0, typical_p=0.9))
    outcomes: list[str] = []

    def run() -> None:
        for _ in range(12):
            try:
                sampler.sample(row)
                outcomes.append("ok")
            except BusyError:
                outcomes.append("busy")

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {"ok", "busy"} == set(outcomes)
