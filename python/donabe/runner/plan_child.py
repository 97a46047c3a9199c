"""The child process of `donabe fit`: `python -m donabe.runner.plan_child`.

Reads one JSON object from stdin: `spec` (a ModelSpec), `options` (LoadOptions) and `contexts`, whether to plan other
contexts too. Writes one to stdout: `{"plan": MemoryPlan, "contexts": [MemoryPlan, ...]}` or `{"error", "hint"}`. It
imports what a runner imports, so that its own size is that of a runner without a model. A native abort ends it alone.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec

import donabe.runner.child  # noqa: F401  # for its size
from donabe.errors import DonabeError
from donabe.runner.memory_plan import context_choices, plan_load
from donabe.types import LoadOptions, ModelSpec


class _Request(msgspec.Struct, kw_only=True):
    spec: ModelSpec
    options: LoadOptions = LoadOptions()
    contexts: bool = False


def main() -> int:
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=_Request)
    try:
        plan = plan_load(request.spec, request.options)
        answer: dict[str, Any] = {"plan": plan}
        if request.contexts:
            answer["contexts"] = [
                plan_load(
                    request.spec,
                    msgspec.structs.replace(request.options, n_ctx_per_request=n_ctx),
                    process_bytes=plan.process_bytes,
                )
                for n_ctx in context_choices(request.spec, request.options)
            ]
        code = 0
    except DonabeError as error:
        answer = {"error": error.message, "hint": error.hint or ""}
        code = 1
    sys.stdout.buffer.write(msgspec.json.encode(answer))
    return code


if __name__ == "__main__":
    sys.exit(main())
