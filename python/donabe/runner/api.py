"""What the layers above know of a loaded model: one Protocol, implemented by the child-process client and by the
in-process twin. Nothing here imports the native module.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from donabe.types import (
    ChatRequest,
    ClassifyRequest,
    ClassifyResult,
    EmbedRequest,
    EmbedResult,
    Event,
    GenerateRequest,
    ModelInfo,
    RenderedPrompt,
    RerankRequest,
    RerankResult,
    RunnerStatus,
)


class ModelRunner(Protocol):
    """A loaded model. Methods may be called from one asyncio loop, any number at a time.

    Every event stream ends with exactly one terminal event: the `Finished` with `last=True`, or a `Failed`. Closing the
    iterator early (aclose, cancellation) stops the work at the next step and frees its cells. Request errors arrive as
    `Failed` in streams and as exceptions of `donabe.errors` from the other methods.
    """

    @property
    def info(self) -> ModelInfo: ...

    @property
    def alive(self) -> bool: ...

    def generate(self, request: GenerateRequest) -> AsyncIterator[Event]: ...

    def chat(self, request: ChatRequest) -> AsyncIterator[Event]: ...

    async def embed(self, request: EmbedRequest) -> EmbedResult: ...

    async def rerank(self, request: RerankRequest) -> RerankResult: ...

    async def classify(self, request: ClassifyRequest) -> ClassifyResult: ...

    async def render(self, request: ChatRequest) -> RenderedPrompt: ...

    async def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]: ...

    async def detokenize(self, tokens: list[int]) -> str: ...

    async def pieces(self, tokens: list[int]) -> list[bytes]:
        """The bytes of each token by itself; a character may be spread over several."""
        ...

    async def status(self) -> RunnerStatus: ...

    async def close(self) -> None:
        """Stop the runner; idempotent. Requests still running end with `Failed(kind="RunnerError")`."""
        ...
