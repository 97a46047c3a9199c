"""What loading a model would take, without loading it: the file's head is read, a context is planned, nothing is
allocated.

Resident memory of the machine is told as this process's own (it has imported what a runner imports and holds the
vocabulary) plus what a runner would allocate and touch: weights, caches, compute buffers and output rows. Caches are
cleared when they are made, so they are resident from the start; compute buffers when the pool
has been full once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from copy import copy

import msgspec
import psutil

from donabe import _core
from donabe.devices.memory import free_memory_bytes, free_swap_bytes
from donabe.engine.build import cache_ram_bytes
from donabe.errors import ModelFileError
from donabe.runner.draft import draft_path
from donabe.runner.load import LOADS_PROJECTORS, check_options
from donabe.runner.native_params import device_ids
from donabe.runner.placement import MARGIN_BYTES, count_layers, name_devices
from donabe.runner.plans import CPU, DevicePlan, MemoryPlan, ProjectorPlan
from donabe.runner.probe import Probe, Probed, Use
from donabe.runner.smaller import AS_ASKED, Smaller, fitting
from donabe.runner.tune import stored_setup, with_setup
from donabe.types import LoadOptions, ModelSpec

WORK_BYTES = 3_300_000  # what a runner takes when it works: threads, samplers, the state of a request; measured
DOUBLINGS = (2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144)
# A model of the CPU is not planned where so many times its files, and so much on top, are free: reading a large
# vocabulary for the plan takes longer than loading a small model. Weights may be there twice (the file's pages, and
# repacked), and an automatic pool takes as much as they do or POOL_BYTES.
PLENTY_TIMES = 4
PLENTY_BYTES = 2 << 30
# Larger numbers may need more than that.
PLENTY_LIMITS = {"n_ctx": 8192, "n_ctx_per_request": 8192, "n_parallel": 16, "n_batch": 2048, "n_ubatch": 2048}


class Planner:
    """Plans of one model on this machine.

    Raises:
        InvalidRequestError: An option is out of range.
        ModelFileError: A file is missing.
        RunnerStartError: An RPC worker can't be reached.
        LoadError: There is no CPU backend.
    """

    def __init__(self, spec: ModelSpec, options: LoadOptions) -> None:
        check_options(options)
        for path in spec.paths:
            if not os.path.isfile(path):
                name = os.path.basename(path)
                raise ModelFileError(f"model file {name} does not exist", path=name)
        draft_path(spec, options)
        self._spec = spec
        self.name = spec.name
        self.asked = options
        named = name_devices(options)
        self._devices = named.devices
        tuned, repack = with_setup(named, stored_setup(spec, named))
        self._probe = Probe(spec, tuned, repack=repack)
        self._options = tuned

    @property
    def has_plenty(self) -> bool:
        """Whether the load fits without a doubt, so that no plan is needed."""
        if self._devices != (CPU,) or any((getattr(self.asked, name) or 0) > n for name, n in PLENTY_LIMITS.items()):
            return False
        paths = (*self._spec.paths, draft_path(self._spec, self.asked))
        size = sum(os.path.getsize(path) for path in paths if path)
        return size * PLENTY_TIMES + PLENTY_BYTES <= free_memory_bytes()

    def with_requests_of(self, n_ctx: int) -> Planner:
        """The same, for requests of so many tokens."""
        other = copy(self)
        other.asked = msgspec.structs.replace(self.asked, n_ctx_per_request=n_ctx)
        other._options = msgspec.structs.replace(self._options, n_ctx_per_request=n_ctx)
        return other

    @property
    def n_ctx_train(self) -> int:
        return self._probe.head.n_ctx_train

    def plan(self, smaller: Smaller = AS_ASKED, *, process_bytes: int = WORK_BYTES) -> MemoryPlan:
        """The plan of a way to load, with what was measured for the model on this machine.

        Args:
            process_bytes: Of the runner itself that are not yet taken; the default is for plans in the runner.

        Raises:
            LoadError: The native side refused the file.
        """
        options = smaller.apply(self._options)
        reserve = 0
        if options.n_gpu_layers is None and self._devices != (CPU,) and not smaller.may_split:
            reserve = MARGIN_BYTES  # as where layers are counted
            options = msgspec.structs.replace(options, n_gpu_layers=self._probe.head.n_layer + 1)
        options = count_layers(self._spec, options, probe=self._probe)
        return self._describe(options, self._probe.ask(options), process_bytes, reserve)

    def fit(self, plan: MemoryPlan) -> tuple[Smaller, MemoryPlan]:
        """The first way that fits, as `fitting` finds it.

        Args:
            plan: Of the load as asked.
        """
        return fitting(self.asked, plan, self.plan)

    def _describe(self, options: LoadOptions, probed: Probed, process_bytes: int, reserve: int) -> MemoryPlan:
        plan, drafting = probed.plan, probed.draft_plan
        devices = _by_device(plan["uses"])
        if drafting is not None:
            parts = {CPU: DevicePlan(name=CPU), **_by_device(drafting["uses"])}
            for name, part in parts.items():
                n_bytes = part.total_bytes + (drafting["output_bytes"] if name == CPU else 0)
                devices[name] = msgspec.structs.replace(devices.get(name, DevicePlan(name=name)), draft_bytes=n_bytes)
        machine = devices.setdefault(CPU, DevicePlan(name=CPU))
        mapped = _mapped_bytes(self._spec.paths, options, plan["uses"]) if self._devices == (CPU,) else 0
        machine = msgspec.structs.replace(machine, weights_bytes=machine.weights_bytes + mapped)
        devices[CPU] = machine
        projector = _projector(self._spec)
        on_gpus = self._devices != (CPU,)
        n_layers = probed.model.n_layer + 1
        n_gpu_layers = n_layers if (options.n_gpu_layers or 0) < 0 else min(options.n_gpu_layers or 0, n_layers)
        found = MemoryPlan(
            n_ctx=plan["n_ctx"],
            n_ctx_per_request=probed.n_ctx_per_request,
            n_parallel=probed.n_parallel,
            n_layers=n_layers,
            n_gpu_layers=n_gpu_layers if on_gpus else None,
            n_cpu_moe=(options.n_cpu_moe or 0) if on_gpus else 0,
            attention_bytes=plan["attention_bytes"],
            window_bytes=plan["window_bytes"],
            state_bytes=plan["state_bytes"],
            output_bytes=plan["output_bytes"],
            process_bytes=process_bytes,
            resident_bytes=process_bytes + machine.total_bytes + plan["output_bytes"] + _loaded_bytes(projector),
            prefix_cache_bytes=_prefix_cache_bytes(
                options, plan["attention_bytes"] + plan["window_bytes"] + plan["state_bytes"]
            ),
            devices=_with_free(devices.values(), reserve),
            projector=projector,
        )
        needed = found.resident_bytes - process_bytes - mapped - _in_place_bytes(options, probed.uses)
        exceeds = needed > free_memory_bytes() + free_swap_bytes()
        return msgspec.structs.replace(found, fits=not found.missing_bytes(), exceeds_memory=exceeds)


def whole_process_plan(planner: Planner, smaller: Smaller, process_bytes: int | None = None) -> MemoryPlan:
    """A plan whose resident bytes include the process itself, which is this one's size with the head in memory."""
    plan = planner.plan(smaller)
    if process_bytes is None:
        process_bytes = int(psutil.Process().memory_info().rss) + WORK_BYTES
    resident = plan.resident_bytes - plan.process_bytes + process_bytes
    plan = msgspec.structs.replace(plan, process_bytes=process_bytes, resident_bytes=resident)
    return msgspec.structs.replace(plan, fits=not plan.missing_bytes())


def context_choices(planner: Planner) -> list[int]:
    """Contexts worth asking about: doublings up to the trained one, and the trained one."""
    n_trained = planner.n_ctx_train
    return [*(n_ctx for n_ctx in DOUBLINGS if n_ctx < n_trained), n_trained]


def _prefix_cache_bytes(options: LoadOptions, pool_bytes: int) -> int:
    return cache_ram_bytes(options, pool_bytes) if options.prefix_cache else 0


def _in_place_bytes(options: LoadOptions, uses: list[Use]) -> int:
    """Weights that are used where their file is mapped: the system may drop their pages and read them again."""
    if options.use_mmap is False:
        return 0
    return sum(weights for _buffer, device, _is_host, weights, *_ in uses if not device)


def _mapped_bytes(paths: Iterable[str], options: LoadOptions, uses: list[Use]) -> int:
    """Pages that weights were repacked from: resident beside the repacked ones, until the system takes them."""
    is_repacked = any(device == CPU and weights for _buffer, device, _is_host, weights, *_ in uses)
    if options.use_mmap is False or not is_repacked:
        return 0
    return max(0, sum(os.path.getsize(path) for path in paths) - _in_place_bytes(options, uses))


def _projector(spec: ModelSpec) -> ProjectorPlan | None:
    if not spec.projector:
        return None
    n_bytes = os.path.getsize(spec.projector) if os.path.isfile(spec.projector) else 0
    return ProjectorPlan(file_bytes=n_bytes, is_loaded=LOADS_PROJECTORS)


def _loaded_bytes(projector: ProjectorPlan | None) -> int:
    return projector.file_bytes if projector is not None and projector.is_loaded else 0


def _by_device(uses: list[Use]) -> dict[str, DevicePlan]:
    """Uses by device name; all memory of the machine itself, also that for transfers to a device, is `CPU`."""
    devices: dict[str, DevicePlan] = {}
    for _buffer, device, is_host, weights, cache, compute in uses:
        name = CPU if is_host or not device else device
        old = devices.get(name, DevicePlan(name=name))
        devices[name] = msgspec.structs.replace(
            old,
            weights_bytes=old.weights_bytes + weights,
            cache_bytes=old.cache_bytes + cache,
            compute_bytes=old.compute_bytes + compute,
        )
    return devices


def _with_free(devices: Iterable[DevicePlan], reserve: int) -> tuple[DevicePlan, ...]:
    """With what is free on each device, and the bytes that must stay so on all but the machine itself."""
    free = {device.name: int(device.memory_free_bytes) for device in _core.devices()}
    ids = device_ids()
    return tuple(
        msgspec.structs.replace(part, id=CPU, free_bytes=free_memory_bytes())
        if part.name == CPU
        else msgspec.structs.replace(
            part, id=ids.get(part.name, part.name), free_bytes=free.get(part.name, 0), reserve_bytes=reserve
        )
        for part in devices
    )
