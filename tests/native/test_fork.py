"""fork() against computing the same tokens from nothing, for every kind of memory. Flash attention off: exact."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.native.lab import ARCHITECTURE_BY_KIND, Lab, assert_close, join, random_tokens

from donabe import _core
from donabe.errors import InvalidArgumentError, UnsupportedError

ModelPath = Callable[[str], str]

SHARING = ["llama", "gemma3", "gpt-oss", "mamba", "mamba2", "granitehybrid", "jamba", "qwen3next", "lfm2"]
ATTENTION = ["llama", "gemma3", "gpt-oss"]  # any fork point, as far as the window reaches
RECURRENT = ["mamba2", "granitehybrid", "qwen3next", "lfm2"]  # the end, or a checkpoint

PROMPT = random_tokens(60, seed=1)
TAIL_A = random_tokens(9, seed=2)
TAIL_B = random_tokens(9, seed=3)


@pytest.mark.parametrize(("kind", "architecture"), ARCHITECTURE_BY_KIND.items())
def test_memory_kind_is_recognised(tiny_model: ModelPath, kind: str, architecture: str) -> None:
    lab = Lab(tiny_model(architecture))
    assert (lab.model.memory_kind, lab.memory.kind) == (kind, kind)


@pytest.mark.parametrize("architecture", SHARING)
def test_fork_at_the_end_equals_a_fresh_prefill(tiny_model: ModelPath, architecture: str) -> None:
    lab = Lab(tiny_model(architecture))
    lab.feed(0, PROMPT)
    assert lab.memory.fork(0, 1, len(PROMPT))
    got_b = lab.feed(1, TAIL_B)
    got_a = lab.feed(0, TAIL_A)
    assert_close(got_a, lab.fresh(join(PROMPT, TAIL_A)))
    assert_close(got_b, lab.fresh(join(PROMPT, TAIL_B)))


@pytest.mark.parametrize("architecture", ATTENTION)
@pytest.mark.parametrize("n_after", [0, 20])
def test_fork_in_the_middle_equals_a_fresh_prefill(tiny_model: ModelPath, architecture: str, n_after: int) -> None:
    lab = Lab(tiny_model(architecture))
    lab.feed(0, PROMPT[:40])
    lab.feed(0, PROMPT[40 : 40 + n_after]) if n_after else None
    assert lab.memory.fork(0, 3, 25)
    assert_close(lab.feed(3, TAIL_B), lab.fresh(join(PROMPT[:25], TAIL_B)))


def test_fork_of_dense_after_100_more_tokens(tiny_model: ModelPath) -> None:
    lab = Lab(tiny_model("llama"))
    lab.feed(0, PROMPT)
    lab.feed(0, random_tokens(100, seed=9))
    assert lab.memory.fork(0, 1, 31)
    assert_close(lab.feed(1, TAIL_A), lab.fresh(join(PROMPT[:31], TAIL_A)))


def test_fork_replaces_what_dst_held(tiny_model: ModelPath) -> None:
    lab = Lab(tiny_model("llama"))
    lab.feed(0, PROMPT)
    lab.feed(1, TAIL_A)
    assert lab.memory.fork(0, 1, 10)
    assert lab.memory.pos_max(1) == 9
    assert_close(lab.feed(1, TAIL_B), lab.fresh(join(PROMPT[:10], TAIL_B)))


def test_fork_of_zero_tokens_empties_dst(tiny_model: ModelPath) -> None:
    lab = Lab(tiny_model("mamba2"))
    lab.feed(0, PROMPT)
    lab.feed(1, TAIL_A)
    assert lab.memory.fork(0, 1, 0)
    assert lab.memory.pos_max(1) == -1


def test_fork_of_iswa_is_refused_once_the_window_is_gone(tiny_model: ModelPath) -> None:
    lab = Lab(tiny_model("gemma3"), n_ctx=2048, n_seq_max=2, n_ubatch=32, n_batch=32)
    prompt = random_tokens(600, seed=4)
    checkpoint = None
    for end in range(30, 601, 30):
        lab.feed(0, prompt[end - 30 : end])
        if end == 300:
            checkpoint = lab.memory.get_state(0, partial=True)
    assert lab.memory.pos_min(0) > 300
    assert not lab.memory.fork(0, 1, 300)
    assert lab.memory.pos_max(1) == -1
    assert not lab.memory.seq_rm(0, 300), "dropping the tail would leave a sequence without its window"
    assert lab.memory.fork(0, 1, 300, checkpoint)
    expected = Lab(tiny_model("gemma3"), n_ctx=2048).feed(0, join(prompt[:300], TAIL_A))
    assert_close(lab.feed(1, TAIL_A), expected)


@pytest.mark.parametrize("architecture", RECURRENT)
def test_fork_away_from_the_end_needs_a_checkpoint(tiny_model: ModelPath, architecture: str) -> None:
    lab = Lab(tiny_model(architecture))
    lab.feed(0, PROMPT[:25])
    checkpoint = lab.memory.get_state(0, partial=True)
    assert checkpoint.n_tokens == 25
    lab.feed(0, PROMPT[25:])
    assert not lab.memory.fork(0, 2, 25)
    assert lab.memory.pos_max(2) == -1
    assert lab.memory.fork(0, 2, 25, checkpoint)
    got_b = lab.feed(2, TAIL_B)
    got_a = lab.feed(0, TAIL_A)
    assert_close(got_b, lab.fresh(join(PROMPT[:25], TAIL_B)))
    assert_close(got_a, lab.fresh(join(PROMPT, TAIL_A)))


@pytest.mark.parametrize("architecture", ["deepseek32", "deepseek4"])
def test_fork_of_opaque_memory_takes_a_whole_checkpoint_only(tiny_model: ModelPath, architecture: str) -> None:
    lab = Lab(tiny_model(architecture), flash_attention="auto")
    lab.feed(0, PROMPT)
    assert not lab.memory.fork(0, 1, len(PROMPT))
    with pytest.raises(UnsupportedError, match="partial"):
        lab.memory.get_state(0, partial=True)
    checkpoint = lab.memory.get_state(0)
    assert lab.memory.fork(0, 1, len(PROMPT), checkpoint)
    assert_close(lab.feed(1, TAIL_B), lab.fresh(join(PROMPT, TAIL_B)), tolerance=5e-4)


@pytest.mark.parametrize("architecture", ["llama", "mamba2", "granitehybrid"])
def test_fork_between_streams_copies_the_state(tiny_model: ModelPath, architecture: str) -> None:
    lab = Lab(tiny_model(architecture), kv_unified=False, n_ctx=2048)
    lab.feed(0, PROMPT)
    assert lab.memory.fork(0, 1, len(PROMPT))
    got = lab.feed(1, TAIL_B)
    assert_close(lab.feed(0, TAIL_A), lab.fresh(join(PROMPT, TAIL_A)))
    assert_close(got, lab.fresh(join(PROMPT, TAIL_B)))


def test_fork_in_the_middle_of_a_dense_stream(tiny_model: ModelPath) -> None:
    lab = Lab(tiny_model("llama"), kv_unified=False, n_ctx=2048)
    lab.feed(0, PROMPT)
    assert lab.memory.fork(0, 1, 20)
    assert_close(lab.feed(1, TAIL_B), lab.fresh(join(PROMPT[:20], TAIL_B)))


def test_fork_arguments_are_checked(tiny_model: ModelPath) -> None:
    lab = Lab(tiny_model("granitehybrid"))
    lab.feed(0, PROMPT)
    checkpoint = lab.memory.get_state(0, partial=True)
    for src, dst, n in [(0, 0, 5), (0, 8, 5), (-1, 1, 5), (0, 1, -1), (0, 1, 61), (3, 1, 1)]:
        with pytest.raises(InvalidArgumentError):
            lab.memory.fork(src, dst, n)
    with pytest.raises(InvalidArgumentError, match="taken at 60"):
        lab.memory.fork(0, 1, 59, checkpoint)


def test_forks_share_cells_instead_of_copying_them(tiny_model: ModelPath) -> None:
    lab = Lab(tiny_model("llama"), n_ctx=256, n_seq_max=8)
    lab.feed(0, random_tokens(200, seed=5))
    for dst in range(1, 8):
        assert lab.memory.fork(0, dst, 200)
    for dst in range(1, 8):
        lab.feed(dst, TAIL_A[:8])
    assert [lab.memory.pos_max(s) for s in range(8)] == [199] + [207] * 7


def test_iswa_ring_is_recycled_under_80_forks(tiny_model: ModelPath) -> None:
    """Patch 0001: a cell that several sequences share is free again when it is behind the window of all of them."""
    lab = Lab(tiny_model("gemma3"), n_ctx=8192, n_seq_max=4, n_batch=64, n_ubatch=64)
    fed = [random_tokens(400, seed=100)]
    lab.feed(0, fed[0])
    src = 0
    for generation in range(80):
        dst = 1 + generation % 3
        end = lab.memory.pos_max(src) + 1
        assert lab.memory.fork(src, dst, end)
        lab.feed(src, random_tokens(3, seed=1000 + generation))
        fed.append(random_tokens(40, seed=2000 + generation))
        last = lab.feed(dst, fed[-1])
        src = dst
    reference = Lab(tiny_model("gemma3"), n_ctx=8192, n_seq_max=1, n_batch=512, n_ubatch=512)
    history = join(*fed)
    assert_close(last, reference.feed(0, history))


def test_iswa_forks_continue_for_200_tokens_side_by_side(tiny_model: ModelPath) -> None:
    lab = Lab(tiny_model("gemma3"), n_ctx=4096, n_seq_max=4, n_batch=64, n_ubatch=64)
    prompt = random_tokens(300, seed=6)
    lab.feed(0, prompt)
    for dst in (1, 2, 3):
        assert lab.memory.fork(0, dst, 300)
    tails = {s: random_tokens(200, seed=20 + s) for s in range(4)}
    rows = {s: lab.feed(s, tails[s], chunk=25) for s in range(4)}
    reference = Lab(tiny_model("gemma3"), n_ctx=1024, n_seq_max=1)
    for s in range(4):
        reference.memory.clear()
        assert_close(rows[s], reference.feed(0, join(prompt, tails[s])))


def test_seq_cp_refuses_what_would_compute_wrong_logits(tiny_model: ModelPath) -> None:
    hybrid = Lab(tiny_model("granitehybrid"))
    hybrid.feed(0, PROMPT)
    with pytest.raises(UnsupportedError, match="whole"):
        hybrid.memory.seq_cp(0, 1, 0, 25)
    hybrid.memory.seq_cp(0, 1)
    assert hybrid.memory.pos_max(1) == 59

    streams = Lab(tiny_model("llama"), kv_unified=False, n_ctx=2048)
    streams.feed(0, PROMPT)
    with pytest.raises(UnsupportedError, match="share cells"):
        streams.memory.seq_cp(0, 1, 0, 25)

    opaque = Lab(tiny_model("deepseek4"), flash_attention="auto")
    opaque.feed(0, PROMPT)
    with pytest.raises(UnsupportedError):
        opaque.memory.seq_cp(0, 1, 0, 25)

    dense = Lab(tiny_model("llama"))
    dense.feed(0, PROMPT)
    dense.memory.seq_cp(0, 1, 0, 25)
    with pytest.raises(InvalidArgumentError, match="already"):
        dense.memory.seq_cp(0, 1, 20, 30)
    dense.memory.seq_cp(0, 1, 25, 40)
    assert_close(dense.feed(1, TAIL_A), dense.fresh(join(PROMPT[:40], TAIL_A)))


def test_encoder_without_memory_has_none_to_offer(tiny_model: ModelPath) -> None:
    context = _core.Context(_core.Model(tiny_model("dream")), _core.ContextParams(n_ctx=256, n_threads=1))
    with pytest.raises(UnsupportedError, match="no memory"):
        _ = context.memory
