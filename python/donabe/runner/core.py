"""The runner without a process boundary: one loaded model, its threads, and the requests in flight.

    start() -> intake pool: render, tokenise, compile grammar -> engine thread -> output thread -> publish(events)

Used by the child process and by the in-process twin alike. All methods may be called from any thread. Every started
request is answered by exactly one terminal event, whatever happens to it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

from donabe.chat.prompt import PreparedPrompt, PromptBuilder
from donabe.chat.sampling import seed_of
from donabe.engine.api import EngineApi, Publish
from donabe.engine.request import EngineRequest
from donabe.errors import CancelledError, CapabilityError, DonabeError, RunnerError
from donabe.runner.assembly import RequestAssembly
from donabe.runner.best_of import BestOfAssembly
from donabe.runner.threads import EngineThread, OutputThread, PublishEvents, terminal_failure
from donabe.types import (
    ChatRequest,
    ClassifyRequest,
    ClassifyResult,
    EmbedRequest,
    EmbedResult,
    GenerateRequest,
    ModelInfo,
    RenderedPrompt,
    RerankRequest,
    RerankResult,
    RunnerStatus,
)

logger = logging.getLogger("donabe.runner")

T = TypeVar("T")
N_INTAKE_THREADS = 2


class EmbedderApi(Protocol):
    """What the core needs of `donabe.runner.embedder.Embedder`."""

    def embed(self, request: EmbedRequest) -> Future[EmbedResult]: ...

    def rerank(self, request: RerankRequest) -> Future[RerankResult]: ...

    def classify(self, request: ClassifyRequest) -> Future[ClassifyResult]: ...

    def stop(self, error: DonabeError) -> None: ...


class LoadedModel(Protocol):
    """What loading gives; see `donabe.runner.load.Loaded`."""

    @property
    def info(self) -> ModelInfo: ...

    @property
    def prompts(self) -> PromptBuilder: ...

    @property
    def embedder(self) -> EmbedderApi: ...

    def make_engine(self, publish: Publish) -> EngineApi | None:
        """None for models that can't generate."""

    def piece(self, token: int) -> bytes: ...

    def close(self) -> None: ...


class RunnerCore:
    """Runs requests on a loaded model.

    Args:
        publish: Called on the output thread with (request id, event) pairs in order.
        on_failure: Called when the engine can't go on; everything in flight has been answered by then.
    """

    def __init__(
        self, loaded: LoadedModel, publish: PublishEvents, on_failure: Callable[[BaseException], None] | None = None
    ) -> None:
        self._loaded = loaded
        self._publish = publish
        self._lock = threading.Lock()
        self._live: dict[int, bool] = {}  # request id -> cancelled
        self._stopped = False
        self._output = OutputThread(publish, self.cancel, self._forget)
        self._engine = loaded.make_engine(self._output.put_outputs)
        self._engine_thread = (
            EngineThread(self._engine, on_failure or (lambda _: None)) if self._engine is not None else None
        )
        self._intake = ThreadPoolExecutor(N_INTAKE_THREADS, thread_name_prefix="donabe-intake")
        self._output.start()
        if self._engine_thread is not None:
            self._engine_thread.start()

    @property
    def info(self) -> ModelInfo:
        return self._loaded.info

    @property
    def step_age_s(self) -> float:
        return self._engine_thread.step_age_s if self._engine_thread is not None else 0.0

    # --- streams -----------------------------------------------------------------------------------------------------

    def start(self, id: int, request: GenerateRequest | ChatRequest) -> None:
        """Begin a request under an id that was never used before."""
        with self._lock:
            if not self._stopped:
                self._live[id] = False
                self._output.open(id)
                self._intake.submit(self._prepare, id, request, time.monotonic())
                return
        self._publish(terminal_failure(id, _unloaded()))

    def cancel(self, id: int) -> None:
        """Stop a request wherever it is: not begun, queued, in prefill or running. Unknown ids are ignored."""
        with self._lock:
            if id not in self._live:
                return
            self._live[id] = True
        if self._engine is not None:
            self._engine.cancel(str(id))

    def _prepare(self, id: int, request: GenerateRequest | ChatRequest, started: float) -> None:
        try:
            self._check_cancelled(id)
            if self._engine is None:
                raise CapabilityError("this model does not support text generation", capability="completion")
            prompts = self._loaded.prompts
            prepared = prompts.chat(request) if isinstance(request, ChatRequest) else prompts.generate(request)
            assembly = self._assembly(request, prepared, started)
            engine_request = self._engine_request(id, request, prepared)
            self._check_cancelled(id)
            self._output.register(id, assembly)
            self._engine.submit(engine_request)
        except BaseException as error:  # the terminal event is all that the caller will ever hear
            if not isinstance(error, DonabeError):
                logger.exception("preparing request %d failed", id, extra={"request_id": request.scheduling.request_id})
            self._output.put_events(terminal_failure(id, error))
            return
        if self._live.get(id):  # cancelled while it was being submitted
            self._engine.cancel(str(id))

    def _assembly(
        self, request: GenerateRequest | ChatRequest, prepared: PreparedPrompt, started: float
    ) -> RequestAssembly | BestOfAssembly:
        output = request.output
        inner = RequestAssembly(
            prepared,
            self._loaded.piece,
            started=started,
            interval_s=output.stream_interval_s,
            return_context=output.return_context,
            request_id=request.scheduling.request_id,
        )
        if prepared.n_kept is None:
            return inner
        return BestOfAssembly(inner, n=prepared.n, n_kept=prepared.n_kept, with_logprobs=output.logprobs)

    def _check_cancelled(self, id: int) -> None:
        if self._live.get(id):
            raise CancelledError("the request was cancelled")

    def _engine_request(
        self, id: int, request: GenerateRequest | ChatRequest, prepared: PreparedPrompt
    ) -> EngineRequest:
        return EngineRequest(
            request_id=str(id),
            tokens=prepared.tokens,
            sampler_params=prepared.sampler_params,
            seed=seed_of(request.sampling),
            max_tokens=prepared.max_tokens,
            stop=prepared.stops,
            ignore_eos=request.output.ignore_eos,
            context_shift=request.output.context_shift,
            n_keep=max(-1, request.n_keep),
            n=prepared.n,
            caller=request.scheduling.caller,
            cache_salt=request.scheduling.cache_salt,
            priority=request.scheduling.priority,
            boundaries=prepared.boundaries,
            output_interval_s=request.output.stream_interval_s,
        )

    def _forget(self, id: int) -> None:
        with self._lock:
            self._live.pop(id, None)

    # --- single answers ----------------------------------------------------------------------------------------------

    def embed(self, request: EmbedRequest) -> Future[EmbedResult]:
        return self._loaded.embedder.embed(request)

    def rerank(self, request: RerankRequest) -> Future[RerankResult]:
        return self._loaded.embedder.rerank(request)

    def classify(self, request: ClassifyRequest) -> Future[ClassifyResult]:
        return self._loaded.embedder.classify(request)

    def render(self, request: ChatRequest) -> Future[RenderedPrompt]:
        return self._in_intake(lambda: self._loaded.prompts.render(request))

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> Future[list[int]]:
        prompts = self._loaded.prompts
        return self._in_intake(lambda: prompts.tokenize(text, add_special=add_special, parse_special=parse_special))

    def detokenize(self, tokens: list[int]) -> Future[str]:
        return self._in_intake(lambda: self._loaded.prompts.detokenize(tokens))

    def pieces(self, tokens: list[int]) -> Future[list[bytes]]:
        return self._in_intake(lambda: self._loaded.prompts.pieces(tokens))

    def status(self) -> RunnerStatus:
        return self._engine.status() if self._engine is not None else RunnerStatus()

    def _in_intake(self, work: Callable[[], T]) -> Future[T]:
        with self._lock:
            if not self._stopped:
                return self._intake.submit(work)
        failed: Future[T] = Future()
        failed.set_exception(_unloaded())
        return failed

    # --- the end -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End everything in flight with RunnerError, join the threads, free the model. Idempotent."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
        error = _unloaded()
        self._intake.shutdown(wait=True, cancel_futures=True)
        if self._engine_thread is not None:
            self._engine_thread.stop(error)
        self._output.put_events([item for id in list(self._live) for item in terminal_failure(id, error)])
        self._output.stop()
        self._loaded.embedder.stop(error)
        self._loaded.close()


def _unloaded() -> RunnerError:
    return RunnerError("the model was unloaded")
