"""The in-process twin of `RunnerProcess`: the same core and the same behaviour, without the child.

`LocalRunner` may be used from several asyncio loops and from plain threads at once. Events reach a consumer through a
sink, called on the output thread; asyncio consumers are woken once for each loop and publication, not for each event.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future
from typing import Protocol, TypeVar

from donabe.errors import DonabeError
from donabe.runner.core import LoadedModel, RunnerCore
from donabe.runner.failures import failed_from, is_terminal
from donabe.runner.threads import EventItem
from donabe.types import (
    ChatRequest,
    ClassifyRequest,
    ClassifyResult,
    EmbedRequest,
    EmbedResult,
    Event,
    GenerateRequest,
    LoadOptions,
    ModelInfo,
    ModelSpec,
    RenderedPrompt,
    RerankRequest,
    RerankResult,
    RunnerStatus,
)

T = TypeVar("T")
ProgressCallback = Callable[[float], None]


class _Sink(Protocol):
    """Where the events of one request go."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop `put` must be called on, or None for any thread."""

    def put(self, event: Event) -> None: ...


class _LoopSink:
    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self.put = self._events.put_nowait
        self.get = self._events.get


class _ThreadSink:
    loop = None

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.put = self._events.put
        self.get = self._events.get


class LocalRunner:
    """A loaded model in this process. Create with `load` (blocking) or `start`."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._ids = itertools.count(1)
        self._sinks: dict[int, _Sink] = {}
        self._failure: BaseException | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._core = RunnerCore(loaded, self._deliver, self._engine_failed)

    @classmethod
    def load(cls, spec: ModelSpec, options: LoadOptions, *, on_progress: ProgressCallback | None = None) -> LocalRunner:
        """Load the model in this thread, smaller where memory is short and the options leave it open.

        Raises:
            LoadError, ModelFileError, InvalidRequestError: It can't be loaded like this.
        """
        from donabe.runner.fitting import load_fitting  # the native module is imported only here

        report = (lambda fraction, _stage: on_progress(fraction)) if on_progress is not None else None
        return cls(load_fitting(spec, options, report))

    @classmethod
    async def start(
        cls, spec: ModelSpec, options: LoadOptions, *, on_progress: ProgressCallback | None = None
    ) -> LocalRunner:
        """`load` in a worker thread."""
        return await asyncio.to_thread(cls.load, spec, options, on_progress=on_progress)

    # --- ModelRunner -------------------------------------------------------------------------------------------------

    @property
    def info(self) -> ModelInfo:
        return self._core.info

    @property
    def alive(self) -> bool:
        return not self._closed and self._failure is None

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        return self._stream(request)

    def chat(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        return self._stream(request)

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        return await asyncio.wrap_future(self._core.embed(request))

    async def rerank(self, request: RerankRequest) -> RerankResult:
        return await asyncio.wrap_future(self._core.rerank(request))

    async def classify(self, request: ClassifyRequest) -> ClassifyResult:
        return await asyncio.wrap_future(self._core.classify(request))

    async def render(self, request: ChatRequest) -> RenderedPrompt:
        return await asyncio.wrap_future(self._core.render(request))

    async def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        return await asyncio.wrap_future(
            self._core.tokenize(text, add_special=add_special, parse_special=parse_special)
        )

    async def detokenize(self, tokens: list[int]) -> str:
        return await asyncio.wrap_future(self._core.detokenize(tokens))

    async def pieces(self, tokens: list[int]) -> list[bytes]:
        return await asyncio.wrap_future(self._core.pieces(tokens))

    async def status(self) -> RunnerStatus:
        return self._core.status()

    async def close(self) -> None:
        await asyncio.to_thread(self.close_now)

    # --- for plain threads -------------------------------------------------------------------------------------------

    def open_stream(self, request: GenerateRequest | ChatRequest) -> ThreadStream:
        """Begin at once; the events are read by iterating in any one thread."""
        sink = _ThreadSink()
        id = self._begin(request, sink)
        return ThreadStream(sink.get, lambda: self._abandon(id))

    def call_embed(self, request: EmbedRequest) -> Future[EmbedResult]:
        return self._core.embed(request)

    def call_rerank(self, request: RerankRequest) -> Future[RerankResult]:
        return self._core.rerank(request)

    def call_classify(self, request: ClassifyRequest) -> Future[ClassifyResult]:
        return self._core.classify(request)

    def call_tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> Future[list[int]]:
        return self._core.tokenize(text, add_special=add_special, parse_special=parse_special)

    def call_detokenize(self, tokens: list[int]) -> Future[str]:
        return self._core.detokenize(tokens)

    def read_status(self) -> RunnerStatus:
        return self._core.status()

    def close_now(self) -> None:
        """Stop in this thread. Idempotent; waits for a close that is under way in another."""
        with self._lock:
            self._closed = True
            self._core.stop()

    # --- delivery ----------------------------------------------------------------------------------------------------

    async def _stream(self, request: GenerateRequest | ChatRequest) -> AsyncGenerator[Event, None]:
        sink = _LoopSink()
        id = self._begin(request, sink)
        try:
            while True:
                event = await sink.get()
                yield event
                if is_terminal(event):
                    return
        finally:
            self._abandon(id)

    def _begin(self, request: GenerateRequest | ChatRequest, sink: _Sink) -> int:
        id = next(self._ids)
        self._sinks[id] = sink
        try:
            self._core.start(id, request)
        except DonabeError as error:
            self._deliver([(id, failed_from(error))])
        return id

    def _abandon(self, id: int) -> None:
        """The consumer is gone: stop the request if it still runs."""
        if self._sinks.pop(id, None) is not None:
            self._core.cancel(id)

    def _deliver(self, items: list[EventItem]) -> None:
        """Called on the output thread."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Sink, Event]]] = {}
        for id, event in items:
            sink = self._sinks.get(id)
            if sink is None:
                continue
            if is_terminal(event):
                self._sinks.pop(id, None)
            if sink.loop is None:
                sink.put(event)
            else:
                by_loop.setdefault(sink.loop, []).append((sink, event))
        for loop, pairs in by_loop.items():
            try:
                loop.call_soon_threadsafe(_put_all, pairs)
            except RuntimeError:  # that loop was closed with the stream open: nobody is left to read it
                continue

    def _engine_failed(self, error: BaseException) -> None:
        self._failure = error


class ThreadStream:
    """Events of one request for a plain thread. Close it, or leave a `with` block, to stop the work."""

    def __init__(self, get: Callable[[], Event], abandon: Callable[[], None]) -> None:
        self._get = get
        self._abandon = abandon
        self._ended = False

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        if self._ended:
            raise StopIteration
        event = self._get()
        if is_terminal(event):
            self.close()
        return event

    def __enter__(self) -> ThreadStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent."""
        self._ended = True
        self._abandon()


def _put_all(pairs: list[tuple[_Sink, Event]]) -> None:
    for sink, event in pairs:
        sink.put(event)
