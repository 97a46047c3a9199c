"""How many steps may follow each other in one native call, because nothing is to be decided between them.

While all running sequences decode plain rows and nobody can be admitted, a step only feeds back what the one before
sampled. The engine's Python costs a large part of a small model's step, so such steps run as one burst, as long as the
requests need not hear of each token at once. The native side ends a burst after the step in which a sequence finished
or something arrived: nobody waits longer for it than without bursts. Engine thread only.
"""

from __future__ import annotations

from donabe.engine.budget import StepBudget
from donabe.engine.plan import Plan
from donabe.engine.prefix_cache import PrefixCache
from donabe.engine.speculation import Speculation

MAX_BURST_S = 0.1


def plan_burst(
    plan: Plan, budget: StepBudget, speculation: Speculation, cache: PrefixCache, n_ctx: int, now: float
) -> None:
    """Let the plan's decode rows go on for as many steps as make sense; n_ctx is a sequence's."""
    rows = plan.decode
    max_s = min(MAX_BURST_S, *(s.call.request.output_interval_s for s in rows))
    step_s = budget.decode_s(len(rows))
    if max_s <= 0 or not step_s:
        return
    n_steps = min(int(max_s / step_s) + 1, *(n_ctx - s.n_total for s in rows))
    watched = []
    for sequence in rows:
        n_plain, is_watched = speculation.n_plain_steps(sequence)
        n_steps = min(n_steps, n_plain)
        if is_watched:
            watched.append(sequence)
    if n_steps <= 1:
        return
    if cache.kind.counts_cells:
        cache.eviction.make_room(len(rows) * n_steps, 0, now, can_wait=True)
        n_steps = max(min(n_steps, cache.n_free // len(rows)), 1)
    plan.n_steps, plan.max_s, plan.watched = n_steps, max_s, watched
