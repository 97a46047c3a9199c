"""Where a model goes: devices, layers on them, experts that stay behind. The user's numbers are kept; what he left open
is fitted into the free memory of the chosen devices with plans that allocate nothing.

Experts leave the devices before whole layers do: they are most of the weights and little of the work.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import msgspec

from donabe import _core
from donabe.devices.rpc import add_workers
from donabe.devices.start import choose_devices
from donabe.errors import InvalidRequestError
from donabe.runner.plans import CPU
from donabe.runner.probe import Probe
from donabe.types import LoadOptions, ModelSpec

logger = logging.getLogger("donabe.runner")

MARGIN_BYTES = 512 << 20  # left free on each device: drivers and displays need some, and plans are not exact

# (layers on devices, layers whose experts are not) -> bytes by device
Need = Callable[[int, int], Mapping[str, int]]


def name_devices(options: LoadOptions) -> LoadOptions:
    """The options with the devices that will be used named, or else the CPU. Idempotent.

    Raises:
        InvalidRequestError: A backend, device or index is not there.
        RunnerStartError: An RPC worker can't be reached, or speaks another version.
        LoadError: There is no CPU backend.
    """
    return place(options)[0]


def place(options: LoadOptions) -> tuple[LoadOptions, str]:
    """`name_devices`, and why a GPU of this machine stays unused; "" where none does."""
    asks_for_none = options.n_gpu_layers == 0 and not options.devices and options.backend is None
    is_for_cpu = asks_for_none or options.devices == (CPU,)
    if not is_for_cpu and options.backend != "cpu":
        add_workers(options.rpc, _core)
    names, note = choose_devices("cpu" if is_for_cpu else options.backend, options.devices)
    if options.main_gpu is not None and names and options.main_gpu >= len(names):
        raise InvalidRequestError(
            f"main_gpu {options.main_gpu} is not there: {len(names)} devices are used, counted from 0",
            field="main_gpu",
            hint=f"devices: {', '.join(names)}",
        )
    if len(options.tensor_split) > max(len(names), 1):
        raise InvalidRequestError(
            f"tensor_split has {len(options.tensor_split)} shares for {len(names)} devices", field="tensor_split"
        )
    return msgspec.structs.replace(options, devices=names or (CPU,)), note


def count_layers(
    spec: ModelSpec, options: LoadOptions, *, repack: bool = True, probe: Probe | None = None
) -> LoadOptions:
    """The options, whose devices are named, with as many layers on these as fit beside the draft model. Idempotent.

    What decides about memory must be final in the options: where settings were tuned, these.

    Args:
        repack: Whether the weights that stay on the CPU will be repacked.
        probe: Of the same model and devices, if there is one already.

    Raises:
        LoadError: The file can't be planned.
    """
    if options.devices == (CPU,) or options.n_gpu_layers is not None:
        return options
    used = options.devices if options.main_gpu is None else (options.devices[options.main_gpu],)
    free = {device.name: device.memory_free_bytes for device in _core.devices() if device.name in used}
    probe = probe or Probe(spec, options, repack=repack)
    n_layer, n_expert = probe.head.n_layer, probe.head.n_expert

    def need(n_gpu_layers: int, n_cpu_moe: int) -> Mapping[str, int]:
        trial = msgspec.structs.replace(options, n_gpu_layers=n_gpu_layers, n_cpu_moe=n_cpu_moe)
        return probe.ask(trial).device_bytes()

    n_gpu_layers, n_cpu_moe = fit_layers(need, free, n_layer, has_experts=n_expert > 0, n_cpu_moe=options.n_cpu_moe)
    n_moved = n_cpu_moe if options.n_cpu_moe is None else 0  # the user's own choice needs no warning
    if n_gpu_layers <= n_layer or n_moved:
        experts = f", experts of {n_moved} layers in main memory" if n_moved else ""
        logger.warning(
            "%s does not fit the devices: %d of %d layers there%s", spec.name, n_gpu_layers, n_layer + 1, experts
        )
    return msgspec.structs.replace(options, n_gpu_layers=n_gpu_layers, n_cpu_moe=n_cpu_moe)


def fit_layers(
    need: Need, free: Mapping[str, int], n_layer: int, *, has_experts: bool, n_cpu_moe: int | None = None
) -> tuple[int, int]:
    """(layers on devices, layers whose experts are not): the most that leaves MARGIN_BYTES on every device.

    `n_layer + 1` is everything: the output counts as a layer. A given `n_cpu_moe` is kept.
    """

    def fits(n_gpu_layers: int, n_moe: int) -> bool:
        wanted = need(n_gpu_layers, n_moe)
        return all(wanted.get(name, 0) <= max(n_free - MARGIN_BYTES, 0) for name, n_free in free.items())

    n_all = n_layer + 1
    n_moe = n_cpu_moe or 0
    if fits(n_all, n_moe):
        return n_all, n_moe
    if has_experts and n_cpu_moe is None:
        n_moe = n_layer
        if fits(n_all, n_moe):
            return n_all, _bisect(1, n_layer, lambda count: fits(n_all, count))
    # the most layers that fit is what is left of all when the fewest are taken away
    n_away = _bisect(1, n_all, lambda count: count == n_all or fits(n_all - count, n_moe))
    return n_all - n_away, n_moe


def _bisect(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The least number in [low, high] for which `holds`, which holds for `high` and all above the answer."""
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return high
