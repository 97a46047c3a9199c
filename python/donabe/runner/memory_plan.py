"""What loading a model would take, without loading it: the file's head is read, a context is planned, nothing is
allocated.

Resident memory of the machine is told as this process's own (it has imported what a runner imports and holds the
vocabulary) plus what a runner would allocate and touch: weights, caches, compute buffers and output rows. Caches are
cleared when they are made, so they are resident from the start; compute buffers when the pool
has been full once.
"""

from __future__ import annotations

import os

import msgspec
import psutil

from donabe import _core
from donabe.engine.build import CACHE_RAM_BYTES, planned_contexts
from donabe.errors import ModelFileError
from donabe.runner.load import check_options
from donabe.runner.placement import CPU, count_layers, name_devices, probe_model
from donabe.runner.tune import stored_setup, with_setup
from donabe.types import LoadOptions, ModelSpec

WORK_BYTES = 3_300_000  # what a runner takes when it works: threads, samplers, the state of a request; measured
DOUBLINGS = (2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144)


class DevicePlan(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes on one device, or in the machine's memory (`CPU`); for that one `free_bytes` is what is available."""

    name: str
    weights_bytes: int = 0
    cache_bytes: int = 0
    compute_bytes: int = 0
    draft_bytes: int = 0
    free_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.cache_bytes + self.compute_bytes + self.draft_bytes


class MemoryPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One way to load a model. Cache bytes by kind of layer are over all devices.

    Attributes:
        process_bytes: A runner without a model's weights: interpreter, libraries, vocabulary.
        resident_bytes: All that a runner holds of the machine's memory.
        prefix_cache_bytes: May be added later by kept prefixes.
        n_gpu_layers: None when the model stays on the CPU.
    """

    n_ctx: int
    n_ctx_per_request: int
    n_parallel: int
    n_gpu_layers: int | None
    n_cpu_moe: int
    attention_bytes: int
    window_bytes: int
    state_bytes: int
    output_bytes: int
    process_bytes: int
    resident_bytes: int
    prefix_cache_bytes: int
    devices: tuple[DevicePlan, ...]
    fits: bool


def plan_load(spec: ModelSpec, options: LoadOptions, *, process_bytes: int | None = None) -> MemoryPlan:
    """The plan of a load with these options, and with what was measured for the model on this machine.

    Args:
        process_bytes: From an earlier plan of the same process, which grows a little with each.

    Raises:
        InvalidRequestError: An option is out of range.
        ModelFileError: A file is missing.
        LoadError: The native side refused the file.
    """
    check_options(options)
    for path in (*spec.paths, *filter(None, (_draft_path(spec, options),))):
        if not os.path.isfile(path):
            raise ModelFileError(f"model file {os.path.basename(path)} does not exist", path=os.path.basename(path))
    options = name_devices(options)
    options, repack = with_setup(options, stored_setup(spec, options))
    options = count_layers(spec, options, repack=repack)
    model = probe_model(spec, options, repack=repack)
    draft_path = _draft_path(spec, options)
    draft = probe_model(msgspec.structs.replace(spec, paths=(draft_path,)), options) if draft_path else None
    size, params, draft_params = planned_contexts(_core, model, options, draft)
    if process_bytes is None:
        process_bytes = int(psutil.Process().memory_info().rss) + WORK_BYTES
    plan = _core.plan_memory(model, params)
    devices = _by_device(plan["uses"])
    if draft is not None and draft_params is not None:
        drafting = _core.plan_memory(draft, draft_params)
        for name, part in _by_device(drafting["uses"]).items():
            devices[name] = msgspec.structs.replace(
                devices.get(name, DevicePlan(name=name)), draft_bytes=part.total_bytes + drafting["output_bytes"]
            )
    machine = devices.setdefault(CPU, DevicePlan(name=CPU))
    resident_bytes = process_bytes + machine.total_bytes + plan["output_bytes"]
    on_gpus = len(devices) > 1
    return MemoryPlan(
        n_ctx=plan["n_ctx"],
        n_ctx_per_request=size.n_ctx_per_request,
        n_parallel=size.n_parallel,
        n_gpu_layers=(-1 if options.n_gpu_layers is None else options.n_gpu_layers) if on_gpus else None,
        n_cpu_moe=(options.n_cpu_moe or 0) if on_gpus else 0,
        attention_bytes=plan["attention_bytes"],
        window_bytes=plan["window_bytes"],
        state_bytes=plan["state_bytes"],
        output_bytes=plan["output_bytes"],
        process_bytes=process_bytes,
        resident_bytes=resident_bytes,
        prefix_cache_bytes=_prefix_cache_bytes(options),
        devices=tuple(_with_free(part) for part in devices.values()),
        fits=all(_fits(_with_free(part), resident_bytes) for part in devices.values()),
    )


def context_choices(spec: ModelSpec, options: LoadOptions) -> list[int]:
    """Contexts worth asking about: doublings up to the trained one, and the trained one."""
    n_trained = probe_model(spec, name_devices(options)).n_ctx_train
    return [*(n_ctx for n_ctx in DOUBLINGS if n_ctx < n_trained), n_trained]


def _draft_path(spec: ModelSpec, options: LoadOptions) -> str | None:
    path = spec.draft if options.draft is None else options.draft
    return path if path and options.n_draft_max != 0 else None


def _prefix_cache_bytes(options: LoadOptions) -> int:
    if not options.prefix_cache:
        return 0
    return CACHE_RAM_BYTES if options.prefix_cache_ram_bytes is None else options.prefix_cache_ram_bytes


def _by_device(uses: list[tuple[str, str, bool, int, int, int]]) -> dict[str, DevicePlan]:
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


def _with_free(part: DevicePlan) -> DevicePlan:
    if part.name == CPU:
        return msgspec.structs.replace(part, free_bytes=int(psutil.virtual_memory().available))
    free = {device.name: device.memory_free_bytes for device in _core.devices()}
    return msgspec.structs.replace(part, free_bytes=int(free.get(part.name, 0)))


def _fits(part: DevicePlan, resident_bytes: int) -> bool:
    wanted = resident_bytes if part.name == CPU else part.total_bytes
    return wanted <= part.free_bytes
