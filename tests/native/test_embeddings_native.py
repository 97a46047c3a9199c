"""Embeddings and scores over the real module: what an input is packed with must not show in its vector."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.bert_gguf import CLS, LAST, MEAN, RANK, random_bert
from tests.fakes.registry_gguf import FakeGguf
from tests.minilm import ensure_minilm

from donabe import _core
from donabe.errors import CapabilityError, ContextLengthError, RunnerError
from donabe.runner.client import RunnerProcess
from donabe.runner.embedder import Embedder
from donabe.store.resolve import resolve_model
from donabe.types import ClassifyRequest, ClassifyResult, EmbedRequest, EmbedResult, LoadOptions, RerankRequest

Rows = npt.NDArray[np.float32]
TEXTS = [" ".join(f"w{(7 * i + 3 * j) % 60}" for j in range(1 + i % 40)) for i in range(128)]
SAME = 0.9999


class Rig:
    """An embedder on a real model."""

    def __init__(self, path: str, **options: Any) -> None:
        self.model = _core.Model(path)
        options = {"n_threads": 1} | options
        self.embedder = Embedder(self.model, LoadOptions(**options), self._open, _core.Batch)

    def _open(self, arguments: dict[str, Any]) -> _core.Context:
        return _core.Context(self.model, _core.ContextParams(**arguments))

    def result(self, *inputs: str | tuple[int, ...], **options: Any) -> EmbedResult:
        return self.embedder.embed(EmbedRequest(inputs=inputs, **options)).result(120)

    def embed(self, *inputs: str | tuple[int, ...], **options: Any) -> Rows:
        result = self.result(*inputs, **options)
        return np.frombuffer(result.data, "<f4").reshape(result.n_rows, result.n_embd)

    def classify(self, *inputs: str) -> ClassifyResult:
        return self.embedder.classify(ClassifyRequest(inputs=inputs)).result(120)

    def rerank(self, query: str, *documents: str) -> tuple[float, ...]:
        return self.embedder.rerank(RerankRequest(query=query, documents=documents)).result(120).scores


@pytest.fixture
def make() -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def build(path: object, **options: Any) -> Rig:
        rigs.append(Rig(str(path), **options))
        return rigs[-1]

    yield build
    for rig in rigs:
        rig.embedder.stop(RunnerError("end"))


def assert_batch_does_not_show(rig: Rig, texts: list[str]) -> Rows:
    together = rig.embed(*texts)
    alone = np.concatenate([rig.embed(text) for text in texts])
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert (together * alone).sum(axis=1).min() >= SAME
    return together


@pytest.mark.parametrize("pooling", [MEAN, CLS, LAST])
def test_encoder_of_any_pooling_gives_the_same_in_a_batch_of_1_and_128(
    make: Callable[..., Rig], tmp_path: Path, pooling: int
) -> None:
    rows = assert_batch_does_not_show(make(random_bert(pooling).write(tmp_path / "bert.gguf")), TEXTS)
    assert (rows[:40] @ rows[:40].T - np.eye(40)).max() < SAME  # other texts have other vectors


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "mamba2", "lfm2"])
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_decoder_gives_the_same_in_a_batch_of_1_and_128(
    make: Callable[..., Rig], tiny_model: Callable[[str], str], architecture: str, pooling: str
) -> None:
    rig = make(tiny_model(architecture), pooling=pooling)
    tokens = [tuple(5 + (7 * i + 3 * j) % 120 for j in range(1 + i % 40)) for i in range(128)]
    together = rig.embed(*tokens)
    alone = np.concatenate([rig.embed(one) for one in tokens])
    assert (together * alone).sum(axis=1).min() >= SAME


def test_poolings_differ_and_the_options_win_over_the_file(make: Callable[..., Rig], tmp_path: Path) -> None:
    path = random_bert(MEAN).write(tmp_path / "bert.gguf")
    mean, cls, last = (make(path, pooling=name).embed("w1 w2 w3")[0] for name in ("mean", "cls", "last"))
    assert np.allclose(mean, make(path).embed("w1 w2 w3")[0], atol=1e-6)
    for a, b in ((mean, cls), (cls, last), (mean, last)):
        assert float(a @ b) < 0.999


def matrices(rig: Rig, *inputs: str | tuple[int, ...]) -> list[Rows]:
    """Unnormalised token rows of each input."""
    result = rig.result(*inputs, pooling="none", normalize=False)
    rows = np.frombuffer(result.data, "<f4").reshape(result.n_rows, result.n_embd)
    return np.split(rows, np.cumsum(result.n_rows_each)[:-1])


def assert_poolings_follow_from_the_rows(rig: Rig, inputs: list[str] | list[tuple[int, ...]]) -> None:
    """Mean, first and last token of what pooling none gives are what the other poolings give, packed and alone."""
    rows = matrices(rig, *inputs)
    for one, packed in zip(inputs, rows, strict=True):
        (alone,) = matrices(rig, one)
        assert packed.shape == alone.shape
        assert cosines(packed, alone).min() >= SAME
    expected = {"mean": [m.mean(axis=0) for m in rows], "cls": [m[0] for m in rows], "last": [m[-1] for m in rows]}
    for pooling, vectors in expected.items():
        found = rig.embed(*inputs, pooling=pooling)
        assert cosines(found, np.stack(vectors)).min() >= SAME, pooling


def cosines(a: Rows, b: Rows) -> Rows:
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_encoder_gives_token_rows_and_every_pooling_follows_from_them(make: Callable[..., Rig], tmp_path: Path) -> None:
    rig = make(random_bert(MEAN).write(tmp_path / "bert.gguf"))
    assert_poolings_follow_from_the_rows(rig, TEXTS[:40])
    assert [len(m) for m in matrices(rig, "w1 w2", "w3")] == [4, 3]


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "mamba2", "lfm2"])
def test_decoder_gives_token_rows_and_every_pooling_follows_from_them(
    make: Callable[..., Rig], tiny_model: Callable[[str], str], architecture: str
) -> None:
    rig = make(tiny_model(architecture))
    assert_poolings_follow_from_the_rows(
        rig, [tuple(5 + (7 * i + 3 * j) % 120 for j in range(2 + i)) for i in range(20)]
    )


@pytest.mark.parametrize("pooling", ["none", "mean", "cls", "last"])
def test_long_input_of_a_decoder_is_as_if_computed_at_once(
    make: Callable[..., Rig], tiny_model: Callable[[str], str], pooling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_model("llama")
    tokens = tuple(5 + 7 * j % 120 for j in range(200))
    whole = make(path).embed(tokens, pooling=pooling)
    monkeypatch.setattr("donabe.runner.embedding_lane._CHUNK_TOKENS", 32)
    in_chunks = make(path).embed(tokens, pooling=pooling)
    assert whole.shape == in_chunks.shape
    assert cosines(whole, in_chunks).min() >= SAME


def test_threads_of_an_idle_embedder_use_no_processor(make: Callable[..., Rig], tmp_path: Path) -> None:
    """They stand beside the engine's own: what they spin away after a batch is taken from running answers."""
    path = random_bert(MEAN).write(tmp_path / "bert.gguf")
    rig = make(path, n_threads=4)
    spent = []
    for _ in range(3):
        rig.embed("w1 w2 w3")
        started = time.process_time()  # of all threads of the process
        time.sleep(0.2)
        spent.append(time.process_time() - started)
    assert min(spent) < 0.01


def test_equal_inputs_get_equal_rows_in_their_places(make: Callable[..., Rig], tmp_path: Path) -> None:
    rows = make(random_bert(MEAN).write(tmp_path / "bert.gguf")).embed("w1 w2", "w3", "w1 w2", "w3", "w4")
    assert (rows[0] == rows[2]).all()
    assert (rows[1] == rows[3]).all()
    assert not np.allclose(rows[0], rows[1])


def test_long_input_is_refused_or_cut_and_told(make: Callable[..., Rig], tmp_path: Path) -> None:
    rig = make(random_bert(MEAN).write(tmp_path / "bert.gguf"))  # 128 positions
    long = " ".join(["w1"] * 300)
    with pytest.raises(ContextLengthError, match=r"input\[1\] has 302 tokens, more than the 128") as caught:
        rig.result("w1", long, truncate=False)
    assert (caught.value.n_prompt_tokens, caught.value.n_ctx) == (302, 128)
    cut = rig.result("w1", long)
    assert cut.truncated == (1,)
    assert cut.n_prompt_tokens == 3 + 128
    rows = np.frombuffer(cut.data, "<f4").reshape(2, -1)
    assert float(rows[1] @ rig.embed(" ".join(["w1"] * 126))[0]) >= SAME


def test_scores_do_not_depend_on_the_other_documents(make: Callable[..., Rig], tmp_path: Path) -> None:
    rig = make(random_bert(RANK).write(tmp_path / "bert.gguf"))
    documents = TEXTS[:60]
    together = rig.rerank("w3 w9", *documents)
    alone = [rig.rerank("w3 w9", document)[0] for document in documents]
    assert np.allclose(together, alone, atol=1e-4)
    assert all(0 < score < 1 for score in together)
    assert np.ptp(together) > 1e-2
    backwards = rig.rerank("w3 w9", *reversed(documents))
    assert np.allclose(together, backwards[::-1], atol=1e-4)
    with pytest.raises(CapabilityError, match="ranks"):
        rig.embed("w1")


def test_classifier_gives_the_same_classes_in_a_batch_of_1_and_60(make: Callable[..., Rig], tmp_path: Path) -> None:
    rig = make(random_bert(RANK, labels=("a", "b", "c")).write(tmp_path / "bert.gguf"))
    together = rig.classify(*TEXTS[:60])
    assert together.labels == ("a", "b", "c")
    scores = np.array(together.scores)
    assert np.allclose(scores.sum(axis=1), 1, atol=1e-5)
    assert np.allclose(scores, [rig.classify(text).scores[0] for text in TEXTS[:60]], atol=1e-4)
    assert np.ptp(scores, axis=0).min() > 1e-2
    with pytest.raises(CapabilityError, match="sorts texts into 3 classes"):
        rig.rerank("w1", "w2")


def test_class_scores_are_those_of_the_head(make: Callable[..., Rig], tmp_path: Path) -> None:
    """The first token's row through the classification head, computed here."""
    file = random_bert(RANK, labels=("a", "b", "c"))
    rig = make(file.write(tmp_path / "bert.gguf"))
    row = matrices(rig, "w1 w2 w3")[0][0]
    head = {name: tensor_of(file, name) for name in ("cls.weight", "cls.bias", "cls.output.weight", "cls.output.bias")}
    hidden = np.tanh(head["cls.weight"] @ row + head["cls.bias"])
    logits = head["cls.output.weight"] @ hidden + head["cls.output.bias"]
    expected = np.exp(logits - logits.max())
    assert np.allclose(rig.classify("w1 w2 w3").scores[0], expected / expected.sum(), atol=1e-3)


def tensor_of(file: FakeGguf, name: str) -> Rows:
    offset = 0
    for tensor in file.tensors:
        size = int(np.prod(tensor.shape)) * 4
        if tensor.name == name:
            return np.frombuffer(file.tail[offset : offset + size], np.float32).reshape(tensor.shape[::-1])
        offset += size + -size % 32
    raise KeyError(name)


def test_model_without_labels_in_the_file_numbers_them(make: Callable[..., Rig], tmp_path: Path) -> None:
    rig = make(random_bert(RANK).write(tmp_path / "bert.gguf"))
    result = rig.classify("w1 w2")
    assert (result.labels, len(result.scores[0])) == (("LABEL_0",), 1)


@pytest.mark.models
def test_minilm_is_the_same_in_a_batch_of_1_and_128_and_knows_what_is_alike(make: Callable[..., Rig]) -> None:
    rig = make(ensure_minilm())
    subjects = ["A cat", "The old engineer", "My neighbour's garden", "A distributed database", "The orchestra"]
    verbs = ["sleeps near the window", "was repaired yesterday", "grows faster than anyone expected"]
    texts = [f"{subjects[i % 5]} {verbs[i % 3]}" + " and so on" * (i % 9) + f", number {i}." for i in range(128)]
    rows = assert_batch_does_not_show(rig, texts)
    assert rows.shape == (128, 384)
    cat, kitten, bank = rig.embed("A cat sits on the mat.", "A kitten rests on the rug.", "The bank raised its rates.")
    assert float(cat @ kitten) > 0.5
    assert float(cat @ bank) < 0.2


async def test_child_process_gives_token_rows_and_classes(tmp_path: Path) -> None:
    path = random_bert(RANK, labels=("a", "b", "c")).write(tmp_path / "bert.gguf")
    spec = resolve_model(str(path), pull=False)
    runner = await RunnerProcess.start(spec, LoadOptions(embedding=True, pooling="rank", n_threads=1))
    try:
        classes = await runner.classify(ClassifyRequest(inputs=("w1 w2", "w3")))
        rows = await runner.embed(EmbedRequest(inputs=("w1 w2", "w3"), pooling="none"))
        with pytest.raises(CapabilityError, match="sorts texts into 3 classes") as caught:
            await runner.rerank(RerankRequest(query="w1", documents=("w2",)))
    finally:
        await runner.close()
    assert (classes.labels, len(classes.scores)) == (("a", "b", "c"), 2)
    assert (rows.n_rows, rows.n_rows_each) == (7, (4, 3))
    assert caught.value.hint == "use classify"
