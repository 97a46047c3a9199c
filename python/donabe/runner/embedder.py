"""Embeddings and rerank scores: an own context on the model, computed by an own thread, made on first use.

The thread is the only one inside that context. Calls that wait at the same time are packed together; equal inputs are
computed once; a small call does not wait for a large one to finish. Results don't depend on what they were packed with.

| model | context | one batch | long inputs |
|---|---|---|---|
| no memory (BERT and kin), or not causal | native pooling | all of it in one ubatch | limit n_ubatch |
| causal, pooling last or rank | native pooling | any | in chunks, up to n_ctx |
| causal, pooling mean | none: averaged here | any | in chunks, up to n_ctx |
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import numpy as np

from donabe.errors import CapabilityError, DonabeError, InvalidRequestError, RunnerError, UnsupportedError
from donabe.runner import embedding_inputs as ei
from donabe.types import EmbedRequest, EmbedResult, LoadOptions, RerankRequest, RerankResult

if TYPE_CHECKING:
    from donabe._core import Batch, Context, Float32Array, Int32Array, Model

logger = logging.getLogger("donabe.runner")

OpenContext = Callable[[dict[str, Any]], "Context"]  # keyword arguments of ContextParams

_PACK_TOKENS = 512  # one batch: beyond it the full attention of packed inputs costs more than it saves
_N_SEQ_MAX = 64
_N_SEQ_RECURRENT = 8  # recurrent state is reserved for every sequence
_CHUNK_TOKENS = 512
_SINGLE_UBATCH_LIMIT = 2048  # attention memory grows with its square; LoadOptions.n_ubatch raises it
_CAUSAL_LIMIT = 8192
_IN_GRAPH_SOFTMAX = ("qwen3", "qwen3vl")  # rerankers whose graph already turns logits into probabilities


def embedding_n_ctx(model: Model, options: LoadOptions) -> int:
    """Tokens of the longest input that the options and the model allow."""
    return min(options.n_ctx_per_request or options.n_ctx or model.n_ctx_train, model.n_ctx_train)


class EmbedderPlan:
    """How this model embeds: pooling, context sizes, the longest input."""

    def __init__(self, model: Model, options: LoadOptions) -> None:
        stored = model.meta().get(f"{model.architecture}.pooling_type", "")
        self.pooling = options.pooling or _POOLING_NAMES.get(stored, "mean")
        if self.pooling not in ("mean", "cls", "last", "rank"):
            raise UnsupportedError(f"pooling `{self.pooling}` gives no single vector", hint="use mean, cls or last")
        self.has_memory = model.memory_kind != "none"
        self.is_chunked = self.has_memory and model.is_causal
        if self.is_chunked and self.pooling == "cls":
            raise UnsupportedError("pooling cls needs a model that sees the whole input at once", hint="use last")
        self.averages = self.is_chunked and self.pooling == "mean"
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
            "embeddings": True,
            "pooling": "none" if self.averages else self.pooling,
        }


_POOLING_NAMES = {"1": "mean", "2": "cls", "3": "last", "4": "rank"}  # 0 and -1 leave the choice to us


class Embedder:
    """Embeds and reranks on one model. Methods may be called from any thread and return at once.

    Args:
        open_context: Makes a context on the model.
        make_batch: Makes a batch of this capacity.
    """

    def __init__(
        self, model: Model, options: LoadOptions, open_context: OpenContext, make_batch: Callable[[int], Batch]
    ) -> None:
        self._model = model
        self._options = options
        self._open_context = open_context
        self._make_batch = make_batch
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._backlog = ei.Backlog()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._end: DonabeError | None = None
        # owned by the thread
        self._plan: EmbedderPlan | None = None
        self._context: Context | None = None
        self._batch: Batch | None = None

    def embed(self, request: EmbedRequest) -> Future[EmbedResult]:
        """The embeddings of all inputs. Cancelling the future drops what is not computed yet."""
        future: Future[EmbedResult] = Future()
        self._enqueue(future, lambda: self._begin_embed(request, future))
        return future

    def rerank(self, request: RerankRequest) -> Future[RerankResult]:
        future: Future[RerankResult] = Future()
        self._enqueue(future, lambda: self._begin_rerank(request, future))
        return future

    def stop(self, error: DonabeError) -> None:
        """Fail what is waiting, free the context, join. Idempotent."""
        with self._lock:
            self._end = error
            thread = self._thread
        if thread is not None:
            self._queue.put(None)
            thread.join()

    # --- the thread --------------------------------------------------------------------------------------------------

    def _enqueue(self, future: Future[Any], begin: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                if not future.cancelled():
                    begin()
            except Exception as error:  # the caller's future is where it is reported
                _fail(future, error)

        with self._lock:
            if self._end is not None:
                _fail(future, self._end)
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="donabe-embed", daemon=True)
                self._thread.start()
            self._queue.put(guarded)

    def _run(self) -> None:
        while True:
            try:
                begin = self._queue.get(block=not self._backlog)
            except queue.Empty:
                self._compute_next()
                continue
            if begin is None:
                break
            begin()
        self._fail_waiting(self._end or RunnerError("the embedder was stopped"))
        if self._context is not None:
            self._context.close()

    def _fail_waiting(self, error: BaseException) -> None:
        for job in self._backlog.clear():
            _fail(job.future, error)

    # --- requests ----------------------------------------------------------------------------------------------------

    def _begin_embed(self, request: EmbedRequest, future: Future[EmbedResult]) -> None:
        started = time.monotonic()
        plan = self._ready_plan()
        if plan.pooling == "rank":
            raise CapabilityError("this model ranks documents and does not embed", capability="embedding")
        n_embd = self._model.n_embd_out
        if not 0 <= request.dimensions <= n_embd:
            raise InvalidRequestError(
                f"dimensions must be between 1 and {n_embd}, not {request.dimensions}", field="dimensions"
            )
        tokens, truncated = self._embed_tokens(request, plan)
        n_prompt_tokens = sum(map(len, tokens))

        def finish(rows: Float32Array) -> EmbedResult:
            rows = rows[:, : request.dimensions or n_embd]
            if request.normalize:
                rows = ei.normalized(rows)
            return EmbedResult(
                n_rows=rows.shape[0],
                n_embd=rows.shape[1],
                data=np.ascontiguousarray(rows, "<f4").tobytes(),
                n_prompt_tokens=n_prompt_tokens,
                truncated=truncated,
                total_s=time.monotonic() - started,
            )

        self._add_job(tokens, n_embd, future, finish)

    def _embed_tokens(self, request: EmbedRequest, plan: EmbedderPlan) -> tuple[list[Int32Array], tuple[int, ...]]:
        vocab = self._model.vocab
        tokens: list[Int32Array] = []
        truncated: list[int] = []
        for index, given in enumerate(request.inputs):
            if isinstance(given, str):
                array = vocab.tokenize(given.encode("utf-8", "replace"), add_special=True, parse_special=True)
            else:
                array = _checked_tokens(given, vocab.n_tokens, index)
            what = f"input[{index}]"
            kept, is_cut = ei.cut_to_limit(array, plan.limit, vocab, may_cut=request.truncate, what=what)
            tokens.append(kept)
            if is_cut:
                truncated.append(index)
        return tokens, tuple(truncated)

    def _begin_rerank(self, request: RerankRequest, future: Future[RerankResult]) -> None:
        started = time.monotonic()
        plan = self._ready_plan()
        if plan.pooling != "rank":
            raise CapabilityError("this model does not support rerank", capability="rerank")
        in_graph = self._model.architecture in _IN_GRAPH_SOFTMAX
        if self._model.n_cls_out > 1 and not in_graph:  # none of its outputs is the score
            raise CapabilityError(
                f"this model sorts texts into {self._model.n_cls_out} classes and does not rank", capability="rerank"
            )
        tokens = ei.rerank_tokens(self._model, request.query, request.documents)
        for index, pair in enumerate(tokens):
            ei.cut_to_limit(pair, plan.limit, self._model.vocab, may_cut=False, what=f"query with documents[{index}]")

        def finish(rows: Float32Array) -> RerankResult:
            scores = rows[:, 0] if in_graph else ei.sigmoid(rows[:, 0])
            return RerankResult(
                scores=tuple(scores.tolist()),
                n_prompt_tokens=sum(map(len, tokens)),
                total_s=time.monotonic() - started,
            )

        self._add_job(tokens, max(1, self._model.n_cls_out), future, finish)

    def _add_job(
        self, tokens: list[Int32Array], n_out: int, future: Future[Any], finish: Callable[[Float32Array], Any]
    ) -> None:
        rows = np.zeros((len(tokens), n_out), np.float32)
        if not tokens:
            _resolve(future, finish(rows))
            return
        self._backlog.add(ei.Job(future=future, tokens=tokens, rows=rows, n_missing=len(tokens), finish=finish))

    # --- computing ---------------------------------------------------------------------------------------------------

    def _ready_plan(self) -> EmbedderPlan:
        if self._plan is None:
            plan = EmbedderPlan(self._model, self._options)
            self._context = self._open_context(plan.context_arguments(self._options))
            self._batch = self._make_batch(plan.pack_tokens)
            self._plan = plan
        return self._plan

    def _compute_next(self) -> None:
        assert self._plan is not None  # a backlog exists only after _ready_plan
        items = self._backlog.take(self._plan.pack_tokens, self._plan.n_seq_max)
        if not items:
            return
        try:
            vectors = self._compute(items, self._plan)
        except Exception as error:  # one bad batch fails its own jobs
            logger.exception("embedding a batch failed")
            for item in items:
                for job, _ in item.wanted:
                    _fail(job.future, error)
            return
        for item, vector in zip(items, vectors, strict=True):
            for job, row in item.wanted:
                job.rows[row] = vector
                job.n_missing -= 1
                if job.n_missing == 0 and not job.future.done():
                    _resolve(job.future, job.finish(job.rows))

    def _compute(self, items: list[ei.Item], plan: EmbedderPlan) -> Float32Array:
        """float32 (len(items), n_out)."""
        assert self._context is not None and self._batch is not None
        try:
            if len(items) == 1 and len(items[0].tokens) > plan.pack_tokens:
                return self._compute_long(items[0].tokens, plan)
            self._batch.clear()
            for seq_id, item in enumerate(items):
                self._batch.add_tokens(seq_id, item.tokens, 0, "all")
            self._run_batch(plan)
            if not plan.averages:
                return self._context.embeddings(np.arange(len(items), dtype=np.int32))
            rows = self._context.token_embeddings()
            ends = np.cumsum([len(item.tokens) for item in items])
            return np.stack([part.mean(axis=0) for part in np.split(rows, ends[:-1])])
        finally:
            if plan.has_memory:
                self._context.memory.clear()

    def _compute_long(self, tokens: Int32Array, plan: EmbedderPlan) -> Float32Array:
        """One input in chunks; the last chunk's pooled output is the whole's, an average is summed up here."""
        assert self._context is not None and self._batch is not None
        total = np.zeros(self._model.n_embd_out, np.float64)
        for start in range(0, len(tokens), plan.pack_tokens):
            self._batch.clear()
            self._batch.add_tokens(0, tokens[start : start + plan.pack_tokens], start, "all")
            self._run_batch(plan)
            if plan.averages:
                total += self._context.token_embeddings().sum(axis=0, dtype=np.float64)
        if plan.averages:
            return (total / len(tokens)).astype(np.float32)[None, :]
        return self._context.embeddings(np.zeros(1, np.int32))

    def _run_batch(self, plan: EmbedderPlan) -> None:
        assert self._context is not None and self._batch is not None
        if plan.has_memory:
            self._context.decode(self._batch)
        else:
            self._context.encode(self._batch)


def _checked_tokens(tokens: tuple[int, ...], n_vocab: int, index: int) -> Int32Array:
    for token in tokens:
        if not 0 <= token < n_vocab:
            raise InvalidRequestError(
                f"input[{index}] has token {token}, but the model has tokens 0 to {n_vocab - 1}", field="input"
            )
    return np.array(tokens, np.int32)


def _fail(future: Future[Any], error: BaseException) -> None:
    if not future.done() and future.set_running_or_notify_cancel():
        future.set_exception(error)


def _resolve(future: Future[Any], value: Any) -> None:
    if not future.done() and future.set_running_or_notify_cancel():
        future.set_result(value)
