"""A loaded model without native code: prompts of words, and an engine that answers one word a step.

`FakeEngine` keeps the engine's contract (one `last=True` output for each accepted request) and can be told to fail.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from typing import Any

import numpy as np
from tests.fakes.runner_child import INFO

from donabe.chat.prompt import PreparedPrompt
from donabe.engine.api import Publish
from donabe.engine.request import EngineRequest, SequenceOutput
from donabe.errors import DonabeError, InvalidRequestError, RunnerError
from donabe.types import (
    ChatRequest,
    ClassifyRequest,
    ClassifyResult,
    EmbedRequest,
    EmbedResult,
    FinishReason,
    GenerateRequest,
    ModelInfo,
    RenderedPrompt,
    RerankRequest,
    RerankResult,
    RunnerStatus,
    Usage,
)


class FakeEngine:
    """Answers with `w0 w1 ...`, max_tokens words for each completion."""

    n_ctx_per_request = 64

    def __init__(self, publish: Publish) -> None:
        self.publish = publish
        self.running: dict[str, tuple[EngineRequest, int]] = {}
        self.inbox: deque[EngineRequest | str] = deque()
        self.known: set[str] = set()
        self.closed: DonabeError | None = None
        self.refuse: DonabeError | None = None  # what submit raises
        self.break_after: int | None = None  # steps until step() raises
        self.gate = threading.Event()  # cleared: steps wait
        self.gate.set()
        self.n_steps = 0
        self.n_cancelled = 0
        self._wakeup = threading.Event()
        self._lock = threading.Lock()

    def submit(self, request: EngineRequest) -> None:
        with self._lock:
            if self.closed is not None:
                raise RunnerError(f"the engine has stopped: {self.closed}")
            if self.refuse is not None:
                raise self.refuse
            self.known.add(request.request_id)
            self.inbox.append(request)
        self._wakeup.set()

    def cancel(self, request_id: str) -> None:
        self.inbox.append(request_id)
        self._wakeup.set()

    def has_work(self) -> bool:
        return bool(self.inbox or self.running)

    def wake(self) -> None:
        self._wakeup.set()

    def wait_for_work(self, timeout_s: float | None = None) -> bool:
        if not self.has_work():
            self._wakeup.wait(timeout_s)
        self._wakeup.clear()
        return self.has_work()

    def idle(self) -> None: ...

    def close(self) -> None: ...

    def step(self) -> bool:
        outputs = self._drain()
        self.gate.wait(5)
        if self.break_after is not None and self.n_steps >= self.break_after:
            error = RunnerError("compute broke")
            self.fail_all(error)
            raise error
        self.n_steps += 1
        for id, (request, n_done) in list(self.running.items()):
            outputs += self._advance(id, request, n_done)
        if outputs:
            self.publish(outputs)
        return True

    def _drain(self) -> list[SequenceOutput]:
        outputs: list[SequenceOutput] = []
        while self.inbox:
            item = self.inbox.popleft()
            if isinstance(item, EngineRequest):
                self.running[item.request_id] = (item, 0)
            elif item in self.running:
                del self.running[item]
                self.n_cancelled += 1
                outputs.append(SequenceOutput(request_id=item, finish_reason=FinishReason.ABORT, last=True))
        return outputs

    def _advance(self, id: str, request: EngineRequest, n_done: int) -> list[SequenceOutput]:
        n_words = 3 if request.max_tokens is None else request.max_tokens
        if n_done < n_words:
            self.running[id] = (request, n_done + 1)
            return [
                SequenceOutput(request_id=id, index=i, text=f"w{n_done} ".encode(), tokens=[n_done])
                for i in range(request.n)
            ]
        del self.running[id]
        usage = Usage(n_prompt_tokens=len(request.tokens), n_output_tokens=n_words)
        return [
            SequenceOutput(
                request_id=id, index=i, finish_reason=FinishReason.LENGTH, usage=usage, last=i == request.n - 1
            )
            for i in range(request.n)
        ]

    def fail_all(self, error: DonabeError) -> None:
        with self._lock:
            self.closed = self.closed or error
        outputs = self._drain()
        for id in list(self.running):
            outputs.append(SequenceOutput(request_id=id, finish_reason=FinishReason.ERROR, last=True, error=error))
        self.running.clear()
        if outputs:
            self.publish(outputs)

    def status(self) -> RunnerStatus:
        return RunnerStatus(n_running=len(self.running), n_steps=self.n_steps)


class FakePrompts:
    """One token a word. The prompt `bad` is refused, `odd` fails in an unexpected way."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.make_output: Any = None

    def _prepare(self, text: str, request: GenerateRequest | ChatRequest) -> PreparedPrompt:
        self.gate.wait(5)
        if text == "bad":
            raise InvalidRequestError("a bad prompt", field="prompt")
        if text == "odd":
            raise ZeroDivisionError("odd")
        tokens = np.arange(1, len(text.split()) + 1, dtype=np.int32)
        more = {"make_output": self.make_output} if self.make_output else {}
        max_tokens = request.output.max_tokens
        return PreparedPrompt(tokens=tokens, sampler_params={}, stops=(), max_tokens=max_tokens, n=request.n, **more)

    def generate(self, request: GenerateRequest) -> PreparedPrompt:
        return self._prepare(str(request.prompt), request)

    def chat(self, request: ChatRequest) -> PreparedPrompt:
        return self._prepare(request.messages[-1].content, request)

    def render(self, request: ChatRequest) -> RenderedPrompt:
        return RenderedPrompt(prompt=request.messages[-1].content, tokens=(1,))

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        return list(range(len(text.split())))

    def pieces(self, tokens: list[int]) -> list[bytes]:
        return [f"w{token}".encode() for token in tokens]

    def detokenize(self, tokens: list[int]) -> str:
        return " ".join(f"w{token}" for token in tokens)


class FakeEmbedder:
    def __init__(self) -> None:
        self.stopped: DonabeError | None = None

    def embed(self, request: EmbedRequest) -> Future[EmbedResult]:
        future: Future[EmbedResult] = Future()
        each = tuple(len(str(text).split()) for text in request.inputs) if request.pooling == "none" else ()
        n = sum(each) or len(request.inputs)
        result = EmbedResult(n_rows=n, n_embd=1, data=b"\0\0\x80?" * n, n_prompt_tokens=n, n_rows_each=each)
        future.set_result(result)
        return future

    def rerank(self, request: RerankRequest) -> Future[RerankResult]:
        future: Future[RerankResult] = Future()
        future.set_result(RerankResult(scores=(0.5,) * len(request.documents), n_prompt_tokens=1))
        return future

    def classify(self, request: ClassifyRequest) -> Future[ClassifyResult]:
        future: Future[ClassifyResult] = Future()
        n = len(request.inputs)
        future.set_result(ClassifyResult(labels=("no", "yes"), scores=((0.25, 0.75),) * n, n_prompt_tokens=n))
        return future

    def stop(self, error: DonabeError) -> None:
        self.stopped = error


class FakeLoaded:
    def __init__(self, *, generates: bool = True) -> None:
        self.info: ModelInfo = INFO
        self.prompts: Any = FakePrompts()
        self.embedder = FakeEmbedder()
        self.generates = generates
        self.engine: FakeEngine | None = None
        self.n_closed = 0

    def make_engine(self, publish: Publish) -> FakeEngine | None:
        self.engine = FakeEngine(publish) if self.generates else None
        return self.engine

    def piece(self, token: int) -> bytes:
        return f"w{token} ".encode()

    def close(self) -> None:
        self.n_closed += 1
