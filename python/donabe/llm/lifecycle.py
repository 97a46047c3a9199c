"""What `LLM` and `AsyncLLM` share: finding and loading the model, the closed state, results as arrays."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from donabe.errors import ClosedError, UnsupportedError
from donabe.llm.options import load_options
from donabe.llm.requests import token_ids
from donabe.types import (
    ClassifyRequest,
    ClassifyResult,
    EmbedPooling,
    EmbedRequest,
    EmbedResult,
    ModelInfo,
    ModelSpec,
    PullProgress,
    RunnerStatus,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from donabe.runner.local import LocalRunner

Texts = str | Sequence[str | Sequence[int]]  # one text, or several, each of them text or token ids
VectorPooling = Literal["mean", "cls", "last"]
OnPull = Callable[[PullProgress], None]

# Requests of one batch in flight at once: enough to fill the engine, few enough not to fill its waiting queue.
BATCH_WINDOW = 64
RETRY_S = 0.05


class LocalModel:
    """A loaded model in this process, and whether it may still be used."""

    def __init__(self, spec: ModelSpec, runner: LocalRunner) -> None:
        self.spec = spec
        self._runner = runner
        self._pid = os.getpid()
        self._closed = threading.Event()
        # Frees the native side when the last reference goes, and in any case before the interpreter's teardown.
        self._finalizer = weakref.finalize(self, runner.close_now)

    @classmethod
    def load(
        cls, model: str | os.PathLike[str], options: Mapping[str, Any], *, pull: bool, on_pull: OnPull | None
    ) -> LocalModel:
        """Resolve the name, fetch the model if needed and allowed, and load it. Blocks."""
        from donabe.runner.local import LocalRunner

        load_options({}, options)  # a bad option is an error before anything is downloaded
        from donabe.store.resolve import resolve_model

        spec = resolve_model(os.fspath(model), pull=pull, progress=on_pull)
        return cls(spec, LocalRunner.load(spec, load_options(spec.parameters, options)))

    @property
    def runner(self) -> LocalRunner:
        """The runner, for one call.

        Raises:
            ClosedError: After close().
            UnsupportedError: In a process forked from the one that loaded the model.
        """
        if self._closed.is_set():
            raise ClosedError("this LLM is closed", hint="create a new one")
        if os.getpid() != self._pid:
            raise UnsupportedError(
                "this LLM was created in another process", hint="create it after forking, or use the spawn start method"
            )
        return self._runner

    def close(self) -> None:
        """Idempotent. Running requests end with RunnerError."""
        self._closed.set()
        if os.getpid() == self._pid:
            self._finalizer()

    @property
    def info(self) -> ModelInfo:
        return self.runner.info

    def status(self) -> RunnerStatus:
        return self.runner.read_status()


def embed_request(
    texts: Texts, *, dimensions: int | None, truncate: bool, normalize: bool, pooling: EmbedPooling | None
) -> EmbedRequest:
    """The request for one text or several."""
    return EmbedRequest(
        inputs=_inputs_of(texts),
        truncate=truncate,
        normalize=normalize,
        dimensions=dimensions or 0,
        pooling=pooling or "",
    )


def classify_request(texts: Texts, *, truncate: bool) -> ClassifyRequest:
    """The request for one text or several."""
    return ClassifyRequest(inputs=_inputs_of(texts), truncate=truncate)


def _inputs_of(texts: Texts) -> tuple[str | tuple[int, ...], ...]:
    items = [texts] if isinstance(texts, str) else list(texts)
    return tuple(item if isinstance(item, str) else token_ids(item, f"input[{i}]") for i, item in enumerate(items))


def vectors_of(result: EmbedResult) -> npt.NDArray[np.float32] | list[npt.NDArray[np.float32]]:
    """Writable float32 (n_inputs, n_embd); with pooling none a list of (n_tokens, n_embd)."""
    import numpy as np

    rows = np.frombuffer(result.data, "<f4").reshape(result.n_rows, result.n_embd).astype(np.float32, copy=True)
    if not result.n_rows_each:
        return rows
    ends = np.cumsum(result.n_rows_each)[:-1]
    return [part.copy() for part in np.split(rows, ends)]


def classes_of(result: ClassifyResult) -> list[dict[str, float]]:
    """For each input its labels with their scores, the likeliest first."""
    named = (zip(result.labels, scores, strict=True) for scores in result.scores)
    return [dict(sorted(pairs, key=lambda pair: -pair[1])) for pairs in named]
