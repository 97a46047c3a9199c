"""Embeddings, rerank scores and classes: own contexts on the model, computed by an own thread, made on first use.

The thread is the only one inside those contexts: one a pooling (`embedding_lane`), for the two that were used last.
Calls that wait at the same time are packed together; equal inputs are computed once; a small call does not wait for a
large one to finish, unless it must wait for room: for its context, or for rows of tokens. Results don't depend on what
they were packed with.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from donabe.errors import CapabilityError, DonabeError, InvalidRequestError, RunnerError
from donabe.runner import embedding_inputs as ei
from donabe.runner.embedding_lane import Lane, LanePlan, MakeBatch, OpenContext, own_pooling
from donabe.types import (
    ClassifyRequest,
    ClassifyResult,
    EmbedPooling,
    EmbedRequest,
    EmbedResult,
    LoadOptions,
    RerankRequest,
    RerankResult,
)

if TYPE_CHECKING:
    from donabe._core import Float32Array, Int32Array, Model

logger = logging.getLogger("donabe.runner")

_IN_GRAPH_SOFTMAX = ("qwen3", "qwen3vl")  # rerankers whose graph already turns logits into probabilities
_TOKEN_ROWS_BYTES = 128 << 20  # of all unfinished calls with pooling none, which have a row for every token
_N_LANES_MAX = 2  # contexts; plans count the one of the model's own pooling


class Embedder:
    """Embeds, reranks and classifies on one model. Methods may be called from any thread and return at once.

    Args:
        open_context: Makes a context on the model.
        make_batch: Makes a batch of this capacity.
    """

    def __init__(self, model: Model, options: LoadOptions, open_context: OpenContext, make_batch: MakeBatch) -> None:
        self._model = model
        self._options = options
        self._open_context = open_context
        self._make_batch = make_batch
        self._queue: queue.SimpleQueue[tuple[Future[Any], Callable[[], None]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._end: DonabeError | None = None
        # Owned by the thread:
        self._lanes: dict[str, Lane] = {}  # by pooling, the one that computed last at the end
        self._token_rows: list[tuple[Future[Any], int]] = []  # calls with pooling none, and their bytes

    def embed(self, request: EmbedRequest) -> Future[EmbedResult]:
        """The embeddings of all inputs. Cancelling the future drops what is not computed yet."""
        future: Future[EmbedResult] = Future()
        self._enqueue(future, lambda: self._begin_embed(request, future))
        return future

    def rerank(self, request: RerankRequest) -> Future[RerankResult]:
        future: Future[RerankResult] = Future()
        self._enqueue(future, lambda: self._begin_rerank(request, future))
        return future

    def classify(self, request: ClassifyRequest) -> Future[ClassifyResult]:
        future: Future[ClassifyResult] = Future()
        self._enqueue(future, lambda: self._begin_classify(request, future))
        return future

    def stop(self, error: DonabeError) -> None:
        """Fail what is waiting, free the contexts, join. Idempotent."""
        with self._lock:
            self._end = error
            thread = self._thread
        if thread is not None:
            self._queue.put(None)
            thread.join()

    # --- the thread --------------------------------------------------------------------------------------------------

    def _enqueue(self, future: Future[Any], begin: Callable[[], None]) -> None:
        with self._lock:
            if self._end is not None:
                _fail(future, self._end)
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="donabe-embed", daemon=True)
                self._thread.start()
            self._queue.put((future, begin))

    def _run(self) -> None:
        try:
            self._serve()
        except Exception as error:  # nobody would answer what waits, so later calls must not wait
            logger.exception("the embedder failed")
            with self._lock:
                self._end = self._end or RunnerError(f"the embedder failed: {error!r}")
        finally:
            self._close_down(self._end or RunnerError("the embedder was stopped"))

    def _serve(self) -> None:
        """Until it is stopped."""
        while True:
            try:
                call = self._queue.get(block=not self._has_backlog())
            except queue.Empty:
                self._compute_next()
                continue
            if call is None:
                return
            future, begin = call
            try:
                if not future.cancelled():
                    begin()
            except Exception as error:  # the caller's future is where it is reported
                _fail(future, error)

    def _close_down(self, error: DonabeError) -> None:
        while not self._queue.empty():
            call = self._queue.get()
            if call is not None:
                _fail(call[0], error)
        for lane in self._lanes.values():
            for job in lane.backlog.clear():
                _fail(job.future, error)
            lane.close()

    # --- requests ----------------------------------------------------------------------------------------------------

    def _begin_embed(self, request: EmbedRequest, future: Future[EmbedResult]) -> None:
        started = time.monotonic()
        pooling = self._pooling_of(request)
        n_embd = self._model.n_embd_out
        if not 0 <= request.dimensions <= n_embd:
            raise InvalidRequestError(
                f"dimensions must be between 1 and {n_embd}, not {request.dimensions}", field="dimensions"
            )
        lane = self._lane(pooling)
        tokens, truncated = self._tokens(request, lane.plan)
        n_prompt_tokens = sum(map(len, tokens))
        if pooling == "none":
            self._reserve_token_rows(future, n_prompt_tokens, n_embd)

        def finish(outputs: Sequence[Float32Array]) -> EmbedResult:
            rows = np.vstack(outputs) if outputs else np.zeros((0, n_embd), np.float32)
            rows = rows[:, : request.dimensions or n_embd]
            if request.normalize:
                rows = ei.normalized(rows)
            return EmbedResult(
                n_rows=rows.shape[0],
                n_embd=rows.shape[1],
                data=np.ascontiguousarray(rows, "<f4").tobytes(),
                n_prompt_tokens=n_prompt_tokens,
                n_rows_each=tuple(map(len, tokens)) if pooling == "none" else (),
                truncated=truncated,
                total_s=time.monotonic() - started,
            )

        self._add_job(lane, tokens, future, finish)

    def _pooling_of(self, request: EmbedRequest) -> str:
        own = own_pooling(self._model, self._options)
        pooling = request.pooling or own
        if pooling == "rank":
            raise CapabilityError(
                "this model ranks documents and does not embed",
                capability="embedding",
                hint="name another pooling to embed all the same",
            )
        if pooling not in get_args(EmbedPooling):
            known = ", ".join(name for name in get_args(EmbedPooling) if name)
            raise InvalidRequestError(f"pooling must be one of {known}, not {pooling!r}", field="pooling")
        return pooling

    def _tokens(
        self, request: EmbedRequest | ClassifyRequest, plan: LanePlan
    ) -> tuple[list[Int32Array], tuple[int, ...]]:
        """Each input's tokens within the limit, and which inputs were cut."""
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
        lane = self._rank_lane("this model does not support rerank", "rerank")
        if self._model.n_cls_out > 1 and not self._is_softmax_done:  # none of its outputs is the score
            raise CapabilityError(
                f"this model sorts texts into {self._model.n_cls_out} classes and does not rank",
                capability="rerank",
                hint="use classify",
            )
        tokens = ei.rerank_tokens(self._model, request.query, request.documents)
        for index, pair in enumerate(tokens):
            what = f"query with documents[{index}]"
            ei.cut_to_limit(pair, lane.plan.limit, self._model.vocab, may_cut=False, what=what)

        def finish(outputs: Sequence[Float32Array]) -> RerankResult:
            scores = np.array([output[0] for output in outputs], np.float32)
            if not self._is_softmax_done:
                scores = ei.sigmoid(scores)
            return RerankResult(
                scores=tuple(scores.tolist()),
                n_prompt_tokens=sum(map(len, tokens)),
                total_s=time.monotonic() - started,
            )

        self._add_job(lane, tokens, future, finish)

    def _begin_classify(self, request: ClassifyRequest, future: Future[ClassifyResult]) -> None:
        started = time.monotonic()
        lane = self._rank_lane("this model does not support classification", "classify")
        tokens, truncated = self._tokens(request, lane.plan)
        labels = ei.label_names(self._model)

        def finish(outputs: Sequence[Float32Array]) -> ClassifyResult:
            logits = np.stack(outputs) if outputs else np.zeros((0, len(labels)), np.float32)
            scores = logits if self._is_softmax_done else ei.class_scores(logits)
            return ClassifyResult(
                labels=labels,
                scores=tuple(map(tuple, scores.tolist())),
                n_prompt_tokens=sum(map(len, tokens)),
                truncated=truncated,
                total_s=time.monotonic() - started,
            )

        self._add_job(lane, tokens, future, finish)

    def _rank_lane(self, refusal: str, capability: str) -> Lane:
        if own_pooling(self._model, self._options) != "rank":
            raise CapabilityError(refusal, capability=capability)
        return self._lane("rank")

    @property
    def _is_softmax_done(self) -> bool:
        return self._model.architecture in _IN_GRAPH_SOFTMAX

    def _add_job(
        self,
        lane: Lane,
        tokens: list[Int32Array],
        future: Future[Any],
        finish: Callable[[Sequence[Float32Array]], Any],
    ) -> None:
        if not tokens:
            _resolve(future, finish([]))
            return
        lane.backlog.add(ei.Job(future=future, tokens=tokens, n_missing=len(tokens), finish=finish))

    # --- computing ---------------------------------------------------------------------------------------------------

    def _lane(self, pooling: str) -> Lane:
        lane = self._lanes.get(pooling)
        if lane is None:
            self._make_room_for_lane()
            lane = Lane(self._model, self._options, pooling, self._open_context, self._make_batch)
            self._lanes[pooling] = lane
        return lane

    def _make_room_for_lane(self) -> None:
        """Close the lane that computed longest ago; where all have work, the first to be done with it."""
        while len(self._lanes) >= _N_LANES_MAX:
            idle = next((name for name, lane in self._lanes.items() if not lane.backlog), None)
            if idle is not None:
                self._lanes.pop(idle).close()
            else:
                self._compute_for_room()

    def _reserve_token_rows(self, future: Future[Any], n_tokens: int, n_embd: int) -> None:
        """Compute until the rows of this call and of those before it fit into memory together."""
        n_bytes = n_tokens * n_embd * 4
        _check_token_rows(n_tokens, n_bytes)
        while True:
            self._token_rows = [(other, n) for other, n in self._token_rows if not other.done()]
            if n_bytes + sum(n for _, n in self._token_rows) <= _TOKEN_ROWS_BYTES:
                break
            self._compute_for_room()
        self._token_rows.append((future, n_bytes))

    def _compute_for_room(self) -> None:
        if self._end is not None:
            raise self._end
        self._compute_next()

    def _has_backlog(self) -> bool:
        return any(lane.backlog for lane in self._lanes.values())

    def _compute_next(self) -> None:
        pooling, lane = next((name, lane) for name, lane in self._lanes.items() if lane.backlog)
        self._lanes[pooling] = self._lanes.pop(pooling)  # the other poolings come first next time
        items = lane.take()
        if not items:
            return
        try:
            outputs = lane.compute(items)
        except Exception as error:  # one bad batch fails its own jobs
            logger.exception("embedding a batch failed")
            for item in items:
                for job, _ in item.wanted:
                    _fail(job.future, error)
            return
        for item, output in zip(items, outputs, strict=True):
            for job, row in item.wanted:
                job.outputs[row] = output
                job.n_missing -= 1
                if job.n_missing == 0:
                    _finish(job)


def _checked_tokens(tokens: tuple[int, ...], n_vocab: int, index: int) -> Int32Array:
    for token in tokens:
        if not 0 <= token < n_vocab:
            raise InvalidRequestError(
                f"input[{index}] has token {token}, but the model has tokens 0 to {n_vocab - 1}", field="input"
            )
    return np.array(tokens, np.int32)


def _check_token_rows(n_tokens: int, n_bytes: int) -> None:
    if n_bytes > _TOKEN_ROWS_BYTES:
        raise InvalidRequestError(
            f"the rows of {n_tokens} tokens take {n_bytes >> 20} MiB, more than the {_TOKEN_ROWS_BYTES >> 20} MiB "
            "of one answer",
            field="input",
            hint="send fewer or shorter inputs at once, or choose a pooling other than none",
        )


def _finish(job: ei.Job) -> None:
    if job.future.done():
        return
    try:
        result = job.finish(job.outputs)
    except Exception as error:  # too large for memory, say: this call's, and no other's
        logger.exception("making an answer of embeddings failed")
        _fail(job.future, error)
    else:
        _resolve(job.future, result)


def _fail(future: Future[Any], error: BaseException) -> None:
    if not future.done() and future.set_running_or_notify_cancel():
        future.set_exception(error)


def _resolve(future: Future[Any], value: Any) -> None:
    if not future.done() and future.set_running_or_notify_cancel():
        future.set_result(value)
