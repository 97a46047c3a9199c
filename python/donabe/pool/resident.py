"""One resident model: which runner serves it, under which options, who uses it and until when it stays.

Runs on the server's event loop; all state changes happen between awaits, so there are no locks.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection
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
    "type_k",
    "type_v",
    "draft",
    "n_draft_max",
)
_MATCHED_ALWAYS = ("use_mlock", "swa_full", "pooling", "prefix_cache")

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
        n_waiters: Requests that wait for its load. They come first: until they have leases it is not idle.
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
    n_waiters: int = 0
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
        return self.is_ready and self.n_leases == 0 and self.n_waiters == 0

    def is_on(self, devices: Collection[str]) -> bool:
        """Whether it takes memory of one of these devices (ids as in `ModelInfo.device_bytes`)."""
        if self.runner is None:
            return False
        return any(self.runner.info.device_bytes.get(device, 0) > 0 for device in devices)

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
    one donabe would have chosen. A number must match the loaded one, whoever chose that; a context is first cut to the
    trained one.
    """
    if not _context_suffices(resident, wanted) or not _layers_suffice(resident, wanted):
        return False
    if any(getattr(wanted, name) != getattr(resident.options, name) for name in _MATCHED_ALWAYS):
        return False
    return all(_is_met(resident, name, getattr(wanted, name)) for name in _MATCHED_WHEN_GIVEN)


def _is_met(resident: Resident, name: str, value: object) -> bool:
    """Whether an option has this value, as it was asked for or as it came out."""
    loaded = resident.runner.info.loaded if resident.runner is not None else None
    return (
        value is None
        or value == getattr(resident.options, name)
        or (loaded is not None and value == getattr(loaded, name))
    )


def _layers_suffice(resident: Resident, wanted: LoadOptions) -> bool:
    n_wanted = wanted.n_gpu_layers
    if n_wanted is None or n_wanted < 0 or n_wanted == resident.options.n_gpu_layers:
        return True
    info = resident.runner.info if resident.runner is not None else None
    return info is not None and info.n_layers > 0 and min(n_wanted, info.n_layers) == info.n_gpu_layers


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
