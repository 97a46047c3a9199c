"""Inputs of an embedding context: tokens cut to the limit, deduplicated, packed into batches; pair prompts for rerank.

Pure policy over token arrays; `donabe.runner.embedder` runs the batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from donabe.errors import ContextLengthError, InvalidRequestError

if TYPE_CHECKING:
    from donabe._core import Float32Array, Int32Array, Model, Vocab


_NOTHING: Float32Array = np.zeros(0, np.float32)


@dataclass(eq=False)
class Job:
    """One embed, rerank or classify call: an output for every input.

    Attributes:
        tokens: int32 arrays, one an input, within the limit.
        n_missing: Outputs not computed yet.
        finish: Makes the future's result of all outputs.
        outputs: float32 arrays, one an input once it is computed.
    """

    future: Future[Any]
    tokens: list[Int32Array]
    n_missing: int
    finish: Callable[[Sequence[Float32Array]], Any]
    outputs: list[Float32Array] = field(init=False)

    def __post_init__(self) -> None:
        self.outputs = [_NOTHING] * len(self.tokens)


@dataclass(eq=False)
class Item:
    """A distinct input and the places that wait for its output."""

    tokens: Int32Array
    wanted: list[tuple[Job, int]] = field(default_factory=list)

    @property
    def is_wanted(self) -> bool:
        return any(not job.future.done() for job, _ in self.wanted)


class Backlog:
    """What is still to compute, over all jobs. Equal inputs are computed once."""

    def __init__(self) -> None:
        self._items: dict[bytes, Item] = {}

    def __bool__(self) -> bool:
        return bool(self._items)

    def add(self, job: Job) -> None:
        for row, tokens in enumerate(job.tokens):
            item = self._items.setdefault(tokens.tobytes(), Item(tokens))
            item.wanted.append((job, row))

    def take(self, n_tokens: int, n_items: int) -> list[Item]:
        """Items for one batch, removed from the backlog: jobs with least left first, short inputs first.

        At most n_items, together at most n_tokens; an input that is longer by itself comes alone.
        """
        for key in [key for key, item in self._items.items() if not item.is_wanted]:
            del self._items[key]
        taken: dict[bytes, Item] = {}
        n_free = n_tokens
        for key, item in sorted(self._items.items(), key=_urgency):
            if taken and len(item.tokens) > n_free:
                break
            taken[key] = item
            n_free -= len(item.tokens)
            if len(taken) == n_items or n_free <= 0:
                break
        items = list(taken.values())
        for key in taken:  # last: where memory runs out before, nothing is lost
            del self._items[key]
        return items

    def clear(self) -> list[Job]:
        """Forget everything; returns the jobs that were waiting."""
        jobs = {id(job): job for item in self._items.values() for job, _ in item.wanted}
        self._items.clear()
        return list(jobs.values())


def _urgency(entry: tuple[bytes, Item]) -> tuple[int, int]:
    item = entry[1]
    return min(job.n_missing for job, _ in item.wanted), len(item.tokens)


def cut_to_limit(tokens: Int32Array, limit: int, vocab: Vocab, *, may_cut: bool, what: str) -> tuple[Int32Array, bool]:
    """The tokens, at most `limit` of them. A closing token that the tokenizer adds (SEP, EOS) is kept at the end.

    Args:
        what: How errors call this input.

    Returns:
        The tokens and whether they were cut.

    Raises:
        ContextLengthError: They are too many and `may_cut` is False.
        InvalidRequestError: There are none.
    """
    if not len(tokens):
        raise InvalidRequestError(f"{what} is empty", field="input", hint="send some text")
    if len(tokens) <= limit:
        return tokens, False
    if not may_cut:
        raise ContextLengthError(
            f"{what} has {len(tokens)} tokens, more than the {limit} this model embeds at once",
            n_prompt_tokens=len(tokens),
            n_ctx=limit,
            hint="shorten it, or allow truncation",
        )
    last = int(tokens[-1])
    if limit > 1 and last in (vocab.eos, vocab.sep):
        return np.concatenate([tokens[: limit - 1], tokens[-1:]]), True
    return tokens[:limit], True


def rerank_tokens(model: Model, query: str, documents: Sequence[str]) -> list[Int32Array]:
    """One token array for each (query, document) pair, in the form the model was trained on.

    That is its own `rerank` template, else `BOS query EOS SEP document EOS` with the tokens the vocabulary has.
    """
    vocab = model.vocab
    template = model.chat_template("rerank")
    if template is not None:
        # Split first: a query that contains "{document}" must not be filled in.
        before, _, after = (part.replace("{query}", query) for part in template.partition("{document}"))
        prompts = [before + text + after for text in documents]
        return vocab.tokenize_batch(prompts, add_special=False, parse_special=True)
    eos = vocab.eos if vocab.eos >= 0 else vocab.sep
    closing = [eos] if vocab.adds_eos and eos >= 0 else []
    middle = [*closing, vocab.sep] if vocab.sep >= 0 else closing
    opening = [vocab.bos] if vocab.adds_bos and vocab.bos >= 0 else []
    question = vocab.tokenize(query, add_special=False)
    parts = vocab.tokenize_batch(list(documents), add_special=False)
    return [_joined(opening, question, middle, part, closing) for part in parts]


def _joined(*parts: Sequence[int] | Int32Array) -> Int32Array:
    return np.concatenate([np.asarray(part, np.int32) for part in parts])


def normalized(rows: Float32Array) -> Float32Array:
    """Rows (n, d) scaled to length 1; zero rows stay zero."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0))


def sigmoid(scores: Float32Array) -> Float32Array:
    """Logits to 0..1 without overflow."""
    upper = 1 / (1 + np.exp(-np.abs(scores)))
    return np.asarray(np.where(scores >= 0, upper, 1 - upper), np.float32)


def class_scores(logits: Float32Array) -> Float32Array:
    """Logits (n, n_labels) to probabilities: of a single label by itself, of several together 1."""
    if logits.shape[1] == 1:
        return sigmoid(logits)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


def label_names(model: Model) -> tuple[str, ...]:
    """One name for each output of a classifier: the file's, where it names all of them and differently."""
    n = max(1, model.n_cls_out)
    named = tuple(model.class_labels())
    return named if len(named) == len(set(named)) == n else tuple(f"LABEL_{i}" for i in range(n))
