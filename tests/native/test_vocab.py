from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from donabe import _core
from donabe.errors import InvalidArgumentError, UnsupportedError

SEPARATOR = "\n__ggml_vocab_test__\n"


def vocab_of(path: Path) -> _core.Vocab:
    return _core.Model(str(path), _core.ModelParams(vocab_only=True)).vocab


def test_tokenize_vendored_vocabularies_match_their_recorded_tokens(vendored_source: Path) -> None:
    n_texts = 0
    for path in sorted((vendored_source / "models").glob("ggml-vocab-*.gguf")):
        if not path.with_suffix(".gguf.inp").exists():
            continue
        texts = path.with_suffix(".gguf.inp").read_bytes().decode().split(SEPARATOR)
        lines = path.with_suffix(".gguf.out").read_text().splitlines()
        vocab = vocab_of(path)
        for text, line in zip(texts, lines, strict=False):
            expected = [int(word) for word in line.split()]
            assert vocab.tokenize(text, add_special=False).tolist() == expected, (path.name, text)
            n_texts += 1
    assert n_texts > 500


@pytest.fixture(scope="module")
def spm(vendored_source: Path) -> _core.Vocab:
    return vocab_of(vendored_source / "models" / "ggml-vocab-llama-spm.gguf")


def test_special_ids_of_a_llama_vocabulary(spm: _core.Vocab) -> None:
    assert (spm.kind, spm.n_tokens, spm.bos, spm.eos, spm.adds_bos) == ("spm", 32000, 1, 2, True)
    assert spm.eog_tokens() == frozenset({2})
    assert spm.fim_pre == -1
    assert spm.is_control(1)
    assert not spm.is_control(300)


def test_tokenize_add_special_prepends_bos(spm: _core.Vocab) -> None:
    assert spm.tokenize("Hello").tolist() == [1, *spm.tokenize("Hello", add_special=False).tolist()]


def test_tokenize_parse_special_reads_markers(spm: _core.Vocab) -> None:
    assert 2 in spm.tokenize("a</s>", parse_special=True)
    assert 2 not in spm.tokenize("a</s>")


def test_tokenize_returns_int32(spm: _core.Vocab) -> None:
    tokens = spm.tokenize("a b c")
    assert tokens.dtype == np.int32
    assert tokens.ndim == 1
    assert spm.tokenize("", add_special=False).shape == (0,)


@pytest.mark.parametrize("text", ["déjà vu 🦙", " leading", "tabs\tand\nlines", "日本語"])
def test_detokenize_gives_the_text_back(spm: _core.Vocab, text: str) -> None:
    tokens = spm.tokenize(text, add_special=False)
    assert spm.detokenize(tokens).decode() == text


def test_tokenize_bytes_that_are_not_utf8(spm: _core.Vocab) -> None:
    tokens = spm.tokenize(b"ok \xff\xfe", add_special=False)
    assert len(tokens) > 0


def test_tokenize_lone_surrogate_is_a_unicode_error(spm: _core.Vocab) -> None:
    with pytest.raises(UnicodeEncodeError):
        spm.tokenize("\ud800")


def test_tokenize_batch_equals_single_calls(spm: _core.Vocab) -> None:
    texts = ["one", "two words", "", "x" * 5000]
    batch = spm.tokenize_batch(texts)
    assert [t.tolist() for t in batch] == [spm.tokenize(t).tolist() for t in texts]


def test_piece_of_a_control_token_is_empty_unless_special(spm: _core.Vocab) -> None:
    assert spm.piece(2) == b""
    assert spm.piece(2, special=True) == b"</s>"


@pytest.mark.parametrize("token", [-1, 32000, 2**31 - 1])
def test_piece_out_of_range_is_refused(spm: _core.Vocab, token: int) -> None:
    with pytest.raises(InvalidArgumentError, match="token must be in"):
        spm.piece(token)


@pytest.mark.parametrize(
    "tokens",
    [np.array([1.0, 2.0]), np.array([1, 2], np.int64), np.arange(8, dtype=np.int32)[::2], np.zeros((2, 2), np.int32)],
)
def test_detokenize_refuses_arrays_that_would_be_copied(spm: _core.Vocab, tokens: np.ndarray) -> None:
    with pytest.raises(InvalidArgumentError, match="1-d C-contiguous int32"):
        spm.detokenize(tokens)


def test_detokenize_refuses_tokens_out_of_range(spm: _core.Vocab) -> None:
    with pytest.raises(InvalidArgumentError, match="32000"):
        spm.detokenize(np.array([32000], np.int32))


def test_tokenize_from_eight_threads(spm: _core.Vocab) -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 50
    expected = spm.tokenize(text).tolist()
    results: list[bool] = []

    def work() -> None:
        results.append(all(spm.tokenize(text).tolist() == expected for _ in range(20)))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 8


def test_vocabulary_outlives_its_model(vendored_source: Path) -> None:
    model = _core.Model(
        str(vendored_source / "models" / "ggml-vocab-llama-bpe.gguf"), _core.ModelParams(vocab_only=True)
    )
    vocab = model.vocab
    before = vocab.tokenize("still here").tolist()
    model.close()
    del model
    assert vocab.tokenize("still here").tolist() == before


def test_vocab_only_model_cannot_have_a_context(vendored_source: Path) -> None:
    model = _core.Model(str(vendored_source / "models" / "ggml-vocab-gpt-2.gguf"), _core.ModelParams(vocab_only=True))
    with pytest.raises(UnsupportedError, match="vocab_only"):
        _core.Context(model)


def test_hexadecimal_pieces_of_the_test_vocabulary(tiny_model: Callable[[str], str]) -> None:
    vocab = _core.Model(tiny_model("llama")).vocab
    assert vocab.kind == "test"
    assert vocab.piece(100) == b"64"
