"""Decoding through one context: results, refusals instead of aborts, views, threads, abort, lifetime."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from tests.native.lab import N_VOCAB, Lab, assert_close, assert_differs, join, random_tokens

from donabe import _core
from donabe.errors import (
    AbortedError,
    BusyError,
    ClosedError,
    InvalidArgumentError,
    InvalidBatchError,
    KvFullError,
    LoadError,
    UnsupportedError,
)

ModelPath = Callable[[str], str]
PROMPT = random_tokens(50, seed=1)


def params(**changes: object) -> _core.ContextParams:
    return _core.ContextParams(**({"n_ctx": 256, "n_batch": 64, "n_ubatch": 64, "n_threads": 1} | changes))  # type: ignore[arg-type]


# --- results --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "gpt-oss", "mamba2", "granitehybrid", "qwen3next", "lfm2"])
def test_history_matters_to_the_logits(tiny_model: ModelPath, architecture: str) -> None:
    """Why the comparisons here mean something: one other token of 50 shows ten times above their tolerance."""
    lab = Lab(tiny_model(architecture))
    changed = PROMPT.copy()
    changed[35] = 3 + (changed[35] + 7) % 100
    assert_differs(lab.fresh(changed), lab.fresh(PROMPT), at_least=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "mamba2", "granitehybrid", "lfm2"])
@pytest.mark.parametrize("chunk", [1, 7, 50])
def test_chunked_prefill_equals_single_shot(tiny_model: ModelPath, architecture: str, chunk: int) -> None:
    lab = Lab(tiny_model(architecture))
    assert_close(lab.feed(0, PROMPT, chunk), lab.fresh(PROMPT))


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "mamba2", "granitehybrid", "lfm2"])
@pytest.mark.parametrize("chunk", [1, 7, 64, 512])
def test_chunked_prefill_of_a_long_prompt_equals_single_shot(
    tiny_model: ModelPath, architecture: str, chunk: int
) -> None:
    lab = Lab(tiny_model(architecture), n_ctx=2048, n_batch=600, n_ubatch=600)
    prompt = random_tokens(600, seed=2)
    assert_close(lab.feed(0, prompt, chunk), lab.fresh(prompt), tolerance=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "mamba2", "granitehybrid", "lfm2"])
def test_batched_sequences_equal_one_by_one(tiny_model: ModelPath, architecture: str) -> None:
    lab = Lab(tiny_model(architecture), n_seq_max=9)
    prompts = [random_tokens(2 + 3 * s, seed=s) for s in range(8)]
    batch = _core.Batch(128)
    for seq_id, prompt in enumerate(prompts):
        batch.add_tokens(seq_id, prompt, 0, "last")
    lab.context.decode(batch)
    rows = lab.logits()
    assert rows.shape == (8, N_VOCAB)
    for row, prompt in zip(rows, prompts, strict=True):
        assert_close(row, lab.fresh(prompt, seq_id=8))


def test_rows_are_in_batch_order(tiny_model: ModelPath) -> None:
    lab = Lab(tiny_model("mamba2"))
    lab.feed(2, PROMPT)
    lab.feed(0, PROMPT[:20])
    batch = _core.Batch(64)
    batch.add_tokens(1, PROMPT[:10], 0, "all")
    batch.add_decode(np.array([2, 0], np.int32), PROMPT[[5, 6]], np.array([50, 20], np.int32))
    lab.context.decode(batch)
    rows = lab.logits()
    assert rows.shape == (12, N_VOCAB)
    assert_close(rows[9], lab.fresh(PROMPT[:10]))
    assert_close(rows[10], lab.fresh(join(PROMPT, PROMPT[5:6])))
    assert_close(rows[11], lab.fresh(join(PROMPT[:20], PROMPT[6:7])))


def test_constants_tell_the_layout(tiny_model: ModelPath) -> None:
    context = Lab(tiny_model("llama"), n_ctx=1000, n_batch=96, n_ubatch=32, n_outputs_max=24).context
    assert (context.n_ctx, context.n_ctx_seq, context.n_batch, context.n_ubatch) == (1024, 1024, 96, 32)
    assert (context.n_seq_max, context.n_outputs_max, context.flash_attention) == (8, 24, False)
    assert context.kv_bytes_per_cell == 2 * 2 * 256 * 2  # layers, K and V, width, f16
    assert context.pooling == "none"
    assert sum(kv for _, _, kv, _ in context.memory_breakdown()) == 1024 * context.kv_bytes_per_cell


def test_quantized_cache_is_smaller_and_close(tiny_model: ModelPath) -> None:
    exact = Lab(tiny_model("llama"), flash_attention="on")
    quantized = Lab(tiny_model("llama"), flash_attention="auto", type_k="q8_0", type_v="q8_0")
    assert quantized.context.kv_bytes_per_cell < 0.6 * exact.context.kv_bytes_per_cell
    assert_close(quantized.feed(0, PROMPT), exact.feed(0, PROMPT), tolerance=0.05)


def test_reused_graphs_are_counted(tiny_model: ModelPath) -> None:
    lab = Lab(tiny_model("llama"))
    lab.feed(0, PROMPT[:10])
    n_first = lab.context.n_graphs_reused
    lab.feed(0, PROMPT[10:20], chunk=1)  # the first of them has a new shape
    assert lab.context.n_graphs_reused - n_first == 9
    lab.feed(0, PROMPT[20:24], chunk=2)
    lab.feed(0, PROMPT[24:25])
    assert lab.context.n_graphs_reused - n_first == 9 + 1


def test_pooled_embeddings_do_not_depend_on_the_company(tiny_model: ModelPath) -> None:
    context = _core.Context(_core.Model(tiny_model("llama")), params(embeddings=True, pooling="mean", n_seq_max=4))
    batch = _core.Batch(64)
    for seq_id in range(3):
        batch.add_tokens(seq_id, PROMPT[seq_id : seq_id + 10], 0)
    context.decode(batch)
    together = context.embeddings(np.array([2, 0], np.int32))
    assert together.shape == (2, 256)
    context.memory.clear()
    batch.clear()
    batch.add_tokens(3, PROMPT[2:12], 0)
    context.decode(batch)
    assert_close(together[0], context.embeddings(np.array([3], np.int32))[0], tolerance=5e-4)
    with pytest.raises(InvalidArgumentError, match="not in the last batch"):
        context.embeddings(np.array([0], np.int32))


def test_token_embeddings_have_a_row_per_token(tiny_model: ModelPath) -> None:
    context = _core.Context(_core.Model(tiny_model("llama")), params(embeddings=True, pooling="none"))
    batch = _core.Batch(64)
    batch.add_tokens(0, PROMPT[:10], 0)
    context.decode(batch)
    assert context.token_embeddings().shape == (10, 256)
    with pytest.raises(UnsupportedError, match="pool"):
        context.embeddings(np.array([0], np.int32))


def test_model_without_memory_is_encoded_whole(tiny_model: ModelPath) -> None:
    context = _core.Context(_core.Model(tiny_model("dream")), params(n_seq_max=2))
    batch = _core.Batch(64)
    batch.add_tokens(0, PROMPT[:20], 0, "all")
    context.encode(batch)
    assert context.logits_view().shape == (20, N_VOCAB)


def test_model_without_memory_pools_embeddings(tiny_model: ModelPath) -> None:
    context = _core.Context(_core.Model(tiny_model("dream")), params(n_seq_max=2, embeddings=True, pooling="mean"))
    assert context.pooling == "mean"
    rows = []
    for seq_ids in ([0, 1], [1]):
        batch = _core.Batch(64)
        for seq_id in seq_ids:
            batch.add_tokens(seq_id, PROMPT[10 * seq_id : 10 * seq_id + 9], 0)
        context.encode(batch)
        rows.append(context.embeddings(np.array([1], np.int32))[0])
    assert_close(rows[0], rows[1], tolerance=5e-4)


def test_warm_up_leaves_the_memory_empty_and_refuses_to_clear_a_sequence(tiny_model: ModelPath) -> None:
    lab = Lab(tiny_model("granitehybrid"))
    lab.context.warm_up()
    assert lab.memory.pos_max(0) == -1
    row = lab.feed(0, PROMPT)
    with pytest.raises(UnsupportedError, match="in use"):
        lab.context.warm_up()
    assert_close(row, lab.fresh(PROMPT))


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n_ctx", -1),
        ("n_ctx", 2**24 + 1),
        ("n_batch", 0),
        ("n_ubatch", 0),
        ("n_seq_max", 0),
        ("n_seq_max", 257),
        ("n_outputs_max", -1),
        ("n_threads", 513),
        ("n_threads_batch", -1),
        ("poll", 101),
        ("flash_attention", "yes"),
        ("type_k", "q3_k"),
        ("type_v", "int8"),
        ("pooling", "max"),
        ("rope_freq_base", -1.0),
        ("rope_freq_scale", float("nan")),
    ],
)
def test_parameters_out_of_range_name_the_field(field: str, value: object) -> None:
    with pytest.raises(InvalidArgumentError, match=field):
        params(**{field: value})


def test_parameters_that_llama_cpp_would_abort_on_are_refused(tiny_model: ModelPath) -> None:
    with pytest.raises(InvalidArgumentError, match="n_batch"):
        params(n_batch=4, n_seq_max=8)
    with pytest.raises(InvalidArgumentError, match="n_outputs_max"):
        params(n_outputs_max=4, n_seq_max=8)
    with pytest.raises(InvalidArgumentError, match="type_v"):
        params(type_v="q8_0", flash_attention="off")
    model = _core.Model(tiny_model("llama"))
    with pytest.raises(InvalidArgumentError, match="n_ctx"):
        _core.Context(model, params(n_ctx=16, n_seq_max=32))
    with pytest.raises(UnsupportedError, match="classification"):
        _core.Context(model, params(pooling="rank", embeddings=True))


def test_failed_creation_carries_the_reason(tiny_model: ModelPath) -> None:
    with pytest.raises(LoadError) as caught:
        _core.Context(_core.Model(tiny_model("deepseek2")), params(type_k="q8_0", type_v="f16"))
    assert any("cache types" in line for line in caught.value.log_tail)


def one(seq_id: int, tokens: np.ndarray, pos0: int, outputs: str = "last") -> _core.Batch:
    batch = _core.Batch(4096)
    batch.add_tokens(seq_id, tokens, pos0, outputs)  # type: ignore[arg-type]
    return batch


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (_core.Batch(8), "empty"),
        (one(0, random_tokens(129), 0), "n_batch 128"),
        (one(0, random_tokens(33), 50, "all"), "n_outputs_max 32"),
        (one(8, PROMPT, 0), "n_seq_max 8"),
        (one(0, PROMPT, 0), "ends at position 49"),
        (one(0, PROMPT, 51), "ends at position 49"),
        (one(1, PROMPT, 5), "is empty"),
        (one(1, np.array([N_VOCAB], np.int32), 0), "vocabulary"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_batches_that_llama_cpp_would_abort_on_or_refuse(
    tiny_model: ModelPath, batch: _core.Batch, message: str
) -> None:
    lab = Lab(tiny_model("llama"), n_outputs_max=32)
    lab.feed(0, PROMPT)
    with pytest.raises(InvalidBatchError, match=message):
        lab.context.decode(batch)
    assert lab.memory.pos_max(0) == 49
    assert_close(lab.feed(0, PROMPT[:5]), lab.fresh(join(PROMPT, PROMPT[:5])))


def test_batch_beyond_a_learned_position_table_is_refused(tiny_model: ModelPath) -> None:
    lab = Lab(tiny_model("gpt2"), n_ctx=512)
    n_positions = lab.model.n_ctx_train
    lab.feed(0, random_tokens(n_positions))
    with pytest.raises(InvalidBatchError, match="model has only"):
        lab.feed(0, PROMPT[:1])


def test_non_causal_batch_must_be_one_ubatch(tiny_model: ModelPath) -> None:
    lab = Lab(tiny_model("llama"), n_ubatch=32)
    lab.context.set_causal(False)
    with pytest.raises(InvalidBatchError, match="n_ubatch 32"):
        lab.feed(0, PROMPT)
    encoder = _core.Context(_core.Model(tiny_model("dream")), params(n_ubatch=16))
    with pytest.raises(InvalidBatchError, match="n_ubatch 16"):
        encoder.encode(one(0, PROMPT, 0))


def test_encode_needs_an_encoder(tiny_model: ModelPath) -> None:
    with pytest.raises(UnsupportedError, match="encoder"):
        Lab(tiny_model("llama")).context.encode(one(0, PROMPT, 0))


def test_memory_arguments_are_range_checked(tiny_model: ModelPath) -> None:
    memory = Lab(tiny_model("llama")).memory
    calls: list[Callable[[int], object]] = [
        memory.pos_min,
        memory.pos_max,
        memory.seq_rm,
        memory.seq_keep,
        memory.get_state,
        lambda s: memory.seq_cp(s, 0),
        lambda s: memory.seq_cp(0, s),
        lambda s: memory.seq_add(s, 0, -1, 1),
        lambda s: memory.seq_div(s, 0, -1, 2),
    ]
    for call in calls:
        for seq_id in (-1, 8, 256, 2**31 - 1):
            with pytest.raises(InvalidArgumentError):
                call(seq_id)
    with pytest.raises(InvalidArgumentError, match="divisor"):
        memory.seq_div(0, 0, -1, 0)
    with pytest.raises(InvalidArgumentError, match="delta"):
        memory.seq_add(0, 5, -1, -6)


def test_shift_is_refused_where_llama_cpp_would_abort_or_move_others(tiny_model: ModelPath) -> None:
    mrope = Lab(tiny_model("qwen2vl"))
    mrope.feed(0, PROMPT)
    assert mrope.model.uses_mrope
    assert not mrope.memory.can_shift
    with pytest.raises(UnsupportedError, match="moved"):
        mrope.memory.seq_add(0, 10, -1, 5)
    dense = Lab(tiny_model("llama"))
    dense.feed(0, PROMPT)
    assert dense.memory.fork(0, 1, 30)
    with pytest.raises(UnsupportedError, match="shared"):
        dense.memory.seq_add(0, 20, -1, 5)
    dense.memory.seq_add(0, 30, -1, 5)
    assert (dense.memory.pos_max(0), dense.memory.pos_max(1)) == (54, 29)
    dense.feed(0, PROMPT[:1])


def test_full_cache_raises_and_leaves_the_memory(tiny_model: ModelPath) -> None:
    lab = Lab(tiny_model("llama"), n_ctx=256, n_batch=256, n_ubatch=64)
    prompt = random_tokens(200, seed=3)
    lab.feed(0, prompt)
    with pytest.raises(KvFullError):
        lab.feed(1, random_tokens(57, seed=4))
    assert (lab.memory.pos_max(0), lab.memory.pos_max(1)) == (199, -1)
    lab.feed(1, random_tokens(56, seed=4))
    assert lab.memory.seq_rm(1)
    assert_close(lab.feed(0, PROMPT), Lab(tiny_model("llama"), n_ctx=256).feed(0, join(prompt, PROMPT)))


# --- memory operations ----------------------------------------------------------------------------------------------


def test_removing_the_tail_goes_back_in_time(tiny_model: ModelPath) -> None:
    for architecture in ("llama", "gemma3"):
        lab = Lab(tiny_model(architecture))
        lab.feed(0, PROMPT)
        assert lab.memory.seq_rm(0, 40)
        assert_close(lab.feed(0, PROMPT[:9]), lab.fresh(join(PROMPT[:40], PROMPT[:9])))


@pytest.mark.parametrize("architecture", ["mamba2", "granitehybrid", "lfm2", "deepseek32"])
def test_parts_of_a_recurrent_or_opaque_sequence_cannot_be_removed(tiny_model: ModelPath, architecture: str) -> None:
    lab = Lab(tiny_model(architecture), flash_attention="auto")
    lab.feed(0, PROMPT)
    assert not lab.memory.seq_rm(0, 40)
    assert not lab.memory.seq_rm(0, 10, 20)
    assert lab.memory.pos_max(0) == 49
    assert lab.memory.seq_rm(0, 50)
    assert lab.memory.seq_rm(0, 0, 50)
    assert lab.memory.pos_max(0) == -1


@pytest.mark.parametrize("unified", [True, False])
def test_seq_keep_empties_all_others(tiny_model: ModelPath, unified: bool) -> None:
    lab = Lab(tiny_model("llama"), kv_unified=unified, n_ctx=2048)
    for seq_id in range(4):
        lab.feed(seq_id, PROMPT[:10])
    lab.memory.seq_keep(2)
    assert [lab.memory.pos_max(s) for s in range(4)] == [-1, -1, 9, -1]


# --- views, threads, abort, lifetime --------------------------------------------------------------------------------


def test_logits_view_blocks_decode_while_it_lives(tiny_model: ModelPath) -> None:
    lab = Lab(tiny_model("llama"))
    lab.feed(0, PROMPT)
    view = lab.context.logits_view()
    assert not view.flags.writeable
    row = view[0]
    del view
    with pytest.raises(BusyError, match="view"):
        lab.feed(0, PROMPT)
    with pytest.raises(BusyError, match="view"):
        lab.context.close()
    copy = row.copy()
    del row
    lab.feed(0, PROMPT)
    assert copy.shape == (N_VOCAB,)


def test_logits_view_keeps_the_context_alive(tiny_model: ModelPath) -> None:
    lab = Lab(tiny_model("llama"))
    lab.feed(0, PROMPT)
    view = lab.context.logits_view()
    expected = view.copy()
    del lab
    gc.collect()
    assert (view == expected).all()


def test_before_the_first_decode_there_are_no_rows(tiny_model: ModelPath) -> None:
    lab = Lab(tiny_model("llama"))
    assert lab.context.logits_view().shape == (0, N_VOCAB)


def slow_batch() -> _core.Batch:
    return one(0, random_tokens(4000), 0)


@pytest.fixture
def slow_lab(tiny_model: ModelPath) -> Lab:
    """A decode of slow_batch() takes far over a second."""
    return Lab(tiny_model("qwen3tts"), n_ctx=4096, n_batch=4096, n_ubatch=4096, n_outputs_max=4096)


def test_second_thread_gets_busy_and_abort_ends_the_first(slow_lab: Lab) -> None:
    batch = one(0, random_tokens(4000), 0, "all")
    outcome: list[BaseException | None] = []

    def work() -> None:
        try:
            while True:
                slow_lab.context.decode(batch)
                slow_lab.memory.clear()
        except AbortedError as error:
            outcome.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.2)
    started = time.monotonic()
    busy: list[BusyError] = []
    while not busy and time.monotonic() - started < 10:
        try:
            slow_lab.memory.pos_max(0)
        except BusyError as error:
            busy.append(error)
    with pytest.raises(BusyError, match="decoded"):
        batch.clear()
    slow_lab.context.request_abort()
    thread.join(timeout=20)
    assert busy
    assert [type(error) for error in outcome] == [AbortedError]
    assert slow_lab.memory.pos_max(0) == -1
    slow_lab.context.clear_abort()
    assert np.isfinite(slow_lab.feed(0, PROMPT)).all()


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_sequence_goes_on_exactly_where_an_abort_found_it(tiny_model: ModelPath, architecture: str) -> None:
    lab = Lab(tiny_model(architecture), n_batch=64, n_ubatch=16)
    lab.feed(0, PROMPT)
    lab.context.request_abort()
    with pytest.raises(AbortedError):
        lab.feed(0, PROMPT[:40])
    assert lab.memory.pos_max(0) == 49
    lab.context.clear_abort()
    assert_close(lab.feed(0, PROMPT[:40]), lab.fresh(join(PROMPT, PROMPT[:40])))


@pytest.mark.parametrize("architecture", ["mamba2", "minimax-01", "lfm2"])
def test_abort_drops_a_state_that_can_not_go_back(tiny_model: ModelPath, architecture: str) -> None:
    lab = Lab(tiny_model(architecture), n_batch=64, n_ubatch=16)
    lab.feed(0, PROMPT)
    kept = lab.feed(1, PROMPT)
    lab.context.request_abort()
    with pytest.raises(AbortedError):
        lab.feed(0, PROMPT[:40])
    assert lab.memory.pos_max(0) == -1
    assert lab.memory.pos_max(1) == len(PROMPT) - 1
    lab.context.clear_abort()
    assert_close(lab.feed(0, PROMPT), kept)


def test_decode_runs_without_the_gil(slow_lab: Lab) -> None:
    done = threading.Event()
    thread = threading.Thread(target=lambda: (slow_lab.context.decode(slow_batch()), done.set()))
    thread.start()
    ticks = 0
    while not done.is_set():
        ticks += 1
        time.sleep(0.002)
    thread.join()
    assert ticks > 20


def test_set_threads_changes_the_pools_not_the_results(tiny_model: ModelPath) -> None:
    lab = Lab(tiny_model("llama"))
    before = lab.feed(0, PROMPT)
    for n_threads, n_threads_batch in [(2, 2), (1, 2), (2, 1), (0, 0)]:
        lab.context.set_threads(n_threads, n_threads_batch)
        assert_close(lab.fresh(PROMPT), before)
    with pytest.raises(InvalidArgumentError, match="n_threads"):
        lab.context.set_threads(-1, 1)


def test_closed_objects_say_so(tiny_model: ModelPath) -> None:
    lab = Lab(tiny_model("llama"))
    lab.model.close()
    lab.model.close()
    lab.feed(0, PROMPT)  # the context keeps the weights
    with pytest.raises(ClosedError):
        _ = lab.model.n_embd
    with pytest.raises(ClosedError):
        _core.Context(lab.model)
    lab.context.close()
    lab.context.close()
    with pytest.raises(ClosedError):
        lab.feed(0, PROMPT)
    with pytest.raises(ClosedError):
        lab.memory.clear()


def test_memory_outlives_context_and_model_objects(tiny_model: ModelPath) -> None:
    lab = Lab(tiny_model("llama"))
    lab.feed(0, PROMPT)
    memory = lab.memory
    del lab
    gc.collect()
    assert memory.pos_max(0) == 49


def test_forked_child_is_refused_and_ends_cleanly(tiny_model: ModelPath) -> None:
    script = f"""
import os, sys, warnings
warnings.simplefilter("ignore")
from donabe import _core
from donabe.errors import UnsupportedError
model = _core.Model({tiny_model("llama")!r})
context = _core.Context(model, _core.ContextParams(n_ctx=256, n_threads=2))
pid = os.fork()
if pid == 0:
    n = 0
    for call in (lambda: model.n_embd, lambda: context.memory.clear(), lambda: model.vocab.tokenize("a"),
                 lambda: _core.Model("x"), lambda: _core.devices(), lambda: _core.drain_logs(),
                 lambda: context.decode(_core.Batch(1)), _core.init):
        try:
            call()
        except UnsupportedError:
            n += 1
    context.close()
    del context, model
    sys.exit(100 + n)
_, status = os.waitpid(pid, 0)
context.memory.clear()
sys.exit(os.waitstatus_to_exitcode(status))
"""
    done = subprocess.run([sys.executable, "-c", script], timeout=60, capture_output=True, check=False)
    assert done.returncode == 108, done.stderr.decode()


def test_memory_stays_flat_over_200_contexts(tiny_model: ModelPath) -> None:
    model = _core.Model(tiny_model("llama"))

    def cycle(n: int) -> None:
        for _ in range(n):
            context = _core.Context(model, params(n_threads_batch=2))  # two pools; the decode runs in the first
            context.decode(one(0, PROMPT[:1], 0))
            context.memory.get_state(0)
            context.logits_view().copy()

    def resident_bytes() -> int:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * 4096

    cycle(40)
    gc.collect()
    before = resident_bytes()
    cycle(200)
    gc.collect()
    assert resident_bytes() - before < 8 << 20
