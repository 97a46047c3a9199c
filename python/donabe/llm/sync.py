"""`LLM`: a model in this process for blocking code. Safe from several threads; their requests share batches."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, overload

from typing_extensions import Self, Unpack

from donabe.errors import InvalidRequestError, ServerBusyError
from donabe.llm import requests
from donabe.llm.lifecycle import (
    BATCH_WINDOW,
    RETRY_S,
    LocalModel,
    OnPull,
    Texts,
    VectorPooling,
    classes_of,
    classify_request,
    embed_request,
    vectors_of,
)
from donabe.llm.options import ChatKwargs, GenerateKwargs, LoadKwargs
from donabe.llm.requests import Conversation, MessageLike, Prompt
from donabe.llm.results import Chunk, Completion, chunk_of, completion_of
from donabe.types import ChatRequest, GenerateRequest, ModelInfo, ModelSpec, RerankRequest, RunnerStatus

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from donabe.runner.local import ThreadStream

Request = GenerateRequest | ChatRequest


class LLM:
    """A language model loaded into this process.

    Args:
        model: A model name (`smollm2`, `pypi:<package>`, ...) or the path of a GGUF file.
        pull: Whether a model that is not here may be fetched.
        on_pull: Called with the progress of fetching it.
        **load: Fields of `donabe.types.LoadOptions`.

    Raises:
        TypeError: An unknown option.
        ModelNotFoundError, ModelFileError, LoadError: There is no such model, or it can't be loaded.

    Several prompts given in one call, or by several threads, run at the same time. Use as a context manager or call
    `close()`; every method raises ClosedError after that.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        pull: bool = True,
        on_pull: OnPull | None = None,
        **load: Unpack[LoadKwargs],
    ) -> None:
        self._model = LocalModel.load(model, load, pull=pull, on_pull=on_pull)

    @classmethod
    def from_loaded(cls, model: LocalModel) -> Self:
        """Wrap a model that is loaded already."""
        self = cls.__new__(cls)
        self._model = model
        return self

    # --- text --------------------------------------------------------------------------------------------------------

    @overload
    def generate(
        self, prompt: str | Sequence[int], *, stream: Literal[False] = ..., **options: Unpack[GenerateKwargs]
    ) -> Completion: ...
    @overload
    def generate(
        self, prompt: list[str] | list[list[int]], *, stream: Literal[False] = ..., **options: Unpack[GenerateKwargs]
    ) -> list[Completion]: ...
    @overload
    def generate(
        self, prompt: str | Sequence[int], *, stream: Literal[True], **options: Unpack[GenerateKwargs]
    ) -> Iterator[Chunk]: ...
    def generate(
        self, prompt: Prompt | Sequence[Prompt], *, stream: bool = False, **options: Unpack[GenerateKwargs]
    ) -> Completion | list[Completion] | Iterator[Chunk]:
        """Continue a prompt as it is, without a chat template.

        Args:
            prompt: Text or token ids; or a list of such prompts, which run at the same time.
            stream: Return an iterator of chunks, for one prompt. Leaving it early stops the work.
            **options: See `GenerateKwargs`.

        Returns:
            A Completion, a list of them in the order of the prompts, or the iterator.
        """
        prompts, is_batch = requests.split_prompts(prompt)
        made = [requests.generate_request(self._model.spec, item, options) for item in prompts]
        return self._answer(made, is_batch, stream)

    @overload
    def chat(
        self, messages: str | Sequence[MessageLike], *, stream: Literal[False] = ..., **options: Unpack[ChatKwargs]
    ) -> Completion: ...
    @overload
    def chat(
        self,
        messages: list[list[MessageLike]] | list[str],
        *,
        stream: Literal[False] = ...,
        **options: Unpack[ChatKwargs],
    ) -> list[Completion]: ...
    @overload
    def chat(
        self, messages: str | Sequence[MessageLike], *, stream: Literal[True], **options: Unpack[ChatKwargs]
    ) -> Iterator[Chunk]: ...
    def chat(
        self, messages: Conversation | Sequence[Conversation], *, stream: bool = False, **options: Unpack[ChatKwargs]
    ) -> Completion | list[Completion] | Iterator[Chunk]:
        """Answer a conversation with the model's chat template.

        Args:
            messages: Dicts with `role` and `content` (or `Message`s), or text for a single question; or a list of such
                conversations, which run at the same time.
            stream: As for `generate`.
            **options: See `ChatKwargs`.
        """
        conversations, is_batch = requests.split_conversations(messages)
        made = [requests.chat_request(self._model.spec, item, options) for item in conversations]
        return self._answer(made, is_batch, stream)

    def _answer(
        self, made: Sequence[Request], is_batch: bool, stream: bool
    ) -> Completion | list[Completion] | Iterator[Chunk]:
        begin = self._model.runner.open_stream
        if stream:
            if is_batch:
                raise InvalidRequestError("stream=True takes one prompt, not a list", field="stream")
            return _chunks(begin(made[0]))
        completions = _run_all([requests.unstreamed(request) for request in made], begin)
        return completions if is_batch else completions[0]

    # --- vectors and scores ------------------------------------------------------------------------------------------

    @overload
    def embed(
        self,
        texts: Texts,
        *,
        dimensions: int | None = ...,
        truncate: bool = ...,
        normalize: bool = ...,
        pooling: VectorPooling | None = ...,
    ) -> npt.NDArray[np.float32]: ...
    @overload
    def embed(
        self,
        texts: Texts,
        *,
        dimensions: int | None = ...,
        truncate: bool = ...,
        normalize: bool = ...,
        pooling: Literal["none"],
    ) -> list[npt.NDArray[np.float32]]: ...
    def embed(
        self,
        texts: Texts,
        *,
        dimensions: int | None = None,
        truncate: bool = True,
        normalize: bool = True,
        pooling: Literal["none"] | VectorPooling | None = None,
    ) -> npt.NDArray[np.float32] | list[npt.NDArray[np.float32]]:
        """Embed one text or several.

        Args:
            dimensions: Keep only the first so many numbers of each vector.
            truncate: Cut texts that are too long, instead of raising ContextLengthError.
            normalize: Scale every vector to length 1.
            pooling: How the rows of a text's tokens become its vector, instead of as the model was loaded: their
                `mean`, that of the first (`cls`) or the `last` token; `none` leaves them apart.

        Returns:
            float32 (n_texts, n_embd); one row for a single text. With pooling `none` a list of (n_tokens, n_embd), also
            for a single text.
        """
        request = embed_request(texts, dimensions=dimensions, truncate=truncate, normalize=normalize, pooling=pooling)
        return vectors_of(self._model.runner.call_embed(request).result())

    def rerank(self, query: str, documents: Sequence[str]) -> list[float]:
        """Relevance of each document for the query, in the documents' order. Needs a reranking model."""
        request = RerankRequest(query=query, documents=tuple(documents))
        return list(self._model.runner.call_rerank(request).result().scores)

    def classify(self, texts: Texts, *, truncate: bool = False) -> list[dict[str, float]]:
        """Sort one text or several into the classes of a classifier.

        Args:
            truncate: Cut texts that are too long, instead of raising ContextLengthError.

        Returns:
            For each text its labels with their probabilities, the likeliest first. Several labels add up to 1.
        """
        return classes_of(self._model.runner.call_classify(classify_request(texts, truncate=truncate)).result())

    # --- tokens ------------------------------------------------------------------------------------------------------

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of a text.

        Args:
            add_special: Add the beginning and end tokens this model wants.
            parse_special: Read control tokens in the text (`<|im_start|>`) as such.
        """
        runner = self._model.runner
        return runner.call_tokenize(text, add_special=add_special, parse_special=parse_special).result()

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Text of token ids; control tokens are written out."""
        return self._model.runner.call_detokenize(list(tokens)).result()

    # --- the model ---------------------------------------------------------------------------------------------------

    @property
    def info(self) -> ModelInfo:
        """What is known of the loaded model."""
        return self._model.info

    @property
    def spec(self) -> ModelSpec:
        """The resolved model: files, template, stored parameters."""
        return self._model.spec

    def status(self) -> RunnerStatus:
        """Counters and cache use of the engine, now."""
        return self._model.status()

    def close(self) -> None:
        """Free the model; idempotent. Calls that are running in other threads end with RunnerError."""
        self._model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _chunks(stream: ThreadStream) -> Iterator[Chunk]:
    with stream:
        for event in stream:
            yield chunk_of(event)


def _run_all(made: Sequence[Request], begin: Callable[[Request], ThreadStream]) -> list[Completion]:
    """Run requests together, at most BATCH_WINDOW at once, and return their completions in order.

    When one fails the others are stopped and its error is raised.
    """
    waiting = deque(made)
    running: deque[tuple[Request, ThreadStream]] = deque()
    completions: list[Completion] = []
    try:
        while waiting or running:
            while waiting and len(running) < BATCH_WINDOW:
                request = waiting.popleft()
                running.append((request, begin(request)))
            request, stream = running[0]
            try:
                completions.append(completion_of(stream))
                running.popleft()
            except ServerBusyError:  # other callers filled the waiting queue
                time.sleep(RETRY_S)
                running[0] = (request, begin(request))
    finally:
        for _, stream in running:
            stream.close()
    return completions
