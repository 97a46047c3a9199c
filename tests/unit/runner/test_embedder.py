"""Embedder over a fake context: packing, deduplication, chunks, limits, rerank prompts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from tests.fakes.native_model import BOS, EOS, N_VOCAB, SEP, FakeBatch, FakeContext, FakeModel, FakeVocab

from donabe.errors import (
    CapabilityError,
    ComputeError,
    ContextLengthError,
    InvalidRequestError,
    RunnerError,
)
from donabe.runner import embedding_inputs as ei
from donabe.runner.embedder import Embedder
from donabe.types import ClassifyRequest, ClassifyResult, EmbedRequest, EmbedResult, LoadOptions, RerankRequest


class Rig:
    def __init__(self, model: FakeModel, **options: Any) -> None:
        self.model = model
        self.contexts: list[FakeContext] = []
        self.embedder = Embedder(model, LoadOptions(**options), self.open, FakeBatch)

        self.before_batch: Callable[[], object] = lambda: None

    def open(self, arguments: dict[str, Any]) -> FakeContext:
        self.contexts.append(FakeContext(arguments))
        self.contexts[-1].before_batch = self.before_batch
        if arguments["pooling"] == "rank":
            self.contexts[-1].n_out = max(1, self.model.n_cls_out)
        return self.contexts[-1]

    def embed(self, *inputs: Any, **options: Any) -> EmbedResult:
        return self.embedder.embed(EmbedRequest(inputs=inputs, **options)).result(5)

    def classify(self, *inputs: Any, **options: Any) -> ClassifyResult:
        return self.embedder.classify(ClassifyRequest(inputs=inputs, **options)).result(5)

    def rerank(self, query: str, *documents: str) -> tuple[float, ...]:
        return self.embedder.rerank(RerankRequest(query=query, documents=documents)).result(5).scores


Make = Callable[..., Rig]


@pytest.fixture
def make() -> Iterator[Make]:
    rigs: list[Rig] = []

    def build(options: dict[str, Any] | None = None, **changes: Any) -> Rig:
        rigs.append(Rig(FakeModel(**changes), **(options or {})))
        return rigs[-1]

    yield build
    for rig in rigs:
        rig.embedder.stop(RunnerError("end"))
        assert all(context.closed for context in rig.contexts)


def rows_of(result: EmbedResult) -> np.ndarray:
    return np.frombuffer(result.data, "<f4").reshape(result.n_rows, result.n_embd)


BERT = {"memory_kind": "none", "is_causal": False}


@pytest.mark.parametrize("changes", [{}, BERT, {"options": {"pooling": "last"}}])
def test_packed_rows_equal_single_rows(make: Make, changes: dict[str, Any]) -> None:
    rig = make(**changes)
    texts = [" ".join(f"w{j}" for j in range(i + 1)) for i in range(12)]
    packed = rows_of(rig.embed(*texts))
    single = np.concatenate([rows_of(rig.embed(text)) for text in texts])
    assert np.allclose(packed, single)
    assert len(rig.contexts) == 1
    assert len(rig.contexts[0].batches[0]) > 1


def test_rows_have_length_one_unless_asked_otherwise(make: Make) -> None:
    rig = make()
    assert np.allclose(np.linalg.norm(rows_of(rig.embed("a b", "c")), axis=1), 1)
    assert np.linalg.norm(rows_of(rig.embed("a b", normalize=False))) > 2


def test_dimensions_cut_before_normalising(make: Make) -> None:
    rig = make()
    assert np.allclose(np.linalg.norm(rows_of(rig.embed("a b", dimensions=2))), 1)
    for bad in (5, -1):
        with pytest.raises(InvalidRequestError, match="between 1 and 4") as caught:
            rig.embed("a", dimensions=bad)
        assert caught.value.field == "dimensions"


def test_equal_inputs_are_computed_once(make: Make) -> None:
    rig = make()
    result = rig.embed("a", "b", "a", "a")
    assert sum(map(len, rig.contexts[0].batches)) == 2
    rows = rows_of(result)
    assert np.array_equal(rows[0], rows[2])
    assert np.array_equal(rows[0], rows[3])
    assert result.n_prompt_tokens == 8  # what was asked for, not what was computed


def test_long_input_is_chunked_and_averaged(make: Make) -> None:
    rig = make(n_ctx_train=2000)
    text = " ".join(f"w{i % 50}" for i in range(1200))
    row = rows_of(rig.embed(text, normalize=False))[0]
    assert rig.contexts[0].batches == [[512], [512], [177]]
    ids = rig.model.vocab.tokenize(text)
    assert np.allclose(row, [1, ids.mean(), (ids % 7).mean(), 1])


def test_memory_is_empty_after_every_batch(make: Make) -> None:
    rig = make()
    rig.embed("a b c", "d")
    memory = rig.contexts[0].memory
    assert (memory.n_cells, memory.n_clears) == ({}, 1)


def test_too_long_input_is_cut_and_reported_or_refused(make: Make) -> None:
    rig = make(**BERT)
    rig.model.vocab.adds_eos = True
    long = "w " * 100
    result = rig.embed("a", long)
    assert result.truncated == (1,)
    assert rig.contexts[0].batches == [[3, 64]]
    with pytest.raises(ContextLengthError, match=r"input\[0\] has 102 tokens, more than the 64"):
        rig.embed(long, truncate=False)


@pytest.mark.parametrize("changes", [{}, BERT])
def test_context_of_the_request_bounds_its_inputs(make: Make, changes: dict[str, Any]) -> None:
    """And not how many short ones share a batch."""
    rig = make(options={"n_ctx_per_request": 4}, **changes)
    with pytest.raises(ContextLengthError, match="more than the 4"):
        rig.embed("a b c d e", truncate=False)
    result = rig.embed("a b c d e", *"fghij")
    assert result.truncated == (0,)
    assert max(len(batch) for batch in rig.contexts[0].batches) == 6


def test_cut_keeps_the_closing_token() -> None:
    vocab = FakeVocab()
    tokens = np.array([BOS, 10, 11, 12, EOS], np.int32)
    cut, is_cut = ei.cut_to_limit(tokens, 3, vocab, may_cut=True, what="x")
    assert (cut.tolist(), is_cut) == ([BOS, 10, EOS], True)


@pytest.mark.parametrize("bad", [(N_VOCAB,), (-1,)])
def test_tokens_out_of_range_are_refused(make: Make, bad: tuple[int, ...]) -> None:
    with pytest.raises(InvalidRequestError, match=r"input\[1\] has token"):
        make().embed("a", bad)


def test_empty_input_is_refused(make: Make) -> None:
    with pytest.raises(InvalidRequestError, match=r"input\[0\] is empty"):
        make().embed(())


def test_no_inputs_give_no_rows(make: Make) -> None:
    assert make().embed().n_rows == 0


def test_failing_batch_fails_its_jobs_and_no_later_one(make: Make) -> None:
    rig = make()
    rig.embed("warm")
    rig.contexts[0].fail_next = ComputeError("boom")
    with pytest.raises(ComputeError):
        rig.embed("a", "b")
    assert rig.embed("a").n_rows == 1


@pytest.mark.parametrize("step", ["vstack", "ascontiguousarray"])
def test_answer_that_can_not_be_made_fails_alone(make: Make, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    rig = make()
    with monkeypatch.context() as patch:
        patch.setattr(f"donabe.runner.embedder.np.{step}", no_memory)
        with pytest.raises(MemoryError):
            rig.embed("a", "b")
    assert rig.embed("a").n_rows == 1


def test_embedder_that_ends_fails_what_waits_and_what_comes(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = make()
    held = Held(rig)
    held.embed("first", "a")
    monkeypatch.setattr("donabe.runner.embedding_inputs.Backlog.take", no_memory)
    held.embed("later", "b")
    with pytest.raises(RunnerError, match="the embedder failed: MemoryError"):
        held.release()
    with pytest.raises(RunnerError, match="the embedder failed"):
        rig.embed("c")
    assert held.done == ["first", "later"]
    rig.embedder.stop(RunnerError("end"))
    assert rig.contexts[0].closed


def no_memory(*_: object, **__: object) -> None:
    raise MemoryError


def test_stop_fails_what_comes_after(make: Make) -> None:
    rig = make()
    rig.embedder.stop(RunnerError("gone"))
    with pytest.raises(RunnerError, match="gone"):
        rig.embed("a")


def test_pooling_follows_the_file_and_the_option(make: Make) -> None:
    rig = make(metadata={"fake.pooling_type": "3"})
    rig.embed("a")
    assert rig.contexts[0].arguments["pooling"] == "last"
    rig = make(options={"pooling": "last"}, metadata={"fake.pooling_type": "1"})
    rig.embed("a")
    assert rig.contexts[0].arguments["pooling"] == "last"


def test_request_names_a_pooling_of_its_own(make: Make) -> None:
    rig = make(options={"pooling": "last"})
    last, cls = rig.embed("a b"), rig.embed("a b", pooling="cls")
    assert rows_of(last).tolist() != rows_of(cls).tolist()
    rig.embed("c", pooling="cls")
    assert [context.arguments["pooling"] for context in rig.contexts] == ["last", "cls"]  # one context a pooling
    with pytest.raises(InvalidRequestError, match="pooling must be one of none, mean, cls, last, not 'max'") as caught:
        rig.embed("a", pooling="max")
    assert caught.value.field == "pooling"


def test_contexts_are_few_and_the_one_used_longest_ago_makes_room(make: Make) -> None:
    rig = make()

    def open_poolings() -> list[str]:
        return [context.arguments["pooling"] for context in rig.contexts if not context.closed]

    for pooling in ("last", "cls", "last", "none"):
        rig.embed("a", pooling=pooling)
    assert open_poolings() == ["last", "none"]
    rig.embed("a", pooling="cls")
    assert open_poolings() == ["none", "cls"]


def test_context_with_work_is_not_closed_for_another(make: Make) -> None:
    held = Held(make())
    for pooling in ("last", "cls", "none", "mean", "last"):
        held.embed(pooling, f"{pooling} " * 300, f"x {pooling} " * 300, pooling=pooling)
    n_open: list[int] = []
    opened = held.rig.open
    held.rig.embedder._open_context = lambda arguments: (  # type: ignore[assignment]
        n_open.append(sum(not context.closed for context in held.rig.contexts)),
        opened(arguments),
    )[1]
    assert len(held.release()) == 5
    assert len(n_open) >= 3
    assert max(n_open) == 1  # beside the new one


def test_stop_does_not_wait_for_room(make: Make) -> None:
    held = Held(make())
    held.embed("last", *(f"l{i} " * 300 for i in range(9)), pooling="last")
    held.embed("cls", *(f"c{i} " * 300 for i in range(9)), pooling="cls")
    held.embed("mean", "m", pooling="mean")
    stopper = threading.Thread(target=held.rig.embedder.stop, args=(RunnerError("gone"),))
    stopper.start()
    while held.rig.embedder._end is None:
        time.sleep(0.001)
    with pytest.raises(RunnerError, match="gone"):
        held.release()
    stopper.join(5)
    assert sorted(held.done) == ["cls", "last", "mean"]
    assert sum(len(context.batches) for context in held.rig.contexts) <= 2


@pytest.mark.parametrize("changes", [{}, {"memory_kind": "none", "is_causal": False}])
def test_pooling_none_gives_a_row_for_every_token(make: Make, changes: dict[str, Any]) -> None:
    rig = make(options={"pooling": "none"}, **changes)
    result = rig.embed("a b c", "d", "a b c", normalize=False)
    assert (result.n_rows, result.n_rows_each) == (4 + 2 + 4, (4, 2, 4))
    ids = rig.model.vocab.tokenize("a b c")
    assert np.array_equal(rows_of(result)[:4], [[1, token, token % 7, 1] for token in ids])
    assert np.array_equal(rows_of(result)[6:], rows_of(result)[:4])
    assert np.allclose(np.linalg.norm(rows_of(rig.embed("a b", pooling="none", dimensions=2)), axis=1), 1)
    assert rig.embed("a", pooling="mean").n_rows_each == ()


def test_long_input_with_pooling_none_has_the_rows_of_all_chunks(make: Make) -> None:
    rig = make(n_ctx_train=2000)
    text = " ".join(f"w{i % 50}" for i in range(1200))
    rows = rows_of(rig.embed(text, pooling="none", normalize=False))
    assert np.array_equal(rows[:, 1], rig.model.vocab.tokenize(text))


def test_cls_of_a_causal_model_reads_no_more_than_the_first_chunk(make: Make) -> None:
    rig = make(n_ctx_train=2000)
    row = rows_of(rig.embed("w " * 1200, pooling="cls", normalize=False))[0]
    assert rig.contexts[0].batches == [[512]]
    assert row.tolist() == [1, BOS, BOS % 7, 1]


def test_rows_of_too_many_tokens_are_refused_before_they_are_computed(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("donabe.runner.embedder._TOKEN_ROWS_BYTES", 4 * 4 * 10)
    rig = make()
    assert rig.embed(*"ab", "c d e f g", pooling="none").n_rows == 10
    with pytest.raises(InvalidRequestError, match="the rows of 11 tokens") as caught:
        rig.embed(*"ab", "c d e f g h", pooling="none")
    assert (caught.value.field, len(rig.contexts[0].batches)) == ("input", 1)
    assert rig.embed(*"ab", "c d e f g h").n_rows == 3


def test_calls_share_the_memory_for_rows_of_tokens(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit beside the others is begun once they are done, and other calls are computed meanwhile."""
    monkeypatch.setattr("donabe.runner.embedder._TOKEN_ROWS_BYTES", 4 * 4 * 10)
    held = Held(make())
    for i in range(6):
        held.embed(f"none{i}", f"a{i} b c", pooling="none")  # 4 rows
    held.embed("mean", "x")
    assert [result.n_rows for result in held.release()] == [4] * 6 + [1]
    assert max(len(batch) for batch in held.rig.contexts[0].batches) == 2


class Held:
    """Holds the first batch back until it is released, so that calls come together in the queue."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.done: list[str] = []
        self._gate, self._begun = threading.Event(), threading.Event()
        self._futures: list[Future[EmbedResult]] = []
        rig.before_batch = lambda: (self._begun.set(), self._gate.wait(5))

    def embed(self, name: str, *inputs: str, pooling: str = "") -> None:
        future = self.rig.embedder.embed(EmbedRequest(inputs=inputs, pooling=pooling))
        future.add_done_callback(lambda _: self.done.append(name))
        self._futures.append(future)
        assert self._begun.wait(5)

    def release(self) -> list[EmbedResult]:
        self._gate.set()
        return [future.result(5) for future in self._futures]


def test_poolings_take_turns(make: Make) -> None:
    """A long queue of one pooling does not hold up another's."""
    held = Held(make())
    held.embed("many", *(f"m{i} " * 60 for i in range(40)), pooling="last")
    held.embed("few", "f", pooling="mean")
    held.release()
    assert held.done == ["few", "many"]


# --- packing ---------------------------------------------------------------------------------------------------------

MIXED = [" ".join(f"w{i}x{j}" for j in range((37 * i) % 60)) or "w" for i in range(50)]  # 2 to 60 tokens


def test_inputs_of_like_length_share_batches(make: Make) -> None:
    """The attention of a packed batch grows with its square, so the order decides what mixed inputs cost."""
    rig = make(options={"pooling": "last"})
    rig.embed(*MIXED)
    batches = rig.contexts[0].batches
    lengths = [n for batch in batches for n in batch]
    assert lengths == sorted(lengths)
    n_padded = sum(len(batch) * max(batch) - sum(batch) for batch in batches)
    arrival = [len(rig.model.vocab.tokenize(text)) for text in MIXED]
    assert n_padded < 0.5 * (len(arrival) * max(arrival) - sum(arrival))


def test_batches_are_as_few_as_the_limits_allow(make: Make) -> None:
    rig = make(options={"pooling": "last"})
    rig.embed(*MIXED)
    batches = rig.contexts[0].batches
    n_tokens = sum(map(sum, batches))
    assert all(sum(batch) <= 512 for batch in batches)
    assert len(batches) == -(-n_tokens // 512)
    rig = make(options={"pooling": "last"})
    rig.embed(*(f"w{i}" for i in range(130)))  # sequences run out before tokens do
    assert [len(batch) for batch in rig.contexts[0].batches] == [64, 64, 2]


def test_calls_that_wait_together_share_batches_and_equal_inputs(make: Make) -> None:
    held = Held(make())
    held.embed("first", "warm")
    for i in range(5):
        held.embed("more", f"own{i}", "same")
    rows = [rows_of(result) for result in held.release()][1:]
    assert [len(batch) for batch in held.rig.contexts[0].batches] == [1, 6]
    assert all(np.array_equal(row[1], rows[0][1]) for row in rows)


def test_small_call_is_computed_before_the_rest_of_a_large_one(make: Make) -> None:
    held = Held(make())
    held.embed("large", *(f"l{i}" for i in range(300)))
    held.embed("small", "s " * 50)
    held.release()
    assert held.done == ["small", "large"]
    assert 51 in held.rig.contexts[0].batches[1]


def test_threads_of_the_context_do_not_spin_between_batches(make: Make) -> None:
    rig = make()
    rig.embed("a")
    assert rig.contexts[0].arguments["poll"] == 0


RANKER = {**BERT, "metadata": {"fake.pooling_type": "4"}}


def test_rerank_scores_every_document(make: Make) -> None:
    rig = make(**RANKER)
    scores = rig.rerank("q", "a", "b", "a")
    assert len(scores) == 3
    assert scores[0] == scores[2] == pytest.approx(1 / (1 + np.exp(-1)))
    assert make(**RANKER).rerank("q") == ()


def test_rerank_and_embed_need_their_kind_of_model(make: Make) -> None:
    with pytest.raises(CapabilityError, match="does not support rerank"):
        make().rerank("q", "d")
    with pytest.raises(CapabilityError, match="does not embed"):
        make(**RANKER).embed("a")


CLASSIFIER = {**RANKER, "n_cls_out": 3, "labels": ("sad", "glad", "mad")}


def test_classes_have_names_and_probabilities(make: Make) -> None:
    result = make(**CLASSIFIER).classify("a b", "c", "a b")
    assert result.labels == ("sad", "glad", "mad")
    assert np.allclose(np.sum(result.scores, axis=1), 1)
    assert result.scores[0] == result.scores[2] != result.scores[1]
    ids = np.array([BOS, 10, 11])
    powers = np.exp([1, ids.mean(), (ids % 7).mean()])
    assert np.allclose(result.scores[0], powers / powers.sum(), atol=1e-6)
    assert result.n_prompt_tokens == 3 + 2 + 3
    assert make(**CLASSIFIER).classify().scores == ()


def test_class_of_a_single_label_has_a_probability_of_its_own(make: Make) -> None:
    result = make(**RANKER).classify("a")
    assert (result.labels, result.scores) == (("LABEL_0",), ((pytest.approx(1 / (1 + np.exp(-1))),),))


def test_classes_whose_graph_has_the_softmax_keep_their_numbers(make: Make) -> None:
    changes = {**CLASSIFIER, "architecture": "qwen3", "metadata": {"qwen3.pooling_type": "4"}}
    assert make(**changes).classify((BOS,)).scores == ((1, BOS, BOS % 7),)


@pytest.mark.parametrize("labels", [("a", "b"), ("a", "b", "a"), ()])
def test_labels_that_do_not_fit_are_numbered(make: Make, labels: tuple[str, ...]) -> None:
    assert make(**CLASSIFIER | {"labels": labels}).classify("a").labels == ("LABEL_0", "LABEL_1", "LABEL_2")


def test_scores_of_far_logits_are_finite() -> None:
    scores = ei.class_scores(np.array([[1e4, 0, -1e4], [-1e4, -1e4, -1e4]], np.float32))
    assert np.allclose(scores, [[1, 0, 0], [1 / 3] * 3])


def test_too_long_text_to_classify_is_refused_or_cut_and_told(make: Make) -> None:
    rig = make(**CLASSIFIER)
    with pytest.raises(ContextLengthError, match=r"input\[1\] has 101 tokens"):
        rig.classify("a", "w " * 100)
    assert rig.classify("a", "w " * 100, truncate=True).truncated == (1,)


def test_model_without_classes_does_not_classify(make: Make) -> None:
    with pytest.raises(CapabilityError, match="does not support classification"):
        make().classify("a")


def test_classifier_of_several_labels_points_to_classify(make: Make) -> None:
    with pytest.raises(CapabilityError, match="sorts texts into 3 classes") as caught:
        make(**CLASSIFIER).rerank("q", "d")
    assert caught.value.hint == "use classify"


def test_rerank_pair_without_template() -> None:
    model = FakeModel()
    model.vocab.adds_eos = True
    (pair,) = ei.rerank_tokens(model, "q", ["d"])
    words = model.vocab.detokenize(pair).decode()
    assert words == "<bos> q <eos> <sep> d <eos>"
    assert SEP in pair


def test_rerank_template_is_filled_once() -> None:
    model = FakeModel(templates={"rerank": "Q {query} D {document} <eos>"})
    (pair,) = ei.rerank_tokens(model, "what {document} is", ["a {query} b"])
    assert model.vocab.detokenize(pair).decode() == "Q what {document} is D a {query} b <eos>"


def test_too_long_pair_is_refused_by_number(make: Make) -> None:
    with pytest.raises(ContextLengthError, match=r"documents\[1\]"):
        make(**RANKER).rerank("q", "short", "w " * 100)
