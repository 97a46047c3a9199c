"""An engine over the fake native module, stepped by hand, with everything it publishes collected."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from tests.fakes import native

from donabe.engine.draft_model import DraftModel
from donabe.engine.engine import Engine
from donabe.engine.options import EngineOptions
from donabe.engine.request import EngineRequest, SequenceOutput

KINDS = ("dense", "iswa", "recurrent", "hybrid", "hybrid_iswa", "opaque")


def fake_model(kind: str = "dense", **fields) -> native.FakeModel:
    return native.FakeModel(memory_kind=kind, n_swa=24 if "iswa" in kind else 0, **fields)


class EngineHarness:
    """`tokens[request_id][index]` collects what came; `finals` the terminal outputs: one for each request."""

    def __init__(
        self,
        kind: str = "dense",
        *,
        model: native.FakeModel | None = None,
        n_ctx: int = 1024,
        n_batch: int = 64,
        n_seq_max: int = 12,
        disk=None,
        draft: native.FakeModel | None = None,
        n_lanes: int = 4,
        **options,
    ) -> None:
        self.model = model or fake_model(kind)
        self.clock = native.FakeClock()
        self.context = native.FakeContext(
            self.model, n_ctx=n_ctx, n_batch=n_batch, n_seq_max=n_seq_max, clock=self.clock
        )
        self.samplers = native.SamplerSet(self.model)
        self.draft = None
        if draft is not None:
            self.draft_context = native.FakeContext(
                draft, n_ctx=n_ctx, n_batch=n_batch, n_seq_max=n_lanes, clock=self.clock
            )
            self.draft = DraftModel(native, draft, self.draft_context)
        options.setdefault("n_parallel", 4)
        self.engine = Engine(
            self.model,
            self.context,
            self.samplers,
            EngineOptions(**options),
            self._publish,
            clock=self.clock,
            native=native,
            disk=disk,
            draft=self.draft,
        )
        self.published: list[list[SequenceOutput]] = []
        self.tokens: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        self.times: dict[str, list[float]] = defaultdict(list)
        self.finals: dict[str, list[SequenceOutput]] = defaultdict(list)
        self.ends: dict[str, list[SequenceOutput]] = defaultdict(list)

    @property
    def cache(self):
        return self.engine._cache

    @property
    def scheduler(self):
        return self.engine._scheduler

    def _publish(self, outputs: list[SequenceOutput]) -> None:
        assert outputs
        self.published.append(outputs)
        for output in outputs:
            self.tokens[output.request_id][output.index].extend(output.tokens)
            if output.tokens:
                self.times[output.request_id].append(self.clock.now)
            if output.finish_reason is not None:
                self.ends[output.request_id].append(output)
            if output.last:
                self.finals[output.request_id].append(output)

    def submit(self, request_id: str, tokens, **fields) -> None:
        fields.setdefault("max_tokens", 8)
        self.engine.submit(EngineRequest(request_id=request_id, tokens=np.asarray(tokens, np.int32), **fields))

    def step(self, n: int = 1) -> None:
        for _ in range(n):
            self.engine.step()
            self.check()

    def run(self, n_max: int = 5000) -> None:
        """Step until there is no work."""
        for _ in range(n_max):
            if not self.engine.has_work():
                return
            self.step()
        raise AssertionError("the engine does not come to an end")

    def check(self) -> None:
        self.engine.check()
        if self.context.memory.has_cells:
            assert self.cache.tree.n_cells == self.context.memory.n_used(), "cells in the tree and in memory differ"

    def answer(self, tokens, **fields) -> list[int]:
        """Run one request to its end."""
        request_id = f"answer-{len(self.finals)}-{self.clock.now}"
        self.submit(request_id, tokens, **fields)
        self.run()
        return self.tokens[request_id][0]


def prompt(n: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(10, 999, n).tolist()


def plain_answer(model: native.FakeModel, tokens, **fields) -> list[int]:
    """What the model says with no cache, no neighbours, no speculation."""
    harness = EngineHarness(model=model, n_ctx=4096, n_batch=256, prefix_cache=False)
    return harness.answer(tokens, **fields)
