"""What a load would allocate, from files whose weights are not read: the plans of one load share the heads of its
files, because reading a large vocabulary takes a second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from donabe import _core
from donabe.engine.build import N_PARALLEL, planned_contexts
from donabe.runner.draft import open_draft
from donabe.runner.embedding_lane import LanePlan, embedding_n_ctx, own_pooling
from donabe.runner.native_params import model_params
from donabe.types import LoadOptions, ModelSpec

T = TypeVar("T")
_N_HEADS = 2  # kept at once: each holds a vocabulary

Use = tuple[str, str, bool, int, int, int]  # buffer, device, is_host, weights, cache and compute bytes


@dataclass(frozen=True, slots=True)
class Probed:
    """Native plans of a model's context and of its draft model's."""

    model: _core.Model
    plan: dict[str, Any]
    draft_plan: dict[str, Any] | None
    n_ctx_per_request: int
    n_parallel: int

    @property
    def uses(self) -> list[Use]:
        drafting = self.draft_plan["uses"] if self.draft_plan is not None else []
        return [*self.plan["uses"], *drafting]

    def device_bytes(self) -> dict[str, int]:
        """Bytes by device, the machine's own memory left out."""
        total: dict[str, int] = {}
        for _buffer, device, is_host, *parts in self.uses:
            if device and not is_host:
                total[device] = total.get(device, 0) + sum(parts)
        return total


class Probe:
    """One model on named devices.

    Args:
        options: Only the number of layers on devices, of experts that are not, and what concerns contexts may differ
            from these in later questions.
        repack: Whether the weights that stay on the CPU will be repacked.
    """

    def __init__(self, spec: ModelSpec, options: LoadOptions, *, repack: bool = True) -> None:
        self._spec = spec
        self._options = options
        self._repack = repack
        self._models: dict[object, _core.Model] = {}
        self._drafts: dict[object, _core.Model | None] = {}

    @property
    def head(self) -> _core.Model:
        """The model's facts and vocabulary, however it is placed."""
        return next(iter(self._models.values()), None) or self._model(self._options)

    def ask(self, options: LoadOptions) -> Probed:
        """What a load with these options would allocate.

        Raises:
            ModelFileError: The draft model's file does not exist.
            LoadError: The native side refused a file or a context.
        """
        model = self._model(options)
        if options.embedding or model.memory_kind == "none" or not model.has_decoder:
            lane = LanePlan(model, options, own_pooling(model, options))
            params = _core.ContextParams(**lane.context_arguments(options))
            n_request = embedding_n_ctx(model, options)
            return Probed(model, _plan(model, params), None, n_request, options.n_parallel or N_PARALLEL)
        draft = self._draft(model, options)
        size, params, draft_params = planned_contexts(_core, model, options, draft)
        drafting = None if draft is None or draft_params is None else _plan(draft, draft_params)
        return Probed(model, _plan(model, params), drafting, size.n_ctx_per_request, size.n_parallel)

    def _model(self, options: LoadOptions) -> _core.Model:
        def read() -> _core.Model:
            paths = list(self._spec.paths)
            return _core.Model(paths, model_params(options, repack=self._repack, no_alloc=True))

        return _kept(self._models, (options.n_gpu_layers, options.n_cpu_moe), read)

    def _draft(self, model: _core.Model, options: LoadOptions) -> _core.Model | None:
        def read() -> _core.Model | None:
            return open_draft(model, self._spec, options, no_alloc=True)

        return _kept(self._drafts, options.n_gpu_layers == 0, read)


def _plan(model: _core.Model, params: _core.ContextParams) -> dict[str, Any]:
    return dict(_core.plan_memory(model, params))


def _kept(heads: dict[object, T], key: object, read: Callable[[], T]) -> T:
    """The head under this key, read if it is not there; those asked for longest ago are dropped."""
    head = heads.pop(key) if key in heads else read()
    heads[key] = head
    while len(heads) > _N_HEADS:
        del heads[next(iter(heads))]
    return head
