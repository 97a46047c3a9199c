"""`AsyncLLM`: a model in this process for asyncio code. May be used from several event loops."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Literal, overload

from typing_extensions import Self, Unpack

from donabe.errors import ClosedError, InvalidRequestError, ServerBusyError
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
from donabe.llm.options import ChatKwargs, GenerateKwargs, LoadKwargs, load_options
from donabe.llm.requests import Conversation, MessageLike, Prompt
from donabe.llm.results import Chunk, Completion, chunk_of, completion_of
from donabe.types import ChatRequest, Event, GenerateRequest, ModelInfo, ModelSpec, RerankRequest, RunnerStatus

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Request = GenerateRequest | ChatRequest
Answer = Completion | list[Completion] | AsyncIterator[Chunk]


class AsyncLLM:
    """A language model loaded into this process, for coroutines. Arguments and errors are those of `LLM`.

    The model is loaded in a worker thread by the first call, by `load()` or by `async with`. Cancelling a task, or
    leaving a stream early, stops the work at the next step.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        pull: bool = True,
        on_pull: OnPull | None = None,
        **load: Unpack[LoadKwargs],
    ) -> None:
        load_options({}, load)  # a bad option is an error at once
        self._load_model: Callable[[], LocalModel] = partial(LocalModel.load, model, load, pull=pull, on_pull=on_pull)
        self._lock = threading.Lock()
        self._loading: Future[LocalModel] | None = None
        self._closed = False

    @classmethod
    def from_loaded(cls, model: LocalModel) -> Self:
        """Wrap a model that is loaded already."""
        self = cls.__new__(cls)
        self._lock = threading.Lock()
        self._loading = Future()
        self._loading.set_result(model)
        self._closed = False
        return self

    async def load(self) -> Self:
        """Wait until the model is loaded; returns this object."""
        await self._model()
        return self

    async def _model(self) -> LocalModel:
        with self._lock:
            if self._closed:
                raise ClosedError("this LLM is closed", hint="create a new one")
            if self._loading is None:
                self._loading = Future()
                threading.Thread(target=self._run_load, args=(self._loading,), name="donabe-load", daemon=True).start()
            loading = self._loading
        return await asyncio.shield(asyncio.wrap_future(loading))

    def _run_load(self, loading: Future[LocalModel]) -> None:
        try:
            loading.set_result(self._load_model())
        except BaseException as error:  # whoever waits for the model gets it
            loading.set_exception(error)

    # --- text --------------------------------------------------------------------------------------------------------

    @overload
    async def generate(
        self, prompt: str | Sequence[int], *, stream: Literal[False] = ..., **options: Unpack[GenerateKwargs]
    ) -> Completion: ...
    @overload
    async def generate(
        self, prompt: list[str] | list[list[int]], *, stream: Literal[False] = ..., **options: Unpack[GenerateKwargs]
    ) -> list[Completion]: ...
    @overload
    async def generate(
        self, prompt: str | Sequence[int], *, stream: Literal[True], **options: Unpack[GenerateKwargs]
    ) -> AsyncIterator[Chunk]: ...
    async def generate(
        self, prompt: Prompt | Sequence[Prompt], *, stream: bool = False, **options: Unpack[GenerateKwargs]
    ) -> Answer:
        """Continue a prompt, or each of a list of prompts at the same time; see `LLM.generate`."""
        model = await self._model()
        prompts, is_batch = requests.split_prompts(prompt)
        made = [requests.generate_request(model.spec, item, options) for item in prompts]
        return await self._answer(model, made, is_batch, stream)

    @overload
    async def chat(
        self, messages: str | Sequence[MessageLike], *, stream: Literal[False] = ..., **options: Unpack[ChatKwargs]
    ) -> Completion: ...
    @overload
    async def chat(
        self,
        messages: list[list[MessageLike]] | list[str],
        *,
        stream: Literal[False] = ...,
        **options: Unpack[ChatKwargs],
    ) -> list[Completion]: ...
    @overload
    async def chat(
        self, messages: str | Sequence[MessageLike], *, stream: Literal[True], **options: Unpack[ChatKwargs]
    ) -> AsyncIterator[Chunk]: ...
    async def chat(
        self, messages: Conversation | Sequence[Conversation], *, stream: bool = False, **options: Unpack[ChatKwargs]
    ) -> Answer:
        """Answer a conversation, or each of a list of them at the same time; see `LLM.chat`."""
        model = await self._model()
        conversations, is_batch = requests.split_conversations(messages)
        made = [requests.chat_request(model.spec, item, options) for item in conversations]
        return await self._answer(model, made, is_batch, stream)

    async def _answer(self, model: LocalModel, made: Sequence[Request], is_batch: bool, stream: bool) -> Answer:
        if stream:
            if is_batch:
                raise InvalidRequestError("stream=True takes one prompt, not a list", field="stream")
            return _chunks(model, made[0])
        window = asyncio.Semaphore(BATCH_WINDOW)

        async def one(request: Request) -> Completion:
            async with window:
                return await _complete(model, request)

        tasks = [asyncio.ensure_future(one(requests.unstreamed(request))) for request in made]
        try:
            completions = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return completions if is_batch else completions[0]

    # --- vectors, scores, tokens -------------------------------------------------------------------------------------

    @overload
    async def embed(
        self,
        texts: Texts,
        *,
        dimensions: int | None = ...,
        truncate: bool = ...,
        normalize: bool = ...,
        pooling: VectorPooling | None = ...,
    ) -> npt.NDArray[np.float32]: ...
    @overload
    async def embed(
        self,
        texts: Texts,
        *,
        dimensions: int | None = ...,
        truncate: bool = ...,
        normalize: bool = ...,
        pooling: Literal["none"],
    ) -> list[npt.NDArray[np.float32]]: ...
    async def embed(
        self,
        texts: Texts,
        *,
        dimensions: int | None = None,
        truncate: bool = True,
        normalize: bool = True,
        pooling: Literal["none"] | VectorPooling | None = None,
    ) -> npt.NDArray[np.float32] | list[npt.NDArray[np.float32]]:
        """float32 (n_texts, n_embd), with pooling none a list of (n_tokens, n_embd); see `LLM.embed`."""
        request = embed_request(texts, dimensions=dimensions, truncate=truncate, normalize=normalize, pooling=pooling)
        return vectors_of(await (await self._model()).runner.embed(request))

    async def rerank(self, query: str, documents: Sequence[str]) -> list[float]:
        """Relevance of each document; see `LLM.rerank`."""
        request = RerankRequest(query=query, documents=tuple(documents))
        return list((await (await self._model()).runner.rerank(request)).scores)

    async def classify(self, texts: Texts, *, truncate: bool = False) -> list[dict[str, float]]:
        """Labels with their probabilities for each text; see `LLM.classify`."""
        return classes_of(await (await self._model()).runner.classify(classify_request(texts, truncate=truncate)))

    async def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of a text; see `LLM.tokenize`."""
        runner = (await self._model()).runner
        return await runner.tokenize(text, add_special=add_special, parse_special=parse_special)

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """Text of token ids."""
        return await (await self._model()).runner.detokenize(list(tokens))

    # --- the model ---------------------------------------------------------------------------------------------------

    async def info(self) -> ModelInfo:
        """What is known of the loaded model."""
        return (await self._model()).info

    async def spec(self) -> ModelSpec:
        """The resolved model: files, template, stored parameters."""
        return (await self._model()).spec

    async def status(self) -> RunnerStatus:
        """Counters and cache use of the engine, now."""
        return (await self._model()).status()

    async def close(self) -> None:
        """Free the model; idempotent. Running requests end with RunnerError; a load under way is waited for."""
        with self._lock:
            self._closed = True
            loading = self._loading
        if loading is not None:
            await asyncio.to_thread(_close_loaded, loading)

    async def __aenter__(self) -> Self:
        return await self.load()

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _close_loaded(loading: Future[LocalModel]) -> None:
    if loading.exception() is None:
        loading.result().close()


async def _complete(model: LocalModel, request: Request) -> Completion:
    while True:
        async with aclosing(_events(model, request)) as events:
            try:
                return completion_of([event async for event in events])
            except ServerBusyError:  # other callers filled the waiting queue
                await asyncio.sleep(RETRY_S)


async def _chunks(model: LocalModel, request: Request) -> AsyncGenerator[Chunk, None]:
    async with aclosing(_events(model, request)) as events:
        async for event in events:
            yield chunk_of(event)


def _events(model: LocalModel, request: Request) -> AsyncGenerator[Event, None]:
    runner = model.runner
    return runner.chat(request) if isinstance(request, ChatRequest) else runner.generate(request)
