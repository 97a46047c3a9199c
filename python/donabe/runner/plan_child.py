"""The child process of `donabe fit`: `python -m donabe.runner.plan_child`.

Reads one JSON object from stdin: `spec` (a ModelSpec), `options` (LoadOptions) and `contexts`, whether to plan other
contexts too. Writes one to stdout: `{"plan": MemoryPlan, "given_up": "what a load would give up to fit", "contexts":
[MemoryPlan, ...]}` or `{"error", "hint"}`. It imports what a runner imports, so that its own size is that of a runner
without a model. A native abort ends it alone.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec

import donabe.runner.child  # noqa: F401  # for its size
from donabe.errors import DonabeError
from donabe.runner.memory_plan import Planner, context_choices, whole_process_plan
from donabe.runner.smaller import Smaller
from donabe.types import LoadOptions, ModelSpec


class _Request(msgspec.Struct, kw_only=True):
    spec: ModelSpec
    options: LoadOptions = LoadOptions()
    contexts: bool = False


def main() -> int:
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=_Request)
    try:
        planner = Planner(request.spec, request.options)
        plan = whole_process_plan(planner, Smaller(may_split=True))
        answer: dict[str, Any] = {"plan": plan, "given_up": _given_up(planner)}
        if request.contexts:
            answer["contexts"] = [
                whole_process_plan(
                    planner.with_requests_of(n_ctx), Smaller(may_split=True), process_bytes=plan.process_bytes
                )
                for n_ctx in context_choices(planner)
            ]
        code = 0
    except DonabeError as error:
        answer = {"error": error.message, "hint": error.hint or ""}
        code = 1
    sys.stdout.buffer.write(msgspec.json.encode(answer))
    return code


def _given_up(planner: Planner) -> str:
    """What a load would give up to fit, or not to exceed memory; "" when it fits as asked, or not at all."""
    smaller, plan = planner.fit(planner.plan())
    return smaller.describe(plan)


if __name__ == "__main__":
    sys.exit(main())
