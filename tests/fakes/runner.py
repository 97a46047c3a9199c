"""A scripted `ModelRunner`: says what the test tells it to, and remembers what it was asked and what became of it."""

from __future__ import annotations

import array
import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from donabe.errors import DonabeError
from donabe.runner.admission import Admission, AskPlan
from donabe.runner.messages import Plan
from donabe.types import (
    ChatRequest,
    ClassifyRequest,
    ClassifyResult,
    Delta,
    EmbedRequest,
    EmbedResult,
    Event,
    Finished,
    FinishReason,
    GenerateRequest,
    LoadOptions,
    ModelDetails,
    ModelInfo,
    ModelSpec,
    RenderedPrompt,
    RerankRequest,
    RerankResult,
    RunnerStatus,
    Usage,
)

Request = GenerateRequest | ChatRequest
Script = Callable[[Request], Sequence[Event | DonabeError | float]]

USAGE = Usage(n_prompt_tokens=11, n_output_tokens=3, prompt_s=0.0125, output_s=0.03025, total_s=0.05)


def make_spec(name: str = "C:latest", **changes: object) -> ModelSpec:
    values: dict[str, object] = {
        "name": name,
        "digest": "17" * 32,
        "paths": (f"/models/{name}.gguf",),
        "capabilities": ("completion",),
        "size_bytes": 896,
        "modified_at": 1_700_000_000.25,
        "details": ModelDetails(
            family="llama", families=("llama",), parameter_size="4", quantization_level="F32", context_length=8192
        ),
    }
    return ModelSpec(**{**values, **changes})  # type: ignore[arg-type]


def make_info(**changes: object) -> ModelInfo:
    values: dict[str, object] = {
        "architecture": "llama",
        "description": "scripted",
        "n_params": 4,
        "n_ctx": 4096,
        "n_ctx_train": 8192,
        "n_ctx_per_request": 4096,
        "n_embd": 4,
        "n_vocab": 32,
        "n_parallel": 4,
        "memory_kind": "dense",
        "size_bytes": 896,
        "size_vram_bytes": 0,
    }
    return ModelInfo(**{**values, **changes})  # type: ignore[arg-type]


def hello(request: Request) -> list[Event | DonabeError | float]:
    """ "Hel", "lo", then a normal end."""
    context = (100, 101) if request.output.return_context else ()
    return [
        Delta(text="Hel", tokens=(100,)),
        Delta(text="lo", tokens=(101,)),
        Finished(reason=FinishReason.STOP, usage=USAGE, context=context),
    ]


class ScriptedRunner:
    """A loaded model without a model.

    Args:
        script: What a request answers: events in order; a number waits that many seconds; an error is raised.
    """

    def __init__(self, script: Script = hello, *, info: ModelInfo | None = None) -> None:
        self.script = script
        self.info = info or make_info()
        self.alive = True
        self.requests: list[Request | EmbedRequest | RerankRequest | ClassifyRequest] = []
        self.n_open_streams = 0
        self.n_closed_early = 0
        self.n_closes = 0
        self.embedding: tuple[float, ...] = (0.6, 0.8, 0.0, 0.0)
        self.embed_error: DonabeError | None = None
        self.n_rows_each: tuple[int, ...] = ()  # of requests with pooling none

    def generate(self, request: GenerateRequest) -> AsyncIterator[Event]:
        return self._play(request)

    def chat(self, request: ChatRequest) -> AsyncIterator[Event]:
        return self._play(request)

    async def _play(self, request: Request) -> AsyncIterator[Event]:
        self.requests.append(request)
        self.n_open_streams += 1
        is_whole = False
        try:
            for step in self.script(request):
                if isinstance(step, DonabeError):
                    raise step
                if isinstance(step, (int, float)):
                    await asyncio.sleep(step)
                else:
                    yield step
            is_whole = True
        finally:
            self.n_open_streams -= 1
            self.n_closed_early += not is_whole

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        self.requests.append(request)
        if self.embed_error is not None:
            raise self.embed_error
        row = self.embedding[: request.dimensions or None]
        each = self.n_rows_each if request.pooling == "none" else ()
        n_rows = sum(each) or len(request.inputs)
        return EmbedResult(
            n_rows=n_rows,
            n_embd=len(row),
            data=array.array("f", row * n_rows).tobytes(),
            n_prompt_tokens=2 * len(request.inputs),
            n_rows_each=each,
        )

    async def rerank(self, request: RerankRequest) -> RerankResult:
        self.requests.append(request)
        return RerankResult(scores=tuple(float(len(d)) for d in request.documents), n_prompt_tokens=5)

    async def classify(self, request: ClassifyRequest) -> ClassifyResult:
        self.requests.append(request)
        n = len(request.inputs)
        return ClassifyResult(labels=("no", "yes"), scores=((0.25, 0.75),) * n, n_prompt_tokens=3 * n)

    async def render(self, request: ChatRequest) -> RenderedPrompt:
        prompt = "".join(f"[{m.role}]{m.content}" for m in request.messages)
        return RenderedPrompt(prompt=prompt, tokens=tuple(await self.tokenize(prompt)))

    async def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        return [ord(c) for c in text]

    async def detokenize(self, tokens: list[int]) -> str:
        return "".join(chr(t) for t in tokens)

    async def pieces(self, tokens: list[int]) -> list[bytes]:
        return [bytes([t % 256]) if t > 127 else chr(t).encode() for t in tokens]

    async def status(self) -> RunnerStatus:
        return RunnerStatus(
            n_running=self.n_open_streams,
            n_cells=self.info.n_ctx,
            n_forks=3,
            n_draft_tokens=12,
            n_draft_accepted=9,
            python_s=0.25,
        )

    async def close(self) -> None:
        self.alive = False
        self.n_closes += 1


class RunnerFactory:
    """A `start_runner` that hands out scripted runners and counts loads."""

    def __init__(self, script: Script = hello) -> None:
        self.script = script
        self.runners: list[ScriptedRunner] = []
        self.loads: list[tuple[ModelSpec, LoadOptions]] = []
        self.error: DonabeError | None = None
        self.gate: asyncio.Event | None = None
        self.info: dict[str, object] = {}  # of every runner
        self.ask: AskPlan | None = None  # plans loads; without it they can't be planned
        self.n_loading = 0
        self.max_loading = 0

    async def __call__(
        self, spec: ModelSpec, options: LoadOptions, *, admission: Admission | None = None
    ) -> ScriptedRunner:
        if admission is not None and self.ask is not None:
            options = await admission.settle(Plan(spec=spec, options=options), self.ask)
        self.loads.append((spec, options))
        self.n_loading += 1
        self.max_loading = max(self.max_loading, self.n_loading)
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.error is not None:
                raise self.error
        finally:
            self.n_loading -= 1
        asked = options.n_ctx_per_request
        info = make_info(**({} if asked is None else {"n_ctx_per_request": min(asked, 8192)}) | self.info)
        runner = ScriptedRunner(self.script, info=info)
        self.runners.append(runner)
        return runner

    @property
    def last(self) -> ScriptedRunner:
        return self.runners[-1]
