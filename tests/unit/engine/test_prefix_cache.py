"""What is computed twice, what is not, and that sharing never changes an answer."""

from __future__ import annotations

import pytest
from tests.fakes.engine_harness import KINDS, EngineHarness, fake_model, plain_answer, prompt

SHARING = [kind for kind in KINDS if kind != "opaque"]


@pytest.mark.parametrize("kind", SHARING)
def test_next_turn_of_a_conversation_computes_only_what_is_new(kind):
    h = EngineHarness(kind)
    first = prompt(200)
    answer = h.answer(first, max_tokens=10)
    n_before = h.context.n_evaluated
    second = [*first, *answer, *prompt(20, 1)]
    assert h.answer(second, max_tokens=5) == plain_answer(h.model, second, max_tokens=5)
    assert h.context.n_evaluated - n_before <= 1 + 20 + 5


def test_memory_that_cannot_share_continues_a_conversation_from_a_state_in_ram():
    h = EngineHarness("opaque")
    first = prompt(200)
    answer = h.answer(first, max_tokens=10)
    n_before = h.context.n_evaluated
    second = [*first, *answer, *prompt(20, 1)]
    assert h.answer(second, max_tokens=5) == plain_answer(h.model, second, max_tokens=5)
    assert h.context.n_evaluated - n_before <= 1 + 20 + 5
    assert h.cache.tree.n_cells == 0


@pytest.mark.parametrize("kind", SHARING)
def test_same_prompt_again_computes_one_prompt_token(kind):
    h = EngineHarness(kind)
    answer = h.answer(prompt(200), max_tokens=5)
    n_before = h.context.n_evaluated
    assert h.answer(prompt(200), max_tokens=5) == answer
    assert h.context.n_evaluated - n_before == 5


@pytest.mark.parametrize("kind", KINDS)
def test_requests_arriving_together_share_one_prefill(kind):
    h = EngineHarness(kind, n_parallel=8, n_seq_max=16, n_ctx=4096)
    shared = prompt(300)
    prompts = [[*shared, *prompt(20, i + 1)] for i in range(8)]
    for i, tokens in enumerate(prompts):
        h.submit(str(i), tokens, max_tokens=6)
    h.run()
    for i, tokens in enumerate(prompts):
        assert h.tokens[str(i)][0] == plain_answer(h.model, tokens, max_tokens=6)
    if kind != "opaque":
        assert h.context.n_evaluated <= 300 + 8 * (20 + 6)
        assert h.engine.status().n_forks == 7


@pytest.mark.parametrize("kind", SHARING)
def test_branches_of_branches_share_what_they_have_in_common(kind):
    h = EngineHarness(kind, n_parallel=8, n_seq_max=20, n_ctx=4096)
    trunk = prompt(200)
    for b in range(2):
        for leaf in range(3):
            tokens = [*trunk, *prompt(100, 10 + b), *prompt(10, 100 + 10 * b + leaf)]
            h.submit(f"{b}{leaf}", tokens, max_tokens=4)
    h.run()
    assert h.context.n_evaluated <= 200 + 2 * 100 + 6 * (10 + 4)


@pytest.mark.parametrize("kind", ["iswa", "recurrent", "hybrid", "hybrid_iswa"])
def test_fork_at_a_message_boundary_uses_its_checkpoint(kind):
    h = EngineHarness(kind)
    system = prompt(300)
    h.answer([*system, *prompt(300, 1)], boundaries=(300,))
    n_before = h.context.n_evaluated
    other = [*system, *prompt(30, 2)]
    assert h.answer(other) == plain_answer(h.model, other)
    assert h.context.n_evaluated - n_before <= 30 + 8


@pytest.mark.parametrize("kind", ["iswa", "recurrent", "hybrid"])
def test_fork_without_a_checkpoint_is_refused_and_computed_again(kind):
    h = EngineHarness(kind, cache_ram_bytes=0)
    h.answer(prompt(300), max_tokens=40)
    other = [*prompt(300)[:100], *prompt(30, 2)]
    n_before = h.context.n_evaluated
    assert h.answer(other) == plain_answer(h.model, other)
    assert h.context.n_evaluated - n_before == 130 + 8 - 1


def test_native_refusal_of_a_fork_falls_back_to_scratch():
    h = EngineHarness()
    h.answer(prompt(100))
    h.context.memory._can_fork = lambda *_: False
    assert h.answer(prompt(100)) == plain_answer(h.model, prompt(100))
    assert h.context.memory.n_refused > 0


def test_other_salt_never_shares():
    h = EngineHarness()
    h.answer(prompt(100), cache_salt="alice")
    n_before = h.context.n_evaluated
    h.answer(prompt(100), cache_salt="bob")
    assert h.context.n_evaluated - n_before == 100 + 7


@pytest.mark.parametrize("kind", KINDS)
def test_other_salt_shares_with_nobody_who_runs(kind):
    h = EngineHarness(kind, n_ctx=4096)
    for i, salt in enumerate(("alice", "bob", "alice")):
        h.submit(str(i), prompt(300), max_tokens=2, cache_salt=salt)
    h.run()
    n_computed = 300 + 1  # of one request that computes all by itself
    if kind == "opaque":
        assert h.context.n_evaluated == 3 * n_computed
    else:
        assert 2 * n_computed < h.context.n_evaluated <= 2 * n_computed + 2
        assert h.engine.status().n_forks == 1


@pytest.mark.parametrize("kind", KINDS)
def test_other_salt_takes_nothing_from_ram(kind):
    h = EngineHarness(kind, n_ctx=512, n_parallel=2, n_seq_max=3)
    h.answer(prompt(200), max_tokens=8, cache_salt="alice")
    for i in range(4):
        h.answer(prompt(300, 1 + i))  # alice's prefix leaves the pool
    assert h.engine.status().cache_ram_bytes > 0
    costs = {}
    for salt in ("bob", "alice"):
        n_before = h.context.n_evaluated
        h.answer([*prompt(200), *prompt(20, 77)], max_tokens=1, cache_salt=salt)
        costs[salt] = h.context.n_evaluated - n_before
    assert costs["bob"] == 220
    assert costs["alice"] < 220 or kind == "opaque"  # its blobs serve prompts that go on where an answer ended


def test_request_that_opts_out_leaves_nothing_and_takes_nothing():
    h = EngineHarness()
    h.answer(prompt(100))
    n_cells = h.cache.tree.n_cells
    n_before = h.context.n_evaluated
    h.answer(prompt(100), use_cache=False)
    assert h.context.n_evaluated - n_before == 107
    assert h.cache.tree.n_cells == n_cells


def test_idle_prefixes_make_room_least_recently_used_first():
    h = EngineHarness(n_ctx=512, cache_ram_bytes=0)
    for i in range(3):
        h.answer(prompt(120, i), max_tokens=8)
    h.answer(prompt(120, 0), max_tokens=8)  # 1 is the oldest now
    h.answer(prompt(200, 9), max_tokens=8)
    n_before = h.context.n_evaluated
    h.answer(prompt(120, 0), max_tokens=1)
    assert h.context.n_evaluated - n_before == 1
    h.answer(prompt(120, 1), max_tokens=1)
    assert h.context.n_evaluated - n_before > 2


@pytest.mark.parametrize("kind", SHARING)
def test_evicted_prefix_comes_back_from_ram(kind):
    h = EngineHarness(kind, n_ctx=512, n_parallel=2, n_seq_max=3)
    first = prompt(200)
    answer = h.answer(first, max_tokens=8)
    for i in range(4):
        h.answer(prompt(300, 1 + i))
    second = [*first, *answer, *prompt(20, 77)]
    n_before = h.context.n_evaluated
    assert h.answer(second) == plain_answer(h.model, second)
    assert h.context.n_evaluated - n_before <= 1 + 20 + 8
    assert h.engine.status().cache_ram_bytes > 0


def test_ram_budget_is_kept():
    h = EngineHarness(n_ctx=512, cache_ram_bytes=60_000, n_seq_max=4, n_parallel=2)
    for i in range(8):
        h.answer(prompt(200, i))
        assert h.engine.status().cache_ram_bytes <= 60_000
    assert h.engine.status().cache_ram_bytes > 0


def test_idle_cells_are_limited_when_asked():
    h = EngineHarness(cache_pool_bytes=15_000)
    for i in range(3):
        h.answer(prompt(100, i))
    assert h.engine.status().n_cells_cached <= 150


@pytest.mark.parametrize("kind", KINDS)
def test_idle_prefixes_beyond_their_bytes_go_to_ram(kind):
    state_bytes = 64  # of the fake's recurrent state
    h = EngineHarness(kind, cache_pool_bytes=state_bytes if kind == "recurrent" else 15_000)
    for i in range(3):
        h.answer(prompt(100, i))
    assert sum(b.is_idle for b in h.cache.tree.branches) == (kind != "opaque")
    n_before = h.context.n_evaluated
    h.answer([*prompt(100), 7], max_tokens=1)
    assert h.context.n_evaluated - n_before <= (2 if kind != "opaque" else 101)


def test_one_blob_may_take_all_of_the_ram_tier_while_nothing_is_dropped_for_it():
    h = EngineHarness(n_ctx=512, cache_ram_bytes=40_000)
    h.answer(prompt(300))
    h.answer(prompt(400, 1))  # 30,800 bytes leave the pool
    assert h.engine.status().cache_ram_bytes > 20_000
    h.answer(prompt(400, 2))  # 40,800: does not fit
    h.answer(prompt(330, 3))
    h.answer(prompt(430, 4))  # 33,800: only if the first one were dropped
    n_before = h.context.n_evaluated
    h.answer([*prompt(300), 5], max_tokens=1)
    assert h.context.n_evaluated - n_before <= 2


def test_preempted_state_may_take_all_of_the_ram_tier():
    h = EngineHarness("hybrid", n_ctx=512, cache_ram_bytes=40_000, n_parallel=1)
    h.answer(prompt(150, 7), max_tokens=2)
    h.answer(prompt(400, 8), max_tokens=2)
    h.submit("low", prompt(300), max_tokens=30)
    h.step(8)
    n_before = h.context.n_evaluated
    h.submit("high", prompt(100, 1), max_tokens=2, priority=1)
    h.run()
    assert h.engine.status().n_preemptions == 1
    assert h.context.n_evaluated - n_before <= 100 + 2 + 30


def test_without_prefix_cache_nothing_stays():
    h = EngineHarness(prefix_cache=False)
    h.answer(prompt(100))
    assert h.engine.status().n_cells_used == 0


def test_idle_ids_are_not_used_up_by_growing_conversations():
    h = EngineHarness(n_seq_max=6, n_ctx=4096)
    tokens = prompt(50)
    for i in range(12):
        tokens = [*tokens, *h.answer(tokens, max_tokens=3), *prompt(5, i)]
    assert len(h.cache.tree.branches) == 1


def test_compaction_when_idle_keeps_cells_and_answers():
    h = EngineHarness(n_ctx=8192, n_batch=256)
    shared = prompt(600)
    for i in range(3):
        h.submit(str(i), [*shared, *prompt(900, i + 1)], max_tokens=4)
    h.run()
    for branch in list(h.cache.tree.branches)[:2]:
        h.cache.drop(branch)
    n_cells = h.cache.tree.n_cells
    for _ in range(5):
        h.engine.idle()
        h.check()
    assert h.cache.tree.n_cells == h.cache.tree.n_cells_peak == n_cells
    tokens = [*shared, *prompt(20, 50)]
    assert h.answer(tokens) == plain_answer(h.model, tokens)


WHOLE = ["iswa", "hybrid", "hybrid_iswa"]


def sparse_pool(kind: str, **options) -> EngineHarness:
    """A pool whose high-water mark is far above the cells in use: two families of idle branches."""
    h = EngineHarness(kind, n_ctx=8192, n_batch=256, n_parallel=6, n_seq_max=16, **options)
    for i in range(3):
        h.submit(f"gone{i}", prompt(900, 90 + i), max_tokens=4)
        h.submit(f"kept{i}", [*prompt(400), *prompt(100, i)], max_tokens=4, boundaries=(400,))
    h.run()
    h.answer(prompt(300, 50), max_tokens=4)
    for branch in list(h.cache.tree.branches):
        if branch.n >= 900:
            h.cache.drop(branch)
    return h


@pytest.mark.parametrize("kind", WHOLE)
def test_compaction_moves_whole_branches_where_states_cant_be_taken_apart(kind):
    h = sparse_pool(kind)
    copied = h.context.memory.n_copied_bytes
    for _ in range(5):
        h.engine.idle()
        h.check()
    assert h.context.memory.n_copied_bytes > copied
    assert h.cache.tree.n_cells_peak == h.cache.tree.n_cells < 1000
    for tokens, n_new in (([*prompt(400), *prompt(20, 7)], 20), ([*prompt(300, 50), *prompt(20, 7)], 320)):
        n_before = h.context.n_evaluated
        assert h.answer(tokens, max_tokens=1) == plain_answer(h.model, tokens, max_tokens=1)
        assert h.context.n_evaluated - n_before <= n_new
    for i in range(3):  # in the pool, or in RAM
        n_before = h.context.n_evaluated
        tokens = [*prompt(400), *prompt(100, i), *h.tokens[f"kept{i}"][0], 7]
        assert h.answer(tokens, max_tokens=1) == plain_answer(h.model, tokens, max_tokens=1)
        assert h.context.n_evaluated - n_before <= 2


@pytest.mark.parametrize("kind", WHOLE)
def test_compaction_loses_no_branch_for_which_ram_has_no_room(kind):
    h = sparse_pool(kind, cache_ram_bytes=40_000)
    n_branches, n_cells = len(h.cache.tree.branches), h.cache.tree.n_cells
    for _ in range(5):
        h.engine.idle()
        h.check()
    assert (len(h.cache.tree.branches), h.cache.tree.n_cells) == (n_branches, n_cells)
    assert h.cache.tree.n_cells_peak == n_cells


def deep_tree(h):
    """Three levels of shared cells, at the top of a pool whose other cells are free again."""
    top, middle = prompt(400), prompt(300, 1)
    for i in range(3):
        h.submit(f"other{i}", prompt(700, 90 + i), max_tokens=2)
        h.submit(f"leaf{i}", [*top, *middle, *prompt(100 + 50 * i, 10 + i)], max_tokens=2)
    h.submit("side", [*top, *prompt(200, 2)], max_tokens=2)
    h.run()
    for branch in list(h.cache.tree.branches):
        if branch.buffer[0] != top[0]:
            h.cache.drop(branch)
    return top, middle


def test_compaction_moves_cells_in_the_middle_of_branches():
    h = EngineHarness(n_ctx=8192, n_batch=256, n_parallel=8, n_seq_max=16)
    top, middle = deep_tree(h)
    n_branches, n_cells = len(h.cache.tree.branches), h.cache.tree.n_cells
    assert len(list(h.cache.tree.nodes())) > n_branches + 1
    for _ in range(5):
        h.engine.idle()
        h.check()
    assert h.cache.tree.n_cells_peak == n_cells
    assert len(h.cache.tree.branches) == n_branches
    n_before = h.context.n_evaluated
    tokens = [*top, *middle, *prompt(20, 50)]
    assert h.answer(tokens, max_tokens=1) == plain_answer(h.model, tokens, max_tokens=1)
    assert h.context.n_evaluated - n_before == 20


def test_several_completions_of_a_cached_prompt_share_it_on_every_kind():
    for kind in SHARING:
        h = EngineHarness(kind, model=fake_model(kind))
        h.answer(prompt(200))
        n_before = h.context.n_evaluated
        h.submit("n", prompt(200), n=3, max_tokens=4)
        h.run()
        assert h.context.n_evaluated - n_before <= 3 * 4
