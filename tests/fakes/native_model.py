"""A native model, vocabulary and embedding context in Python: one token a word, vectors made of the tokens' ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

BOS, EOS, SEP = 1, 2, 3
FIRST_WORD = 10
N_VOCAB = 1000
N_EMBD = 4

Int32Array = Any


class FakeVocab:
    """Words get ids in order of appearance; `<bos>`, `<eos>` and `<sep>` are control tokens."""

    n_tokens = N_VOCAB
    bos, eos, eot, sep = BOS, EOS, -1, SEP
    fim_pre = fim_suf = fim_mid = -1
    adds_bos = True
    adds_eos = False
    control: ClassVar[dict[str, int]] = {"<bos>": BOS, "<eos>": EOS, "<sep>": SEP}

    def __init__(self) -> None:
        self.words: list[str] = []

    def tokenize(self, text: str | bytes, *, add_special: bool = True, parse_special: bool = False) -> Int32Array:
        decoded = text.decode() if isinstance(text, bytes) else text
        for name in self.control:
            decoded = decoded.replace(name, f" {name} ")
        ids = [self.control[w] if parse_special and w in self.control else self._word(w) for w in decoded.split()]
        if add_special:
            ids = [BOS] * self.adds_bos + ids + [EOS] * self.adds_eos
        return np.array(ids, np.int32)

    def tokenize_batch(self, texts: Sequence[str], **options: bool) -> list[Int32Array]:
        return [self.tokenize(text, **options) for text in texts]

    def detokenize(self, tokens: Int32Array, **_options: bool) -> bytes:
        names = {id: name for name, id in self.control.items()}
        return " ".join(names.get(int(t)) or self.words[int(t) - FIRST_WORD] for t in tokens).encode()

    def piece(self, token: int, *, special: bool = False) -> bytes:
        return self.detokenize([token])

    def _word(self, word: str) -> int:
        if word not in self.words:
            self.words.append(word)
        return FIRST_WORD + self.words.index(word)


class FakeModel:
    architecture = "fake"
    n_embd = n_embd_out = N_EMBD
    n_cls_out = 1
    n_ctx_train = 64
    is_causal = True
    memory_kind = "dense"

    def __init__(self, **changes: Any) -> None:
        self.vocab = FakeVocab()
        self.templates: dict[str | None, str] = {}
        self.metadata: dict[str, str] = {}
        for name, value in changes.items():
            setattr(self, name, value)

    def meta(self) -> dict[str, str]:
        return self.metadata

    def chat_template(self, name: str | None = None) -> str | None:
        return self.templates.get(name)

    labels: tuple[str, ...] = ()

    def class_labels(self) -> list[str]:
        return list(self.labels)


class FakeBatch:
    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.entries: list[tuple[int, Int32Array, int]] = []

    def clear(self) -> None:
        self.entries = []

    def add_tokens(self, seq_id: int, tokens: Int32Array, pos0: int, outputs: str = "none") -> None:
        assert sum(len(t) for _, t, _ in self.entries) + len(tokens) <= self.capacity
        self.entries.append((seq_id, tokens, pos0))


class FakeMemory:
    def __init__(self) -> None:
        self.n_cells: dict[int, int] = {}
        self.n_clears = 0

    def clear(self, data: bool = False) -> None:
        self.n_cells.clear()
        self.n_clears += 1


class FakeContext:
    """A token's vector is (1, id, id % 7, 1); pooled vectors are their mean, or the last one's."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self.arguments = arguments
        self.memory = FakeMemory()
        self.batches: list[list[int]] = []  # lengths of the sequences of each batch
        self.fail_next: Exception | None = None
        self.closed = False
        self.before_batch: Callable[[], object] = lambda: None
        self._pooled: dict[int, Any] = {}
        self._rows: Any = None

    def decode(self, batch: FakeBatch) -> None:
        if self.fail_next is not None:
            error, self.fail_next = self.fail_next, None
            raise error
        self.before_batch()
        self.batches.append([len(tokens) for _, tokens, _ in batch.entries])
        rows = []
        for seq_id, tokens, pos0 in batch.entries:
            assert self.memory.n_cells.get(seq_id, 0) == pos0, "a chunk must follow what is in memory"
            self.memory.n_cells[seq_id] = pos0 + len(tokens)
            vectors = np.stack([np.array([1, t, t % 7, 1], np.float32) for t in tokens])
            rows.append(vectors)
            pooling = self.arguments["pooling"]
            if pooling != "cls" or pos0 == 0:
                one = {"last": vectors[-1], "cls": vectors[0]}.get(pooling)
                self._pooled[seq_id] = vectors.mean(axis=0) if one is None else one
        self._rows = np.concatenate(rows)

    def encode(self, batch: FakeBatch) -> None:
        self.memory.n_cells.clear()  # nothing is remembered
        self.decode(batch)

    def embeddings(self, seq_ids: Int32Array) -> Any:
        return np.stack([self._pooled[int(i)] for i in seq_ids])[:, : self.n_out]

    n_out = N_EMBD

    def token_embeddings(self) -> Any:
        assert self.arguments["pooling"] == "none"
        return self._rows

    def close(self) -> None:
        self.closed = True
