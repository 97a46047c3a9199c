"""As models run by default, with flash attention and several threads: cached, preempted and guessed-ahead answers are
those of plain greedy decoding, until two tokens are as likely.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.model_store import GEMMA3, SMOLLM2, ensure_model
from tests.native.engine_bench import KINDS, Answer, Bench, prompt

TOLERANCE = 0.02  # of a log probability; with the tiny models a wrong prefix shows as 0.09 or more
# Real models round activations to f16 or q8_0: the smallest change of a sum, because cells lie elsewhere in the pool,
# flips some of these roundings and moves likely tokens by up to 0.6, without flash attention as well.
REAL_TOLERANCE = 0.8
REAL_LEAST = -3.0
N_TOKENS = 12
REAL = [pytest.param(name, marks=pytest.mark.models) for name in (SMOLLM2, GEMMA3)]
TEXT = (
    "The harbour master wrote every ship that came in into a large book: its name, its captain, where it came from and "
    "what it carried. One evening a ship came in that had no name. The harbour master asked the captain for its name, "
)


class Case:
    """A model with so many threads, and plain answers of it."""

    def __init__(self, name: str, n_threads: int, tiny_model: Callable[[str], str]) -> None:
        self.path = tiny_model(KINDS[name]) if name in KINDS else str(ensure_model(name))
        self.settings = {"flash_attention": "auto", "tolerance": TOLERANCE, "n_threads": n_threads}
        if name not in KINDS:
            self.settings |= {"tolerance": REAL_TOLERANCE, "least": REAL_LEAST}
        alone = self.bench(prefix_cache=False)
        if name in KINDS:
            self.prompts = [[*prompt(150), *prompt(20, i + 1)] for i in range(2)]
        else:
            ends = ("and the captain said:", "so he wrote into the book that")
            self.prompts = [alone.model.vocab.tokenize(TEXT + end).tolist() for end in ends]
        self._alone = alone
        self._answers: dict[tuple[int, ...], Answer] = {}

    def bench(self, **options) -> Bench:
        return Bench(self.path, **(self.settings | options))

    def plain(self, tokens: list[int]) -> Answer:
        key = tuple(tokens)
        if key not in self._answers:
            self._answers[key] = self._alone.answer(tokens, max_tokens=2 * N_TOKENS)
        return self._answers[key]


@pytest.fixture(scope="module", params=(1, 2, 4), ids=lambda n: f"{n}-threads")
def n_threads(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module", params=[*KINDS, *REAL])
def case(request: pytest.FixtureRequest, n_threads: int, tiny_model: Callable[[str], str]) -> Case:
    return Case(request.param, n_threads, tiny_model)


@pytest.fixture(scope="module", params=["dense", "iswa", *REAL])
def drafting_case(request: pytest.FixtureRequest, n_threads: int, tiny_model: Callable[[str], str]) -> Case:
    """Of a kind that can take guesses back."""
    return Case(request.param, n_threads, tiny_model)


def test_comparison_would_notice_a_wrong_prefix(case: Case) -> None:
    right = case.prompts[0]
    wrong = [*prompt(len(right) - 10, 7), *right[-10:]]
    with pytest.raises(AssertionError):
        case.plain(wrong).assert_equals_until_a_tie(case.plain(right))


def test_cached_answers_equal_plain_ones(case: Case) -> None:
    bench = case.bench()
    for tokens in case.prompts:
        answer = bench.answer(tokens, max_tokens=N_TOKENS, boundaries=(100,))
        answer.assert_equals_until_a_tie(case.plain(tokens))
    turn = [*tokens, *answer.tokens, *tokens[:10]]
    bench.answer(turn, max_tokens=N_TOKENS).assert_equals_until_a_tie(case.plain(turn))
    assert bench.engine.status().n_cached_tokens > 0


def test_answers_of_requests_that_run_together_equal_plain_ones(case: Case) -> None:
    bench = case.bench(n_batch=64)
    for i, tokens in enumerate(case.prompts):
        bench.submit(str(i), tokens, max_tokens=N_TOKENS, n=2)
    bench.run()
    for i, tokens in enumerate(case.prompts):
        for answer in bench.answers[str(i)].values():
            answer.assert_equals_until_a_tie(case.plain(tokens))


@pytest.mark.parametrize("ram", [0, 1 << 28])
def test_preempted_answers_equal_plain_ones(case: Case, ram: int) -> None:
    bench = case.bench(n_parallel=1, cache_ram_bytes=ram)
    bench.submit("0", case.prompts[0], max_tokens=N_TOKENS)
    for _ in range(6):
        bench.engine.step()
    bench.submit("1", case.prompts[1], max_tokens=4, priority=1)
    bench.run()
    assert bench.engine.status().n_preemptions == 1
    for i, tokens in enumerate(case.prompts):
        bench.answers[str(i)][0].assert_equals_until_a_tie(case.plain(tokens))


@pytest.mark.parametrize("drafts", [False, True], ids=["lookup", "draft-model"])
def test_answers_with_guesses_equal_plain_ones(drafting_case: Case, drafts: bool) -> None:
    case = drafting_case
    bench = case.bench(n_draft_max=6, drafts=drafts, n_batch=256)
    loops = [tokens[:40] * 3 for tokens in case.prompts]
    for i, tokens in enumerate(loops):
        bench.submit(str(i), tokens, max_tokens=2 * N_TOKENS)
    bench.run()
    assert bench.engine.status().n_draft_accepted > 0
    for i, tokens in enumerate(loops):
        bench.answers[str(i)][0].assert_equals_until_a_tie(case.plain(tokens))
