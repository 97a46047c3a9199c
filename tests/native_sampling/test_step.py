"""decode_and_sample on tiny models: finish conditions, threads, drafts, logprobs, export and restore."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
from tests.native_sampling.bench import Bench
from tests.native_sampling.text_model import EOS, TOOL, token_of

from donabe import _core
from donabe.errors import BusyError, InvalidArgumentError, InvalidBatchError, KvFullError, UnsupportedError

TextModel = Callable[[str], _core.Model]
PROMPT = [1, 20, 30, 40, 50]
GREEDY = {"temperature": 0.0, "repeat_penalty": 1.3, "logit_bias": {EOS: -100.0}}


def test_greedy_text_is_the_argmax_of_each_step(text_model: TextModel) -> None:
    model = text_model("llama")
    bench = Bench(model)
    output = bench.start(0, PROMPT, _core.SamplerParams(temperature=0.0), _core.OutputLimits(max_tokens=20))
    bench.run()
    context = _core.Context(model, _core.ContextParams(n_ctx=512, n_batch=64, n_threads=1, n_threads_batch=1))
    batch, tokens = _core.Batch(64), list(PROMPT)
    for expected in output.tokens:
        batch.clear()
        new = tokens if len(tokens) == len(PROMPT) else tokens[-1:]
        batch.add_tokens(0, np.array(new, np.int32), len(tokens) - len(new), "last")
        context.decode(batch)
        tokens.append(int(context.logits_view()[0].argmax()))
        assert tokens[-1] == expected


def test_max_tokens_and_context_end_the_sequence(text_model: TextModel) -> None:
    bench = Bench(text_model("llama"))
    limits = [_core.OutputLimits(max_tokens=7), _core.OutputLimits(n_ctx=len(PROMPT) + 4)]
    outputs = [bench.start(i, PROMPT, _core.SamplerParams(**GREEDY), limit) for i, limit in enumerate(limits)]
    bench.run()
    # The last token sampled needs no cell: positions up to n_ctx - 1 are decoded, and one more token is sampled.
    assert [len(output.tokens) for output in outputs] == [7, 4 + 1]
    assert [output.finish for output in outputs] == [3, 3]


def test_end_token_finishes_without_text(text_model: TextModel) -> None:
    bench = Bench(text_model("llama"))
    output = bench.start(0, PROMPT, _core.SamplerParams(temperature=0.0, logit_bias={EOS: 100.0}))
    assert (output.tokens, output.text, output.finish) == ([EOS], b"", 1)


def test_min_tokens_and_ignore_eos_hold_the_end_back(text_model: TextModel) -> None:
    bench = Bench(text_model("llama"))
    params = _core.SamplerParams(temperature=0.0, logit_bias={EOS: 100.0})
    late = bench.start(0, PROMPT, params, _core.OutputLimits(min_tokens=5))
    never = bench.start(1, PROMPT, params, _core.OutputLimits(ignore_eos=True, max_tokens=12))
    bench.run()
    assert (len(late.tokens), late.tokens[-1], late.finish) == (6, EOS, 1)
    assert (len(never.tokens), EOS in never.tokens, never.finish) == (12, False, 3)


def test_control_tokens_are_silent_unless_preserved(text_model: TextModel) -> None:
    bench = Bench(text_model("llama"))
    bias = {"temperature": 0.0, "logit_bias": {TOOL: 100.0}}
    silent = bench.start(0, PROMPT, _core.SamplerParams(**bias), _core.OutputLimits(max_tokens=2))
    shown = bench.start(
        1, PROMPT, _core.SamplerParams(preserved_tokens=[TOOL], **bias), _core.OutputLimits(max_tokens=2)
    )
    bench.run()
    assert (silent.tokens, silent.text) == ([TOOL] * 2, b"")
    assert shown.text == b"<|tool|>" * 2


@pytest.mark.parametrize("n_threads", [2, 5])
def test_results_do_not_depend_on_the_number_of_threads(text_model: TextModel, n_threads: int) -> None:
    def run(threads: int) -> list[tuple[list[int], bytes, int]]:
        bench = Bench(text_model("llama"), n_threads=threads)
        for seq_id in range(4):
            params = _core.SamplerParams(seed=seq_id, temperature=1.5, top_k=0, repeat_penalty=1.2, n_logprobs=2)
            limits = _core.OutputLimits(max_tokens=25, stop=[b"ab", b"7"])
            bench.start(seq_id, [*PROMPT, seq_id + 60], params, limits)
        bench.run()
        return [(output.tokens, output.text, output.finish) for output in bench.outputs.values()]

    assert run(n_threads) == run(1)


def test_four_threads_give_the_tokens_of_one_on_12800_rows(text_model: TextModel) -> None:
    """A recurrent model: its steps cost the same however long the sequences are."""
    n_sequences, n_tokens = 64, 200
    chains = [
        {"top_k": 0, "top_p": 0.9},
        {"top_k": 0, "min_p": 0.02},
        {"top_k": 20},
        {"mirostat": 2},
        {"typical_p": 0.8},
    ]

    def run(n_threads: int) -> list[list[int]]:
        bench = Bench(text_model("mamba2"), n_threads=n_threads, n_seq_max=n_sequences, n_ctx=n_sequences * 256)
        limits = _core.OutputLimits(max_tokens=n_tokens, ignore_eos=True)
        for seq_id in range(n_sequences):
            params = {"seed": seq_id, "temperature": 1.5, "repeat_penalty": 1.1} | chains[seq_id % len(chains)]
            bench.start(seq_id, [*PROMPT, seq_id + 60], _core.SamplerParams(**params), limits)
        bench.run()
        return [output.tokens for output in bench.outputs.values()]

    serial = run(1)
    assert sum(map(len, serial)) == n_sequences * n_tokens
    assert run(4) == serial


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_drafts_do_not_change_the_text(text_model: TextModel, architecture: str, rng: np.random.Generator) -> None:
    bench = Bench(text_model(architecture))
    limits = _core.OutputLimits(max_tokens=60, stop=[b"zz"])
    plain = bench.start(0, PROMPT, _core.SamplerParams(**GREEDY), limits)
    bench.run()
    bench.clear()
    drafted = bench.start(0, PROMPT, _core.SamplerParams(**GREEDY), limits)
    while drafted.finish == 0:
        ahead = plain.tokens[len(drafted.tokens) :]
        draft = ahead[: int(rng.integers(0, 6))]
        if draft and rng.random() < 0.5:
            draft[int(rng.integers(0, len(draft)))] = int(rng.integers(5, 128))  # a wrong guess
        bench.step({0: draft})
    assert drafted.tokens == plain.tokens
    assert (drafted.text, drafted.finish) == (plain.text, plain.finish)
    assert 0 < drafted.n_accepted < drafted.n_drafted
    # Memory holds the prompt and all tokens but the last.
    assert bench.context.memory.pos_max(0) == len(PROMPT) + len(drafted.tokens) - 2


def test_drafts_do_not_change_what_a_seed_draws(text_model: TextModel) -> None:
    bench = Bench(text_model("llama"))
    params = {"seed": 3, "temperature": 0.6, "top_k": 8}
    plain = bench.start(0, PROMPT, _core.SamplerParams(**params), _core.OutputLimits(max_tokens=30, ignore_eos=True))
    bench.run()
    bench.clear()
    drafted = bench.start(0, PROMPT, _core.SamplerParams(**params), _core.OutputLimits(max_tokens=30, ignore_eos=True))
    while drafted.finish == 0:
        bench.step({0: plain.tokens[len(drafted.tokens) : len(drafted.tokens) + 3]})
    assert drafted.tokens == plain.tokens


def test_a_finish_inside_a_draft_takes_the_rest_back(text_model: TextModel) -> None:
    bench = Bench(text_model("llama"))
    plain = bench.start(0, PROMPT, _core.SamplerParams(**GREEDY), _core.OutputLimits(max_tokens=20))
    bench.run()
    bench.clear()
    drafted = bench.start(0, PROMPT, _core.SamplerParams(**GREEDY), _core.OutputLimits(max_tokens=4))
    bench.step({0: plain.tokens[1:9]})
    assert drafted.tokens == plain.tokens[:4]
    assert (drafted.finish, drafted.n_drafted, drafted.n_accepted) == (3, 8, 2)
    assert bench.context.memory.pos_max(0) == len(PROMPT) + 2


def test_drafts_are_refused_where_they_cannot_be_taken_back(text_model: TextModel) -> None:
    bench = Bench(text_model("mamba2"))
    bench.start(0, PROMPT, _core.SamplerParams(**GREEDY))
    position = bench.context.memory.pos_max(0)
    with pytest.raises(UnsupportedError, match="draft"):
        bench.step({0: [5, 6]})
    assert bench.context.memory.pos_max(0) == position


def test_logprobs_are_the_log_softmax_of_the_raw_logits(text_model: TextModel) -> None:
    bench = Bench(text_model("llama"))
    params = _core.SamplerParams(temperature=0.0, logit_bias={70: 100.0}, repeat_penalty=1.5, n_logprobs=5)
    output = bench.start(0, PROMPT, params)
    logits = bench.context.logits_view()[0].astype(np.float64)
    expected = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
    token, logprob, top = output.logprobs[0]
    best = np.argsort(-expected, kind="stable")[:5]
    assert token == 70
    assert abs(logprob - expected[70]) < 1e-5
    assert [entry[0] for entry in top] == best.tolist()
    assert np.allclose([entry[1] for entry in top], expected[best], atol=1e-5)


def test_logprobs_only_when_asked(text_model: TextModel) -> None:
    bench = Bench(text_model("llama"))
    none = bench.start(0, PROMPT, _core.SamplerParams(**GREEDY))
    chosen = bench.start(1, PROMPT, _core.SamplerParams(n_logprobs=0, **GREEDY))
    assert none.logprobs == []
    assert chosen.logprobs[0][2] == []
    assert chosen.logprobs[0][1] < 0


def test_export_and_restore_go_on_where_they_were(text_model: TextModel) -> None:
    params = {"seed": 8, "temperature": 1.2, "repeat_penalty": 1.3, "logit_bias": {EOS: -100.0}}
    limits = _core.OutputLimits(max_tokens=30, stop=[b"never"])
    bench = Bench(text_model("llama"))
    plain = bench.start(0, PROMPT, _core.SamplerParams(**params), limits)
    bench.run()
    bench.clear()
    moved = bench.start(0, PROMPT, _core.SamplerParams(**params), limits)
    for _ in range(10):
        bench.step()
    state = bench.samplers.export(0)
    assert bench.samplers.bound() == []
    blob = bench.context.memory.get_state(0)
    bench.context.memory.seq_rm(0)
    bench.context.memory.set_state(3, blob)
    bench.samplers.restore(3, state)
    bench.outputs[3] = bench.outputs.pop(0)
    bench._next[3] = bench._next.pop(0)
    bench.run()
    assert moved.tokens == plain.tokens
    assert moved.text == plain.text
    with pytest.raises(InvalidArgumentError, match="restored already"):
        bench.samplers.restore(2, state)


def test_clones_share_a_prompt_and_differ_by_seed(text_model: TextModel) -> None:
    model = text_model("llama")
    bench = Bench(model)
    sampler = _core.Sampler(model, _core.SamplerParams(seed=1, temperature=1.5, top_k=0, top_p=1.0))
    batch = _core.Batch(64)
    batch.add_tokens(0, np.array(PROMPT, np.int32), 0, "last")
    firsts = []
    for seed in range(6):
        clone = sampler.clone()
        clone.set_seed(seed)
        bench.samplers.bind(0, clone, _core.OutputLimits())
        firsts.append(int(bench.context.decode_and_sample(batch, bench.samplers).tokens[0]))
        bench.samplers.unbind(0)
        bench.context.memory.seq_rm(0)
    assert len(set(firsts)) > 1


def test_only_bound_sequences_with_output_rows_are_sampled(text_model: TextModel) -> None:
    model = text_model("llama")
    context = _core.Context(model, _core.ContextParams(n_ctx=256, n_batch=64, n_seq_max=4, n_threads=1))
    samplers, batch = _core.SamplerSet(model), _core.Batch(64)
    for seq_id in (0, 1, 2):
        samplers.bind(seq_id, _core.Sampler(model, _core.SamplerParams(**GREEDY)), _core.OutputLimits())
    batch.add_tokens(0, np.array(PROMPT, np.int32), 0, "none")
    batch.add_tokens(1, np.array(PROMPT, np.int32), 0, "all")
    batch.add_tokens(3, np.array(PROMPT, np.int32), 0, "last")
    result = context.decode_and_sample(batch, samplers)
    assert result.seq_ids.tolist() == [1]
    assert result.tokens.tolist() == [int(context.logits_view()[4].argmax())] or GREEDY["repeat_penalty"] != 1.0
    assert result.decode_s > 0
    assert result.sample_s > 0


def test_result_arrays_outlive_the_result(text_model: TextModel) -> None:
    bench = Bench(text_model("llama"))
    bench.start(0, PROMPT, _core.SamplerParams(**GREEDY))
    batch = _core.Batch(4)
    batch.add_decode(np.array([0], np.int32), np.array([20], np.int32), np.array([len(PROMPT)], np.int32))
    result = bench.context.decode_and_sample(batch, bench.samplers)
    tokens, text = result.tokens, result.text
    kept = tokens.copy()
    del result
    del bench
    assert (tokens == kept).all()
    assert not tokens.flags.writeable
    assert isinstance(text[0], bytes)


def test_a_full_cache_leaves_the_samplers_untouched(text_model: TextModel) -> None:
    model = text_model("llama")
    context = _core.Context(model, _core.ContextParams(n_ctx=256, n_batch=256, n_seq_max=2, n_threads=1))
    samplers, batch = _core.SamplerSet(model), _core.Batch(256)
    samplers.bind(0, _core.Sampler(model, _core.SamplerParams(**GREEDY)), _core.OutputLimits(max_tokens=3))
    batch.add_tokens(1, np.full(250, 20, np.int32), 0, "none")
    context.decode(batch)
    batch.clear()
    batch.add_tokens(0, np.full(20, 20, np.int32), 0, "last")
    with pytest.raises(KvFullError):
        context.decode_and_sample(batch, samplers)
    context.memory.seq_rm(1)
    result = context.decode_and_sample(batch, samplers)
    assert result.counts.tolist() == [1]


def test_misuse_is_refused(text_model: TextModel) -> None:
    model, other = text_model("llama"), text_model("gemma3")
    bench = Bench(model)
    sampler = _core.Sampler(model, _core.SamplerParams())
    bench.samplers.bind(0, sampler, _core.OutputLimits())
    with pytest.raises(InvalidArgumentError, match="bound already"):
        bench.samplers.bind(0, _core.Sampler(model, _core.SamplerParams()), _core.OutputLimits())
    with pytest.raises(InvalidArgumentError, match="bound to sequence 0"):
        bench.samplers.bind(1, sampler, _core.OutputLimits())
    with pytest.raises(InvalidArgumentError, match="another model"):
        bench.samplers.bind(1, _core.Sampler(other, _core.SamplerParams()), _core.OutputLimits())
    with pytest.raises(InvalidArgumentError, match="not bound"):
        bench.samplers.unbind(3)
    with pytest.raises(InvalidArgumentError, match="seq_id"):
        bench.samplers.bind(256, _core.Sampler(model, _core.SamplerParams()), _core.OutputLimits())
    with pytest.raises(InvalidArgumentError, match="another model"):
        batch = _core.Batch(8)
        batch.add_tokens(0, np.array(PROMPT, np.int32), 0, "last")
        bench.context.decode_and_sample(batch, _core.SamplerSet(other))
    with pytest.raises(InvalidBatchError, match="not bound"):
        batch = _core.Batch(8)
        batch.add_draft(2, np.array([5, 6], np.int32), 0)
        bench.context.decode_and_sample(batch, bench.samplers)


@pytest.mark.parametrize("name", ["llama", "gemma3", "mamba2", "lfm2"])
def test_steps_in_one_call_give_what_single_steps_give(text_model: TextModel, name: str) -> None:
    outputs = []
    for n_steps in (1, 5):
        bench = Bench(text_model(name), n_threads=2)
        params = [_core.SamplerParams(**GREEDY, n_logprobs=2), _core.SamplerParams(seed=7, temperature=1.2)]
        starts = [
            bench.start(i, PROMPT[: 3 + i], params[i], _core.OutputLimits(max_tokens=23, ignore_eos=True))
            for i in range(2)
        ]
        while not any(output.finish for output in starts):
            bench.step(n_steps=n_steps)
        outputs.append([(output.tokens, output.text, output.finish, output.logprobs) for output in starts])
        assert bench.n_calls == 2 + (22 if n_steps == 1 else 5)  # two prompts, then 22 steps
    assert outputs[0] == outputs[1]


def test_a_call_of_several_steps_ends_when_it_should(text_model: TextModel) -> None:
    model = text_model("llama")

    def run(bench: Bench, limits: _core.OutputLimits, **how: object) -> int:
        """How many steps a call for ten took."""
        bench.start(0, PROMPT, _core.SamplerParams(**GREEDY), limits)
        n = bench.step(n_steps=10, **how)
        bench.clear()
        return n

    bench, free = Bench(model), _core.OutputLimits(ignore_eos=True)
    assert run(bench, free) == 10
    assert run(bench, _core.OutputLimits(ignore_eos=True, max_tokens=4)) == 3
    assert run(bench, free, max_s=1e-9) == 1
    bench.context.request_yield()
    assert run(bench, free) == 1
    assert run(bench, free) == 1
    bench.context.clear_yield()
    assert run(bench, free) == 10
    looping = _core.SamplerParams(temperature=0.0, logit_bias={20: 100.0})
    bench.start(0, PROMPT, looping, free)
    history = np.array([*PROMPT, bench.outputs[0].tokens[0]], np.int32)
    # 1 20 30 40 50 | 20, and then 20 for ever: after two more steps 20 20 has come before.
    assert bench.step(n_steps=10, n_repeat=2, histories=[(0, history)]) == 2
    bench.clear()
    small = Bench(model, n_ctx=256)
    small.batch.add_tokens(1, np.full(60, 20, np.int32), 0, "none")
    for _ in range(4):
        small.context.decode(small.batch)
        small.batch.clear()
        position = small.context.memory.pos_max(1) + 1
        small.batch.add_tokens(1, np.full(min(60, 256 - len(PROMPT) - 4 - position), 20, np.int32), position, "none")
    small.context.decode(small.batch)
    assert run(small, free) == 4  # then the pool is full


def test_several_steps_are_refused_where_one_must_not_follow_another(text_model: TextModel) -> None:
    bench = Bench(text_model("llama"))
    bench.samplers.bind(0, _core.Sampler(bench.model, _core.SamplerParams(**GREEDY)), _core.OutputLimits())
    for seq_id, outputs in [(0, "none"), (0, "all"), (1, "last")]:
        batch = _core.Batch(8)
        batch.add_tokens(seq_id, np.array(PROMPT, np.int32), 0, outputs)
        with pytest.raises(InvalidBatchError, match=f"sequence {seq_id} differs"):
            bench.context.decode_and_sample(batch, bench.samplers, n_steps=2)
    batch = _core.Batch(8)
    batch.add_draft(0, np.array(PROMPT[:2], np.int32), 0)
    with pytest.raises(InvalidBatchError, match="differs"):
        bench.context.decode_and_sample(batch, bench.samplers, n_steps=2)
    for wrong in [{"n_steps": 0}, {"n_steps": 1 << 40}, {"max_s": -1.0}, {"max_s": float("nan")}, {"n_repeat": -1}]:
        with pytest.raises(InvalidArgumentError, match=next(iter(wrong))):
            bench.context.decode_and_sample(batch, bench.samplers, **wrong)
    with pytest.raises(InvalidArgumentError, match="histories"):
        bench.context.decode_and_sample(batch, bench.samplers, histories=[(0, np.array([1.0]))])


@pytest.mark.parametrize(
    "limits", [{"max_tokens": 0}, {"max_tokens": -2}, {"min_tokens": -1}, {"stop": [b""]}, {"n_ctx": -1}]
)
def test_limits_out_of_range_are_refused(limits: dict[str, object]) -> None:
    with pytest.raises(InvalidArgumentError):
        _core.OutputLimits(**limits)  # type: ignore[arg-type]


def test_a_set_is_busy_for_a_second_thread(text_model: TextModel) -> None:
    bench = Bench(text_model("llama"))
    for seq_id in range(4):
        bench.start(seq_id, PROMPT, _core.SamplerParams(**GREEDY), _core.OutputLimits(max_tokens=100))
    was_busy, is_over = threading.Event(), threading.Event()

    def look() -> None:
        while not (was_busy.is_set() or is_over.is_set()):
            try:
                bench.samplers.bound()
            except BusyError:
                was_busy.set()

    watcher = threading.Thread(target=look)
    watcher.start()
    for _ in range(90):
        try:
            bench.step()
        except BusyError:  # the watcher was inside just then; nothing was decoded
            continue
    is_over.set()
    watcher.join()
    assert was_busy.is_set()


def test_words_are_tokens_of_the_text_model(text_model: TextModel) -> None:
    vocab = text_model("llama").vocab
    assert vocab.piece(token_of("stop")) == b"stop"
    assert vocab.eog_tokens() == frozenset({EOS})
