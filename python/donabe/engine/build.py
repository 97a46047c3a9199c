"""Makes an engine of a loaded model: chooses what LoadOptions leaves open, creates the context and the sampler set.

Choices are made once, here, and reported in the log; numbers the user gave are never changed, only refused.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from donabe.devices.memory import free_memory_bytes, total_memory_bytes
from donabe.engine.api import Publish
from donabe.engine.disk_tier import DiskTier
from donabe.engine.draft_model import DraftModel
from donabe.engine.engine import Engine
from donabe.engine.fingerprint import state_fingerprint
from donabe.engine.kinds import MemoryKind, memory_kind
from donabe.engine.options import MIB, EngineOptions
from donabe.errors import CapabilityError, InvalidRequestError, UnsupportedError
from donabe.types import LoadOptions

if TYPE_CHECKING:
    from donabe._core import Adapter, Context, Model

log = logging.getLogger(__name__)

N_PARALLEL = 8
N_UBATCH = 512
CACHE_RAM_BYTES = 256 * MIB  # automatic RAM tier: as large as the pool, at least this ...
CACHE_RAM_SHARE = 1 / 16  # ... and at most this share of the machine's memory, or its container's ...
CACHE_RAM_BYTES_MAX = 8 << 30  # ... and this
N_WAITING_MAX = 512
CACHE_DISK_BYTES = 2_000_000_000
N_DRAFT_MAX = 4  # guesses a step and sequence; the engine makes them only while they pay
N_MODEL_DRAFT_MAX = 8  # with a draft model
POLL = 50  # how eagerly idle native threads wait; two contexts that take turns would wait on each other's cores
MIN_POOL_CELLS = 4096
CELLS_PER_SEQUENCE = 4096  # automatic pool: so many for each sequence that may run, if memory allows
POOL_BYTES = 512 * MIB  # automatic pool: at most the larger of this and the model's own size ...
POOL_SHARE = 0.25  # ... and of the free memory at most this
GRAIN = 256  # llama.cpp pads n_ctx to this
TYPE_BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32, "q4_1": 20 / 32}
TYPE_BYTES |= {"q4_0": 18 / 32, "iq4_nl": 18 / 32}


@dataclass(frozen=True, slots=True)
class PoolSize:
    """Sizes of a context. `n_ctx` cells; sequence ids for running sequences and idle prefixes."""

    n_ctx: int
    n_ctx_per_request: int
    n_parallel: int
    n_seq_max: int
    n_batch: int
    n_ubatch: int
    n_outputs_max: int


def build_engine(
    model: Model,
    options: LoadOptions,
    publish: Publish,
    *,
    adapters: tuple[tuple[Adapter, float], ...] = (),
    paths: Sequence[str] = (),
    n_draft_max: int | None = None,
    draft: Model | None = None,
    native: Any = None,
) -> Engine:
    """An engine with a warm context. The disk tier needs the paths of the model's files, to tell models apart.

    A draft model must have passed `draft_model.why_unfit`.

    Raises:
        CapabilityError: The model has no decoder with a memory, so it can't generate.
        InvalidRequestError: An option contradicts another or is out of range.
        LoadError, NativeError: The context could not be created (not enough memory, an unsupported combination).
    """
    if native is None:
        from donabe import _core as native
    kind = memory_kind(model.memory_kind, model.n_swa)
    if kind.name == "none" or not model.has_decoder:
        raise CapabilityError(
            f"{model.description} can't generate text", capability="completion", hint="use it for embeddings"
        )
    if n_draft_max is None:
        n_draft_max = _n_draft_max(options, draft)
    size = pool_size(model, kind, options, n_draft_max, _free_bytes(native, options), native.max_sequences(), draft)
    poll = POLL if draft is None else 0
    context = native.Context(model, _context_params(native, options, size, poll))
    if adapters:
        context.set_adapters(adapters)
    context.warm_up()
    _report(model, context, size)
    engine_options = EngineOptions(
        n_parallel=size.n_parallel,
        n_ctx_per_request=size.n_ctx_per_request,
        n_waiting_max=_n_waiting_max(options, size),
        prefix_cache=options.prefix_cache,
        cache_pool_bytes=_given("prefix_cache_pool_bytes", options.prefix_cache_pool_bytes, 0, 1 << 50),
        cache_ram_bytes=cache_ram_bytes(options, sum(row[2] for row in context.memory_breakdown())),
        max_step_latency_s=options.max_step_latency_s,
        n_draft_max=n_draft_max,
        adapters_key=";".join(f"{adapter.path}*{scale}" for adapter, scale in adapters),
    )
    samplers = native.SamplerSet(model, min(4, native.n_physical_cores()))
    disk = _open_disk_tier(native, model, context, options, kind, paths, adapters)
    guesser = _draft_model(native, draft, options, size) if draft is not None and n_draft_max else None
    return Engine(model, context, samplers, engine_options, publish, native=native, disk=disk, draft=guesser)


def planned_contexts(native: Any, model: Model, options: LoadOptions, draft: Model | None) -> tuple[PoolSize, Any, Any]:
    """The sizes and native parameters that `build_engine` would use for the model, and for its draft model or None."""
    kind = memory_kind(model.memory_kind, model.n_swa)
    n_draft_max = _n_draft_max(options, draft)
    size = pool_size(model, kind, options, n_draft_max, _free_bytes(native, options), native.max_sequences(), draft)
    poll = POLL if draft is None else 0
    drafting = None if draft is None or not n_draft_max else _draft_params(native, options, size)
    return size, _context_params(native, options, size, poll), drafting


def _n_draft_max(options: LoadOptions, draft: Model | None) -> int:
    given = _given("n_draft_max", options.n_draft_max, 0, 64)
    if given is not None:
        return given
    return N_DRAFT_MAX if draft is None else N_MODEL_DRAFT_MAX


def _draft_model(native: Any, draft: Model, options: LoadOptions, size: PoolSize) -> DraftModel:
    """A lane for each sequence that may run, as many cells as the large model has, and whole sliding windows: lanes
    are cut back wherever guesses were wrong."""
    context = native.Context(draft, _draft_params(native, options, size))
    context.warm_up()
    log.info("%s drafts, %d cells", draft.description, context.n_ctx)
    return DraftModel(native, draft, context)


def _draft_params(native: Any, options: LoadOptions, size: PoolSize) -> Any:
    n_batch = max(N_UBATCH, 4 * size.n_parallel)
    return native.ContextParams(
        n_ctx=size.n_ctx,
        n_batch=n_batch,
        n_ubatch=min(N_UBATCH, n_batch),
        n_seq_max=size.n_parallel,
        n_outputs_max=size.n_parallel,
        n_threads=options.n_threads or 0,
        n_threads_batch=options.n_threads or 0,
        poll=0,
        swa_full=True,
    )


def cache_ram_bytes(options: LoadOptions, pool_bytes: int) -> int:
    """The RAM tier's budget. pool_bytes: of attention, windows and states together, so all that could leave at once."""
    given = _given("prefix_cache_ram_bytes", options.prefix_cache_ram_bytes, 0, 1 << 50)
    if given is not None:
        return given
    most = min(int(total_memory_bytes() * CACHE_RAM_SHARE), CACHE_RAM_BYTES_MAX)
    return min(max(pool_bytes, CACHE_RAM_BYTES), most)


def _n_waiting_max(options: LoadOptions, size: PoolSize) -> int:
    """What was just submitted waits, too, until the next step: so those that will run then come on top."""
    given = _given("n_waiting_max", options.n_waiting_max, 0, 1 << 30)
    return (N_WAITING_MAX if given is None else given) + size.n_parallel


def _open_disk_tier(
    native: Any,
    model: Model,
    context: Context,
    options: LoadOptions,
    kind: MemoryKind,
    paths: Sequence[str],
    adapters: Sequence[tuple[Adapter, float]],
) -> DiskTier | None:
    """None when it is turned off or the model's files can't be told apart."""
    budget = _given("prefix_cache_disk_bytes", options.prefix_cache_disk_bytes, 0, 1 << 50)
    budget = CACHE_DISK_BYTES if budget is None else budget
    if not paths or not budget or not options.prefix_cache or options.prefix_cache_home is None:
        return None
    try:
        fingerprint = state_fingerprint(native, model, context, options, paths, adapters)
    except OSError as error:
        log.warning("prefixes are not kept on disk: %s", error)
        return None
    home = Path(options.prefix_cache_home)
    return DiskTier(home, fingerprint, budget, can_cut=kind.can_cut, native=native)


def pool_size(
    model: Model,
    kind: MemoryKind,
    options: LoadOptions,
    n_draft_max: int,
    free_bytes: int,
    max_sequences: int,
    draft: Model | None = None,
) -> PoolSize:
    """Numbers for a context: the user's where given, else what suits the model and the memory. A draft model that may
    guess has as many cells, so they are paid for together."""
    n_parallel = _given("n_parallel", options.n_parallel, 1, max_sequences) or N_PARALLEL
    n_ubatch = _given("n_ubatch", options.n_ubatch, 1, 1 << 16) or min(N_UBATCH, options.n_batch or N_UBATCH)
    n_batch = _given("n_batch", options.n_batch, 1, 1 << 16) or max(n_ubatch, N_UBATCH)
    n_seq_max = min(n_parallel + _n_idle_ids(kind), max_sequences, n_batch)
    if n_seq_max < n_parallel:
        raise InvalidRequestError(
            f"n_batch {n_batch} is smaller than n_parallel {n_parallel}", field="n_batch", hint="raise n_batch"
        )
    per_request = _given("n_ctx_per_request", options.n_ctx_per_request, 2, 1 << 30)
    n_ctx = _given("n_ctx", options.n_ctx, 2, 1 << 30)
    if n_ctx is None:
        bytes_per_cell = cell_bytes(model, options)
        if draft is not None and n_draft_max:
            bytes_per_cell += cell_bytes(draft, LoadOptions())
        n_ctx = max(_automatic_n_ctx(model, n_parallel, bytes_per_cell, free_bytes), per_request or 0)
        per_request = per_request or min(n_ctx, model.n_ctx_train or n_ctx)
    n_ctx = -(-n_ctx // GRAIN) * GRAIN
    per_request = per_request or min(options.n_ctx or n_ctx, n_ctx)
    if per_request > n_ctx:
        raise InvalidRequestError(
            f"n_ctx_per_request {per_request} is larger than n_ctx {n_ctx}", field="n_ctx_per_request"
        )
    n_outputs_max = max(n_seq_max, min(n_parallel * (1 + n_draft_max), n_batch))
    return PoolSize(n_ctx, per_request, n_parallel, n_seq_max, n_batch, n_ubatch, n_outputs_max)


def _n_idle_ids(kind: MemoryKind) -> int:
    """Ids for idle prefixes. Cheap where a sequence is only bits; elsewhere each costs a window or a state."""
    if kind.any_point:
        return 24
    return 4 if kind.window else 8


def _automatic_n_ctx(model: Model, n_parallel: int, bytes_per_cell: float, free_bytes: int) -> int:
    wanted = n_parallel * CELLS_PER_SEQUENCE
    budget = min(free_bytes * POOL_SHARE, max(POOL_BYTES, model.size_bytes))
    affordable = int(budget / max(bytes_per_cell, 1.0))
    return max(MIN_POOL_CELLS, min(wanted, affordable // 1024 * 1024))


def cell_bytes(model: Model, options: LoadOptions) -> float:
    """Upper estimate of the bytes of K and V of one token, over all layers."""
    meta = model.meta()

    def number(name: str, default: int) -> int:
        text = meta.get(f"{model.architecture}.{name}", "")
        return int(text) if text.isdigit() else default

    n_head = number("attention.head_count", 1)
    n_head_kv = number("attention.head_count_kv", n_head)
    head = max(model.n_embd // max(n_head, 1), 1)
    k_bytes = number("attention.key_length", head) * TYPE_BYTES.get(options.type_k or "f16", 2.0)
    v_bytes = number("attention.value_length", head) * TYPE_BYTES.get(options.type_v or "f16", 2.0)
    return model.n_layer * n_head_kv * (k_bytes + v_bytes)


def _free_bytes(native: Any, options: LoadOptions) -> int:
    """Free memory where the pool will live: the GPUs that are used, else the machine's."""
    devices = native.devices()
    gpus = [device for device in devices if device.kind == "gpu"]
    if options.devices:
        gpus = [device for device in devices if device.name in options.devices and device.kind in ("gpu", "igpu")]
    if gpus:
        return sum(int(device.memory_free_bytes) for device in gpus)
    return free_memory_bytes()


def _context_params(native: Any, options: LoadOptions, size: PoolSize, poll: int) -> Any:
    flash_attention = {None: "auto", True: "on", False: "off"}[options.flash_attention]
    return native.ContextParams(
        n_ctx=size.n_ctx,
        n_batch=size.n_batch,
        n_ubatch=size.n_ubatch,
        n_seq_max=size.n_seq_max,
        n_outputs_max=size.n_outputs_max,
        n_threads=options.n_threads or 0,
        n_threads_batch=options.n_threads or 0,
        poll=poll,
        flash_attention=flash_attention,
        type_k=options.type_k or "f16",
        type_v=options.type_v or "f16",
        swa_full=options.swa_full,
    )


def _report(model: Model, context: Context, size: PoolSize) -> None:
    try:
        bytes_per_cell = context.kv_bytes_per_cell
    except UnsupportedError:
        bytes_per_cell = 0
    log.info(
        "%s: %d cells (%d MiB), %d per request, %d sequences at once, flash attention %s",
        model.description,
        context.n_ctx,
        context.n_ctx * bytes_per_cell // MIB,
        size.n_ctx_per_request,
        size.n_parallel,
        "on" if context.flash_attention else "off",
    )


def _given(name: str, value: int | None, least: int, most: int) -> int | None:
    if value is not None and not least <= value <= most:
        raise InvalidRequestError(f"{name} must be between {least} and {most}, not {value}", field=name)
    return value
