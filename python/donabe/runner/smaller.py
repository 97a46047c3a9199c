"""Smaller ways to load a model that does not fit, in the order of what hurts least: context, then layers on devices,
then KV type. Only what the user left to donabe may shrink; a number he gave stays. Pure.

Plans go down this list until one fits. Where memory runs out all the same, the load goes further down, one step at a
time, from the way that failed. No step repeats what was tried: each names a smaller number than the plan had.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from donabe.runner.plans import MemoryPlan
from donabe.types import LoadOptions

CONTEXTS = (16384, 8192, 4096, 2048)
# With devices, layers are given up before the context gets smaller than this.
CONTEXT_BESIDE_LAYERS = 4096
GRAIN = 256  # contexts are made in steps of it
SMALL_KV_TYPE = "q8_0"
N_LAYER_STEPS = 4  # after a failure, so many loads until no layer is left on devices


class Smaller(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is given up; None is as asked.

    Attributes:
        may_split: Layers may stay behind; without it an automatic number of layers means all of them.
    """

    n_ctx: int | None = None
    may_split: bool = False
    n_gpu_layers: int | None = None
    kv_type: str | None = None

    def apply(self, options: LoadOptions) -> LoadOptions:
        """The options, made smaller."""
        changes: dict[str, object] = {}
        if self.n_ctx is not None:
            changes["n_ctx"] = self.n_ctx
        if self.n_gpu_layers is not None:
            changes["n_gpu_layers"] = self.n_gpu_layers
        if self.kv_type is not None:
            changes |= {"type_k": self.kv_type, "type_v": self.kv_type}
        return msgspec.structs.replace(options, **changes) if changes else options

    def describe(self, plan: MemoryPlan | None = None) -> str:
        """What is given up, in words; "" is nothing.

        Args:
            plan: Of this way, for the number of layers.
        """
        parts = []
        if self.n_ctx is not None:
            parts.append(f"its context is only {self.n_ctx} tokens")
        n_gpu_layers = self.n_gpu_layers
        if n_gpu_layers is None and self.may_split and plan is not None:
            n_gpu_layers = plan.n_gpu_layers
        if n_gpu_layers == 0:
            parts.append("it runs on the CPU")
        elif n_gpu_layers is not None and plan is not None and n_gpu_layers < plan.n_layers:
            parts.append(f"only {n_gpu_layers} of its {plan.n_layers} layers are on devices")
        elif n_gpu_layers is not None and plan is not None and plan.n_cpu_moe:
            parts.append(f"the experts of {plan.n_cpu_moe} layers are in main memory")
        if self.kv_type is not None:
            parts.append(f"its KV cache is kept in {self.kv_type}")
        return " and ".join((", ".join(parts[:-1]), parts[-1])) if len(parts) > 1 else "".join(parts)


AS_ASKED = Smaller()


def fitting(
    asked: LoadOptions, plan: MemoryPlan, plan_of: Callable[[Smaller], MemoryPlan]
) -> tuple[Smaller, MemoryPlan]:
    """The first way that fits, with its plan.

    Where none does, it is the first whose plan does not exceed memory: weights may be read from their file again and
    again, caches and buffers can't. Where all exceed it, as asked.

    Args:
        plan: Of the load as asked, all layers on devices where their number is automatic.
        plan_of: Plans a smaller way.
    """
    smaller = AS_ASKED
    best = smaller, plan
    while plan.missing_bytes():
        if best[1].exceeds_memory and not plan.exceeds_memory:
            best = smaller, plan
        step = next_smaller(asked, smaller, plan)
        if step is None:
            return best
        smaller, plan = step, plan_of(step)
    return smaller, plan


def next_smaller(asked: LoadOptions, smaller: Smaller, plan: MemoryPlan, *, has_failed: bool = False) -> Smaller | None:
    """The next way down; None at the end.

    Args:
        asked: As the user wants it.
        smaller: The way that does not fit.
        plan: Of that way.
        has_failed: It was tried, and memory ran out; else only its plan does not fit.
    """
    is_open = asked.n_gpu_layers is None and (plan.n_gpu_layers is not None or smaller.n_gpu_layers is not None)
    n_now = plan.n_ctx if smaller.n_ctx is None else min(plan.n_ctx, smaller.n_ctx)
    n_ctx = _smaller_context(asked, n_now, CONTEXT_BESIDE_LAYERS if is_open else 0)
    if n_ctx is not None:
        return msgspec.structs.replace(smaller, n_ctx=n_ctx)
    if is_open and not has_failed and not smaller.may_split:
        return msgspec.structs.replace(smaller, may_split=True)
    if is_open and has_failed and plan.n_gpu_layers:
        n_left = max(0, plan.n_gpu_layers - -(-plan.n_layers // N_LAYER_STEPS))
        return msgspec.structs.replace(smaller, may_split=True, n_gpu_layers=n_left)
    if _may_shrink_kv(asked, plan) and smaller.kv_type is None:
        return msgspec.structs.replace(smaller, kv_type=SMALL_KV_TYPE)
    return None


def _smaller_context(asked: LoadOptions, n_now: int, floor: int) -> int | None:
    """The next smaller pool that still holds one request of the size that was asked for."""
    if asked.n_ctx is not None or asked.embedding:
        return None
    n_request = -(-(asked.n_ctx_per_request or 0) // GRAIN) * GRAIN
    floor = max(floor, n_request)
    sizes = sorted({*CONTEXTS, n_request} - {0}, reverse=True)
    return next((n_ctx for n_ctx in sizes if floor <= n_ctx < n_now), None)


def _may_shrink_kv(asked: LoadOptions, plan: MemoryPlan) -> bool:
    """Quantised caches need flash attention; a recurrent state has no type."""
    is_automatic = asked.type_k is None and asked.type_v is None and asked.flash_attention is not False
    return is_automatic and not asked.embedding and plan.attention_bytes + plan.window_bytes > 0
