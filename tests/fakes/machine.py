"""A machine whose memory loaded models take: a `start_runner` with the real rules of plans and made-up numbers."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from tests.fakes.runner import RunnerFactory, ScriptedRunner

from donabe.errors import DonabeError, LoadError
from donabe.runner.admission import Admission
from donabe.runner.messages import Plan, Planned
from donabe.runner.plans import CPU, DevicePlan, MemoryPlan
from donabe.runner.smaller import AS_ASKED, Smaller, fitting
from donabe.types import LoadOptions, ModelSpec

GPU = "GPU0"
N_LAYERS = 8
LAYER_BYTES = 1000
N_CTX = 32768  # the automatic one
CELL_BYTES = 1  # of f16, over all layers; the small type takes half


class FakeMachine:
    """Free bytes by device; layers on the GPU, if there is one, take their part of the cache along.

    Args:
        hidden: Bytes of a device that are not there, though they seem free.
    """

    def __init__(self, factory: RunnerFactory, hidden: Mapping[str, int] | None = None, **total: int) -> None:
        self.factory = factory
        self.total = {CPU: total["ram"]} | ({GPU: total["gpu"]} if "gpu" in total else {})
        self.hidden = hidden or {}
        self.tried: list[LoadOptions] = []
        self.n_plans = 0
        self.error: LoadError | None = None
        self.plan_error: DonabeError | None = None

    def free(self) -> dict[str, int]:
        alive = [runner for runner in self.factory.runners if runner.alive]
        return {id: n - sum(r.info.device_bytes.get(id, 0) for r in alive) for id, n in self.total.items()}

    async def __call__(
        self, spec: ModelSpec, options: LoadOptions, *, admission: Admission | None = None
    ) -> ScriptedRunner:
        assert admission is not None
        options = await admission.settle(Plan(spec=spec, options=options), self.ask)
        self.tried.append(options)
        if self.error is not None:
            raise self.error
        plan = self.plan(options, Smaller(may_split=True))
        for part in plan.devices:
            if plan.taken_bytes(part) > part.free_bytes - self.hidden.get(part.id, 0):
                raise LoadError(f"failed to allocate {part.id} buffer", is_out_of_memory=True)
        runner = await self.factory(spec, options)
        taken = {part.id: plan.taken_bytes(part) for part in plan.devices}
        runner.info = msgspec.structs.replace(runner.info, device_bytes=taken, n_ctx=plan.n_ctx)
        return runner

    async def ask(self, asked: Plan) -> Planned:
        self.n_plans += 1
        if self.plan_error is not None:
            raise self.plan_error
        smaller, plan = asked.smaller, self.plan(asked.options, asked.smaller)
        if asked.may_shrink:
            smaller, plan = fitting(asked.options, plan, lambda way: self.plan(asked.options, way))
        return Planned(smaller=smaller, plan=plan)

    def plan(self, asked: LoadOptions, smaller: Smaller = AS_ASKED) -> MemoryPlan:
        options = smaller.apply(asked)
        n_layers = 0
        if GPU in self.total and options.n_gpu_layers != 0:
            n_layers = N_LAYERS if options.n_gpu_layers is None else options.n_gpu_layers
            if options.n_gpu_layers is None and smaller.may_split:
                fits = [n for n in range(N_LAYERS + 1) if self._on_gpu(options, n) <= self.free()[GPU]]
                n_layers = max(fits, default=0)
        cache = self._cache(options)
        on_gpu = self._on_gpu(options, n_layers)
        taken = {CPU: N_LAYERS * LAYER_BYTES + cache - on_gpu, GPU: on_gpu}
        free = self.free()
        return MemoryPlan(
            n_ctx=_n_ctx(options),
            n_ctx_per_request=options.n_ctx_per_request or _n_ctx(options),
            n_parallel=8,
            n_layers=N_LAYERS,
            n_gpu_layers=n_layers if GPU in self.total and options.n_gpu_layers != 0 else None,
            n_cpu_moe=0,
            attention_bytes=cache,
            window_bytes=0,
            state_bytes=0,
            output_bytes=0,
            process_bytes=0,
            resident_bytes=taken[CPU],
            prefix_cache_bytes=0,
            devices=tuple(
                DevicePlan(name=id, id=id, weights_bytes=taken[id], free_bytes=free[id]) for id in self.total
            ),
            exceeds_memory=cache > 100 * max(self.total.values()),
        )

    def _cache(self, options: LoadOptions) -> int:
        return _n_ctx(options) * CELL_BYTES // (2 if options.type_k == "q8_0" else 1)

    def _on_gpu(self, options: LoadOptions, n_layers: int) -> int:
        return n_layers * (LAYER_BYTES + self._cache(options) // N_LAYERS)


def _n_ctx(options: LoadOptions) -> int:
    return options.n_ctx or max(N_CTX, options.n_ctx_per_request or 0)
