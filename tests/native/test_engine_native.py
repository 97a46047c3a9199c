"""The engine over the real module and tiny random models: outputs must not depend on cache or neighbours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tests.native.engine_bench import KINDS, SHARING, TOLERANCE, Answer, Bench, check_cells, prompt

from donabe import _core
from donabe.engine.build import build_engine
from donabe.engine.disk_tier import DiskTier
from donabe.engine.engine import Engine
from donabe.engine.kinds import memory_kind
from donabe.engine.request import EngineRequest, SequenceOutput
from donabe.errors import AbortedError, RunnerError, ServerBusyError
from donabe.types import FinishReason, LoadOptions


@pytest.fixture(params=list(KINDS))
def kind(request) -> str:
    return request.param


@pytest.fixture
def path(kind: str, tiny_model: Callable[[str], str]) -> str:
    return tiny_model(KINDS[kind])


@pytest.fixture
def plain(path: str) -> Callable[..., Answer]:
    """Answers of a fresh engine without cache, one at a time."""
    bench = Bench(path, prefix_cache=False)
    return bench.answer


def test_model_has_the_memory_kind_the_table_expects(kind, path):
    model = _core.Model(path)
    assert model.memory_kind == kind
    assert memory_kind(kind, model.n_swa).name == kind


def test_comparison_would_notice_a_wrong_prefix(kind, plain):
    right, wrong = prompt(150), [*prompt(140, 7), *prompt(150)[140:]]
    assert plain(wrong).error(plain(right)) > 2 * TOLERANCE[kind]


def test_chunked_prefill_gives_the_same_text(path, plain):
    expected = plain(prompt(150))
    for n_batch in (16, 37, 128):
        Bench(path, n_batch=n_batch).answer(prompt(150)).assert_equals(expected)


def test_cached_text_equals_uncached(kind, path, plain):
    bench = Bench(path)
    first = prompt(150)
    answer = bench.answer(first, boundaries=(100,))
    answer.assert_equals(plain(first))
    bench.answer(first).assert_equals(answer)
    n_before = bench.n_evaluated
    turn = [*first, *answer.tokens, *prompt(20, 1)]
    bench.answer(turn).assert_equals(plain(turn))
    sibling = [*first[:100], *prompt(30, 2)]
    bench.answer(sibling).assert_equals(plain(sibling))
    if kind in SHARING:
        assert bench.n_evaluated - n_before <= 21 + 30


def test_requests_arriving_together_share_a_prefill_and_keep_their_texts(kind, path, plain):
    bench = Bench(path)
    shared = prompt(200)
    prompts = [[*shared, *prompt(10 + i, i + 1)] for i in range(6)]
    for i, tokens in enumerate(prompts):
        bench.submit(str(i), tokens, max_tokens=10)
    bench.run()
    for i, tokens in enumerate(prompts):
        bench.answers[str(i)][0].assert_equals(plain(tokens, max_tokens=10))
    if kind in SHARING:
        assert bench.n_evaluated <= 200 + sum(len(p) - 200 for p in prompts)


def test_several_completions_fork_from_one_prefill(kind, path, plain):
    bench = Bench(path)
    bench.submit("a", prompt(120), n=3, max_tokens=6)
    bench.run()
    expected = plain(prompt(120), max_tokens=6)
    for i in range(3):
        bench.answers["a"][i].assert_equals(expected)
    if kind in SHARING:
        assert bench.n_evaluated <= 120


@pytest.mark.parametrize("ram", [0, 1 << 26])
def test_preempted_text_equals_plain(kind, path, plain, ram):
    if kind == "recurrent":
        bench = Bench(path, n_parallel=1, cache_ram_bytes=ram)
        bench.submit("0", prompt(60, 0), max_tokens=40)
        for _ in range(5):
            bench.engine.step()
        bench.submit("1", prompt(60, 1), max_tokens=40, priority=1)
    else:
        bench = Bench(path, n_ctx=256, n_parallel=2, cache_ram_bytes=ram, headroom_tokens=4)
        for i in range(2):
            bench.submit(str(i), prompt(90, i), max_tokens=60)
    bench.run()
    assert bench.engine.status().n_preemptions >= 1
    for i in range(2):
        n = 40 if kind == "recurrent" else 60
        n_prompt = 60 if kind == "recurrent" else 90
        bench.answers[str(i)][0].assert_equals(plain(prompt(n_prompt, i), max_tokens=n))


def test_prefix_evicted_to_ram_comes_back_exact(path, plain):
    bench = Bench(path, n_ctx=512, n_parallel=2, n_seq_max=3)
    first = prompt(200)
    answer = bench.answer(first)
    for i in range(4):
        bench.answer(prompt(250, 1 + i))
    turn = [*first, *answer.tokens, *prompt(20, 9)]
    bench.answer(turn).assert_equals(plain(turn))


def test_cancel_frees_the_cells(path):
    bench = Bench(path, prefix_cache=False)
    bench.submit("a", prompt(300))
    bench.submit("b", prompt(20, 1), max_tokens=100)
    for _ in range(3):
        bench.engine.step()
    bench.engine.cancel("a")
    bench.engine.cancel("b")
    bench.run()
    assert [bench.finals[r].finish_reason for r in "ab"] == [FinishReason.ABORT] * 2
    assert bench.engine.status().n_cells_used == 0


def test_cancelled_requests_free_the_cells_that_only_they_had(path, plain):
    bench = Bench(path, n_ctx=1024, n_batch=64, prefix_cache=False)
    trunk = prompt(150)
    bench.submit("stays", [*trunk, *prompt(10, 1)], max_tokens=60, boundaries=(150,))
    while not bench.tokens["stays"][0]:
        bench.engine.step()
    bench.submit("decoding", [*trunk, *prompt(10, 2)], max_tokens=60)
    while not bench.tokens["decoding"][0]:
        bench.engine.step()
    bench.submit("prefilling", [*trunk, *prompt(300, 3)])
    bench.engine.step()
    running = {s.call.request.request_id: s for s in bench.engine._scheduler.running}
    assert 0 < running["prefilling"].n_computed < 450
    assert not bench.tokens["prefilling"][0]
    check_cells(bench.engine)
    bench.engine.cancel("prefilling")
    bench.engine.cancel("decoding")
    bench.engine.step()
    assert bench.engine.status().n_cells_used == running["stays"].n_computed
    check_cells(bench.engine)
    bench.run()
    bench.answers["stays"][0].assert_equals(plain([*trunk, *prompt(10, 1)], max_tokens=60))
    assert bench.engine.status().n_cells_used == 0
    check_cells(bench.engine)


def test_aborted_step_ends_every_request_and_leaves_no_wrong_state(kind, path, plain, tmp_path):
    """A recurrent state is wrong after an abort: nothing of the requests that ran may be used again."""

    def start() -> Bench:
        model = _core.Model(path)
        can_cut = memory_kind(kind, model.n_swa).can_cut
        disk = DiskTier(tmp_path, {"test": kind}, 1 << 26, can_cut=can_cut, native=_core)
        assert disk.wait_for_index(10)
        return Bench(path, n_batch=64, disk=disk)

    bench = start()
    first = prompt(320)
    bench.answer(first, boundaries=(300,)).assert_equals(plain(first))
    turn = [*first, *prompt(200, 1)]
    bench.submit("prefilling", turn)
    bench.submit("waiting", prompt(20, 2))
    bench.engine.step()
    bench.context.request_abort()
    with pytest.raises(AbortedError):
        bench.engine.step()
    for request_id in ("prefilling", "waiting"):
        assert bench.finals[request_id].finish_reason is FinishReason.ERROR
    with pytest.raises(RunnerError):
        bench.submit("late", prompt(20))
    bench.context.clear_abort()
    bench.engine.close()
    again = start()
    again.answer(turn, boundaries=(300,)).assert_equals(plain(turn))
    again.engine.close()


def test_completions_of_one_prompt_add_only_the_cells_of_their_outputs(kind, path):
    bench = Bench(path, prefix_cache=False)
    params = {"temperature": 2.0, "top_k": 0, "top_p": 1.0}
    bench.submit("a", prompt(120), n=3, max_tokens=10, seed=1, sampler_params=params)
    n_most = 0
    while bench.engine.has_work():
        bench.engine.step()
        bench.engine.check()
        n_most = max(n_most, bench.engine.status().n_cells_used)
    assert len({tuple(bench.tokens["a"][i]) for i in range(3)}) == 3
    if kind in ("dense", "iswa", "hybrid", "hybrid_iswa"):  # others have no cells, or share none
        assert 120 < n_most <= 120 + 3 * 9


@pytest.mark.parametrize("kind", ["iswa", "hybrid_iswa", "recurrent", "hybrid"])
def test_prefix_whose_state_is_gone_is_computed_again(path, plain):
    bench = Bench(path, n_seq_max=3, n_batch=32, n_parallel=2)  # the ring of a window is small then
    long = prompt(600)
    bench.answer(long)
    n_before = bench.n_evaluated
    other = [*long[:300], *prompt(30, 1)]
    bench.answer(other).assert_equals(plain(other))
    assert bench.n_evaluated - n_before >= 329


def test_context_shift_goes_on(path):
    bench = Bench(path, n_ctx_per_request=128)
    bench.submit("a", prompt(100), max_tokens=120, context_shift=True, n_keep=8)
    bench.run()
    assert len(bench.tokens["a"][0]) == 120


def test_speculation_keeps_the_text(kind, path, plain):
    bench = Bench(path, n_draft_max=4)
    loop = prompt(12) * 8
    bench.answer(loop, max_tokens=100).assert_equals(plain(loop, max_tokens=100))
    has_guessed = bench.engine.status().n_draft_tokens > 0
    assert has_guessed == (kind in ("dense", "iswa"))  # others can't take guesses back


def run_to_end(engine: Engine, requests: dict[str, list[int]], n: int) -> None:
    for request_id, tokens in requests.items():
        params = {"temperature": 0.0}
        array = np.array(tokens, np.int32)
        engine.submit(
            EngineRequest(request_id=request_id, tokens=array, max_tokens=n, ignore_eos=True, sampler_params=params)
        )
    while engine.has_work():
        engine.step()
        engine.check()


@pytest.mark.parametrize("kind", ["dense", "iswa"])
@pytest.mark.parametrize("n_requests", [1, 3])
def test_draft_model_keeps_the_text(path, n_requests):
    """The model drafts for itself, so that nearly every guess is right."""
    requests = {str(i): [*prompt(60), *prompt(20, i + 1)] for i in range(n_requests)}
    answers = []
    for draft in (None, _core.Model(path)):
        outputs: list[SequenceOutput] = []
        options = LoadOptions(n_threads=1, n_ctx=2048, n_parallel=3, flash_attention=False)
        engine = build_engine(_core.Model(path), options, outputs.extend, draft=draft, n_draft_max=4)
        engine._speculation._step_time = lambda _: 1.0  # rows cost nothing: as much as possible is guessed
        run_to_end(engine, requests, 80)
        answers.append({i: [t for o in outputs if o.request_id == i for t in o.tokens] for i in requests})
    assert answers[0] == answers[1]
    status = engine.status()
    assert status.n_draft_tokens > 20 * n_requests
    assert status.n_draft_accepted > 0.9 * status.n_draft_tokens


@pytest.mark.parametrize("kind", ["dense"])
def test_compaction_keeps_cached_prefixes_exact(path, plain):
    bench = Bench(path, n_ctx=4096, cache_ram_bytes=0)
    shared = prompt(500)
    for i in range(3):
        bench.submit(str(i), [*shared, *prompt(600, i + 1)], max_tokens=2)
    bench.run()
    cache = bench.engine._cache
    newest = max(cache.tree.branches, key=lambda branch: branch.seq_id)
    for branch in list(cache.tree.branches - {newest}):
        cache.drop(branch)
    for _ in range(4):
        bench.engine.idle()
        bench.engine.check()
    assert cache.tree.n_cells_peak == cache.tree.n_cells
    tokens = [*shared, *prompt(20, 50)]
    n_before = bench.n_evaluated
    bench.answer(tokens).assert_equals(plain(tokens))
    assert bench.n_evaluated - n_before == 20


@pytest.mark.parametrize("kind", ["dense", "iswa", "recurrent", "hybrid"])
@pytest.mark.parametrize(
    "options",
    [
        LoadOptions(n_threads=1),
        LoadOptions(n_threads=1, n_ctx=300, n_parallel=1),
        LoadOptions(n_threads=1, n_ctx=1024, n_parallel=3, n_batch=16, flash_attention=False),
        LoadOptions(n_threads=1, n_ctx=1024, n_ubatch=32, prefix_cache=False, swa_full=True),
    ],
    ids=["automatic", "small", "narrow", "plain"],
)
def test_built_engine_answers(path, options):
    outputs: list[SequenceOutput] = []
    engine = build_engine(_core.Model(path), options, outputs.extend)
    for i in range(4):
        request = EngineRequest(
            request_id=str(i), tokens=np.array(prompt(100, i), np.int32), max_tokens=5, ignore_eos=True
        )
        engine.submit(request)
    while engine.has_work():
        engine.step()
        engine.check()
    assert {o.request_id for o in outputs if o.last} == {"0", "1", "2", "3"}
    assert engine.status().n_output_tokens == 20


@pytest.mark.parametrize("n_streams", [1, 4])
@pytest.mark.parametrize("architecture", ["llama", "gemma3", "mamba2", "lfm2"])
def test_steps_of_the_same_shape_reuse_the_graph(tiny_model: Callable[[str], str], architecture, n_streams):
    """Building a graph anew costs a decode step about as much as a small layer: only a new shape may pay it. The cells
    that attention reads grow by the pad of the cache, 256, so 60 steps see at most one such change."""
    bench = Bench(tiny_model(architecture))
    for i in range(n_streams):
        bench.submit(str(i), prompt(30, i), max_tokens=64)
    while not all(bench.tokens[str(i)][0] for i in range(n_streams)):
        bench.engine.step()
    before = bench.engine.status()
    for _ in range(50):
        bench.engine.step()
    after = bench.engine.status()
    assert after.n_steps - before.n_steps == 50
    assert after.n_graphs_reused - before.n_graphs_reused >= 48


@pytest.mark.parametrize("kind", ["dense"])
def test_built_engine_has_the_limits_it_was_given(path):
    options = LoadOptions(n_threads=1, n_ctx=1024, n_parallel=2, n_waiting_max=600, prefix_cache_pool_bytes=1_000_000)
    engine = build_engine(_core.Model(path), options, lambda _: None)
    tokens = np.array(prompt(100), np.int32)
    for i in range(600 + 2):  # those that will run come on top
        engine.submit(EngineRequest(request_id=str(i), tokens=tokens, max_tokens=1))
    with pytest.raises(ServerBusyError, match="602 requests"):
        engine.submit(EngineRequest(request_id="more", tokens=tokens, max_tokens=1))
    while engine.has_work():
        engine.step()
    for i in range(4):
        engine.submit(EngineRequest(request_id=str(i), tokens=np.array(prompt(300, i), np.int32), max_tokens=1))
    while engine.has_work():
        engine.step()
    status = engine.status()
    assert 0 < status.n_cells_cached * status.kv_bytes_per_cell <= 1_000_000
    engine.check()
