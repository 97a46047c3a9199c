"""A model store, a puller and a header reader without files."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import msgspec

from donabe.errors import DonabeError, ModelNotFoundError, SourceError
from donabe.store.names import ModelName
from donabe.types import JsonObject, ModelSpec, PullProgress


class FakeStore:
    """Models by name, case-folded like the real one."""

    def __init__(self, *specs: ModelSpec) -> None:
        self.specs = {ModelName.parse(spec.name).key: spec for spec in specs}

    def list(self) -> Sequence[ModelSpec]:
        return tuple(self.specs.values())

    def resolve(self, name: str) -> ModelSpec:
        key = ModelName.parse(name).key
        if key not in self.specs:
            raise ModelNotFoundError(f"model '{name}' not found", name=name)
        return self.specs[key]

    def delete(self, name: str) -> None:
        self.resolve(name)
        del self.specs[ModelName.parse(name).key]

    def copy(self, source: str, destination: str) -> None:
        target = ModelName.parse(destination)
        self.specs[target.key] = msgspec.structs.replace(self.resolve(source), name=target.short)


@dataclass
class FakeHeader:
    metadata: JsonObject = field(
        default_factory=lambda: {
            "general.architecture": "llama",
            "general.name": "scripted",
            "llama.context_length": 8192,
            "tokenizer.ggml.tokens": ["a", "b"],
            "tokenizer.chat_template": "{{ messages }}",
        }
    )
    tensors: tuple[tuple[str, str, tuple[int, ...]], ...] = (("token_embd.weight", "F32", (4, 1)),)


def read_fake_header(paths: Sequence[str]) -> FakeHeader:
    return FakeHeader()


class FakePull:
    """Pulls that say what they are told; unknown names fail like an unknown model."""

    def __init__(self) -> None:
        self.known = {"tiny"}
        self.error: DonabeError | None = None
        self.n_stopped = 0
        self.limits: list[int] = []

    def __call__(self, name: str, *, insecure: bool = False, limit_rate: int = 0) -> AsyncIterator[PullProgress]:
        ModelName.parse(name)
        self.limits.append(limit_rate)
        return self._run(name)

    async def _run(self, name: str) -> AsyncIterator[PullProgress]:
        yield PullProgress(status="pulling manifest")
        if self.error is not None:
            raise self.error
        if name not in self.known:
            raise SourceError("pull model manifest: file does not exist")
        try:
            digest = "sha256:" + "ab" * 32
            yield PullProgress(status="pulling abababababab", digest=digest, total=10)
            yield PullProgress(status="pulling abababababab", digest=digest, total=10, completed=10)
            yield PullProgress(status="verifying sha256 digest")
            yield PullProgress(status="writing manifest")
            yield PullProgress(status="success")
        except GeneratorExit:
            self.n_stopped += 1
            raise
