"""How a model embeds with one pooling: sizes and limits, and the context that computes its batches.

Owned by the embedder's thread; knows no futures and no requests.

| model | pooling | context | one batch | long inputs |
|---|---|---|---|---|
| no memory (BERT and kin), or not causal | any | native pooling | all of it in one ubatch | limit n_ubatch |
| causal | last, rank | native pooling | any | in chunks, up to n_ctx |
| causal | cls | native pooling | any | the first chunk, which is all that the first token sees |
| causal | mean | none: averaged here | any | in chunks, up to n_ctx |
| causal | none | none | any | in chunks, up to n_ctx |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from donabe.runner.embedding_inputs import Backlog, Item
from donabe.types import LoadOptions

if TYPE_CHECKING:
    from donabe._core import Batch, Context, Float32Array, Int32Array, Model

OpenContext = Callable[[dict[str, Any]], "Context"]  # keyword arguments of ContextParams
MakeBatch = Callable[[int], "Batch"]  # of this capacity

_PACK_TOKENS = 512  # one batch: beyond it the full attention of packed inputs costs more than it saves
_N_SEQ_MAX = 64
_N_SEQ_RECURRENT = 8  # recurrent state is reserved for every sequence
_CHUNK_TOKENS = 512
_SINGLE_UBATCH_LIMIT = 2048  # attention memory grows with its square; LoadOptions.n_ubatch raises it
_CAUSAL_LIMIT = 8192
_POOLING_NAMES = {"1": "mean", "2": "cls", "3": "last", "4": "rank"}  # 0 and -1 leave the choice to us


def embedding_n_ctx(model: Model, options: LoadOptions) -> int:
    """Tokens of the longest input that the options and the model allow."""
    return min(options.n_ctx_per_request or options.n_ctx or model.n_ctx_train, model.n_ctx_train)


def own_pooling(model: Model, options: LoadOptions) -> str:
    """The pooling of requests that ask for none in particular: the options', else the file's, else mean."""
    stored = model.meta().get(f"{model.architecture}.pooling_type", "")
    return options.pooling or _POOLING_NAMES.get(stored, "mean")


class LanePlan:
    """Context sizes and the longest input of one pooling."""

    def __init__(self, model: Model, options: LoadOptions, pooling: str) -> None:
        self.pooling = pooling
        self.has_memory = model.memory_kind != "none"
        self.is_chunked = self.has_memory and model.is_causal
        self.averages = self.is_chunked and pooling == "mean"
        most = embedding_n_ctx(model, options)
        in_one = options.n_ubatch or _SINGLE_UBATCH_LIMIT
        self.limit = min(most, _CAUSAL_LIMIT if self.is_chunked else in_one)
        self.pack_tokens = _CHUNK_TOKENS if self.is_chunked else max(_PACK_TOKENS, self.limit)
        is_recurrent = model.memory_kind in ("recurrent", "hybrid", "hybrid_iswa")
        self.n_seq_max = min(_N_SEQ_RECURRENT if is_recurrent else _N_SEQ_MAX, self.pack_tokens)

    def context_arguments(self, options: LoadOptions) -> dict[str, Any]:
        """Keyword arguments of `ContextParams`."""
        threads = options.n_threads or 0
        return {
            "n_ctx": max(self.limit, self.pack_tokens),
            "n_batch": self.pack_tokens,
            "n_ubatch": self.pack_tokens,
            "n_seq_max": self.n_seq_max,
            "n_outputs_max": self.pack_tokens,
            "n_threads": threads,
            "n_threads_batch": threads,
            # Its threads are as many as the engine's: between two batches they must leave the cores to those.
            "poll": 0,
            "embeddings": True,
            "pooling": "none" if self.averages else self.pooling,
        }


class Lane:
    """A context for one pooling, and what waits for it."""

    def __init__(
        self, model: Model, options: LoadOptions, pooling: str, open_context: OpenContext, make_batch: MakeBatch
    ) -> None:
        self.plan = LanePlan(model, options, pooling)
        self.backlog = Backlog()
        self._context = open_context(self.plan.context_arguments(options))
        self._batch = make_batch(self.plan.pack_tokens)

    def close(self) -> None:
        self._context.close()

    def take(self) -> list[Item]:
        """What the next batch holds."""
        return self.backlog.take(self.plan.pack_tokens, self.plan.n_seq_max)

    def compute(self, items: Sequence[Item]) -> Sequence[Float32Array]:
        """One array for each item: float32 (n_out,), with pooling none (n_tokens, n_embd)."""
        try:
            if len(items) == 1 and len(items[0].tokens) > self.plan.pack_tokens:
                return [self._compute_long(items[0].tokens)]
            self._batch.clear()
            for seq_id, item in enumerate(items):
                self._batch.add_tokens(seq_id, item.tokens, 0, "all")
            self._run_batch()
            if not self._reads_tokens:
                return list(self._context.embeddings(np.arange(len(items), dtype=np.int32)))
            ends = np.cumsum([len(item.tokens) for item in items])
            parts = np.split(self._context.token_embeddings(), ends[:-1])
            return [part.mean(axis=0) for part in parts] if self.plan.averages else parts
        finally:
            if self.plan.has_memory:
                self._context.memory.clear()

    @property
    def _reads_tokens(self) -> bool:
        return self.plan.averages or self.plan.pooling == "none"

    def _compute_long(self, tokens: Int32Array) -> Float32Array:
        """One input in chunks. The last chunk's pooled output is the whole's; token rows are collected here."""
        n_chunk = self.plan.pack_tokens
        if self.plan.pooling == "cls":
            tokens = tokens[:n_chunk]
        parts: list[Any] = []
        for start in range(0, len(tokens), n_chunk):
            self._batch.clear()
            self._batch.add_tokens(0, tokens[start : start + n_chunk], start, "all")
            self._run_batch()
            if self.plan.averages:
                parts.append(self._context.token_embeddings().sum(axis=0, dtype=np.float64)[None, :])
            elif self._reads_tokens:
                parts.append(self._context.token_embeddings())
        if self.plan.averages:
            return np.asarray(np.concatenate(parts).sum(axis=0) / len(tokens), np.float32)
        if self._reads_tokens:
            return np.concatenate(parts)
        return np.asarray(self._context.embeddings(np.zeros(1, np.int32))[0])

    def _run_batch(self) -> None:
        if self.plan.has_memory:
            self._context.decode(self._batch)
        else:
            self._context.encode(self._batch)
