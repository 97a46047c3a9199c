"""Embedder over a fake context: packing, deduplication, chunks, limits, rerank prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    UnsupportedError,
)
from donabe.runner import embedding_inputs as ei
from donabe.runner.embedder import Embedder
from donabe.types import EmbedRequest, EmbedResult, LoadOptions, RerankRequest


class Rig:
    def __init__(self, model: FakeModel, **options: Any) -> None:
        self.model = model
        self.contexts: list[FakeContext] = []
        self.embedder = Embedder(model, LoadOptions(**options), self.open, FakeBatch)

    def open(self, arguments: dict[str, Any]) -> FakeContext:
        self.contexts.append(FakeContext(arguments))
        if arguments["pooling"] == "rank":
            self.contexts[-1].n_out = 1
        return self.contexts[-1]

    def embed(self, *inputs: Any, **options: Any) -> EmbedResult:
        return self.embedder.embed(EmbedRequest(inputs=inputs, **options)).result(5)

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
    with pytest.raises(UnsupportedError, match="cls"):
        make(options={"pooling": "cls"}).embed("a")


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
