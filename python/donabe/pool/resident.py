"""One resident model: which runner serves it, under which options, who uses it and until when it stays.

Runs on the server's event loop; all state changes happen between awaits, so there are no locks.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field

from donabe.errors import DonabeError
from donabe.runner.api import ModelRunner
from donabe.types import LoadOptions, ModelInfo, ModelSpec, RunnerStatus

# A request that leaves the context to donabe is content with a runner loaded with at least this much.
AUTOMATIC_N_CTX = 4096
STATUS_TIMEOUT_S = 1.0

_MATCHED_WHEN_GIVEN = (
    "n_batch",
    "n_ubatch",
    "n_parallel",
    "main_gpu",
    "n_threads",
    "use_mmap",
    "flash_attention",
    "n_draft_max",
)
_MATCHED_ALWAYS = ("use_mlock", "type_k", "type_v", "swa_full", "pooling", "prefix_cache")

Identity = tuple[object, ...]


def identity_of(spec: ModelSpec, options: LoadOptions) -> Identity:
    """What makes two requests want the same runner: the files and how prompts are built, not the name.

    Embedding runners are apart, because a context computes either logits or embeddings.
    """
    return (
        spec.paths,
        spec.projector,
        spec.draft,
        tuple((adapter.path, adapter.scale) for adapter in spec.adapters),
        spec.template,
        spec.chat_template,
        spec.parser,
        spec.renderer,
        options.embedding,
    )


@dataclass(eq=False)
class Resident:
    """A model in the pool, from the start of its load until its runner is gone.

    Attributes:
        loading: The load; done when the runner is there or the load failed.
        runner: None until loaded.
        n_leases: Requests using it now.
        keep_alive_s: How long it stays after its last request; `math.inf` is forever.
        expires_at: Clock time of its end; meaningful while idle.
        is_retiring: No new leases; closes when the last one ends.
        note: What was given up to load it; shown to every request that uses it.
        is_closing: Its runner is being stopped.
        gone: Set when the runner is closed and the slot is free.
    """

    identity: Identity
    spec: ModelSpec
    options: LoadOptions
    keep_alive_s: float
    loaded_at: float = 0.0
    last_used_at: float = 0.0
    loading: asyncio.Task[None] | None = None
    runner: ModelRunner | None = None
    n_leases: int = 0
    expires_at: float = math.inf
    is_retiring: bool = False
    is_closing: bool = False
    note: str = ""
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_ready(self) -> bool:
        return self.runner is not None and not self.is_retiring

    @property
    def is_idle(self) -> bool:
        return self.is_ready and self.n_leases == 0

    @property
    def has_crashed(self) -> bool:
        return self.runner is not None and not self.runner.alive


@dataclass(frozen=True)
class ResidentInfo:
    """A snapshot of a resident for `/api/ps` and metrics. `expires_in_s` may be infinite."""

    spec: ModelSpec
    options: LoadOptions
    info: ModelInfo | None
    expires_in_s: float
    n_leases: int
    runner: ModelRunner | None

    async def status(self) -> RunnerStatus | None:
        """The engine's counters; None when the runner is too busy, or too dead, to say."""
        if self.runner is None:
            return None
        try:
            return await asyncio.wait_for(self.runner.status(), STATUS_TIMEOUT_S)
        except (DonabeError, asyncio.TimeoutError):
            return None


def satisfies(resident: Resident, wanted: LoadOptions) -> bool:
    """Whether a request with these load options can use this resident as it is loaded.

    `None` in `wanted` is "whatever donabe chooses": it accepts any loaded value, except a context smaller than the
    one donabe would have chosen. A number must match the loaded one; a context is first cut to the trained one.
    """
    loaded = resident.options
    if not _context_suffices(resident, wanted):
        return False
    for name in _MATCHED_WHEN_GIVEN:
        value = getattr(wanted, name)
        if value is not None and value != getattr(loaded, name):
            return False
    if wanted.n_gpu_layers is not None and wanted.n_gpu_layers >= 0 and wanted.n_gpu_layers != loaded.n_gpu_layers:
        return False
    return all(getattr(wanted, name) == getattr(loaded, name) for name in _MATCHED_ALWAYS)


def _context_suffices(resident: Resident, wanted: LoadOptions) -> bool:
    info = resident.runner.info if resident.runner is not None else None
    n_trained = info.n_ctx_train if info is not None and info.n_ctx_train > 0 else None
    asked, loaded = wanted.n_ctx_per_request, resident.options.n_ctx_per_request
    if asked is None:
        if loaded is None:
            return True
        return loaded >= (AUTOMATIC_N_CTX if n_trained is None else min(AUTOMATIC_N_CTX, n_trained))
    if loaded is None:  # loaded with an automatic context: it is what the runner says it is
        return info is not None and info.n_ctx_per_request == _clamp(asked, n_trained)
    return _clamp(asked, n_trained) == _clamp(loaded, n_trained)


def _clamp(n_ctx: int, n_trained: int | None) -> int:
    return n_ctx if n_trained is None else min(n_ctx, n_trained)
