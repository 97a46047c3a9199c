"""How an engine schedules and caches: numbers only, checked once. Sizes of the context itself are the context's."""

from __future__ import annotations

from dataclasses import dataclass

from donabe.errors import InvalidRequestError

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Policy of one engine.

    Attributes:
        n_parallel: Sequences that may run at once; at most the context's n_seq_max.
        n_ctx_per_request: Prompt and output tokens of one sequence; None = the whole pool.
        n_waiting_max: Requests that may wait; one more is refused with ServerBusyError.
        prefix_cache: Keep the cells of finished requests for later ones with the same prefix.
        cache_pool_bytes: Bytes of the pool that idle prefixes may hold; None = all that running requests leave.
        cache_ram_bytes: State blobs in RAM: checkpoints, preempted sequences, prefixes evicted from the pool.
        max_step_latency_s: Bound on the gap between two tokens of a running stream while prompts are prefilled;
            None = the larger of 0.15 s and twice the undisturbed step.
        max_prefill_step_s: Aim for the length of a step when no stream is running, so that arrivals are seen.
        headroom_tokens: Free cells asked for beyond its prompt before a request is admitted.
        n_draft_max: Tokens drafted for a sequence in one step by prompt lookup; 0 = no speculation.
        adapters_key: Names the LoRA set of this context in the prefix cache.
    """

    n_parallel: int = 8
    n_ctx_per_request: int | None = None
    n_waiting_max: int = 512
    prefix_cache: bool = True
    cache_pool_bytes: int | None = None
    cache_ram_bytes: int = 256 * MIB
    max_step_latency_s: float | None = None
    max_prefill_step_s: float = 1.0
    headroom_tokens: int = 32
    n_draft_max: int = 0
    adapters_key: str = ""

    def __post_init__(self) -> None:
        _check("n_parallel", self.n_parallel, 1)
        _check("n_ctx_per_request", self.n_ctx_per_request, 2)
        _check("n_waiting_max", self.n_waiting_max, 1)
        _check("cache_pool_bytes", self.cache_pool_bytes, 0)
        _check("cache_ram_bytes", self.cache_ram_bytes, 0)
        _check("headroom_tokens", self.headroom_tokens, 1)
        _check("n_draft_max", self.n_draft_max, 0)
        if self.max_step_latency_s is not None and not self.max_step_latency_s > 0:
            raise _bad("max_step_latency_s", f"above 0, not {self.max_step_latency_s}")
        if not self.max_prefill_step_s > 0:
            raise _bad("max_prefill_step_s", f"above 0, not {self.max_prefill_step_s}")


def _check(name: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise _bad(name, f"at least {least}, not {value}")


def _bad(name: str, rule: str) -> InvalidRequestError:
    return InvalidRequestError(f"{name} must be {rule}", field=name)
