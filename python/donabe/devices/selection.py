"""Which of the devices a model is put on. Pure: takes what the backends report, returns a verdict on each.

Automatic: the devices of one backend, the first of CUDA, ROCm, Metal, Vulkan and SYCL that has a GPU, discrete ones
before integrated ones; two backends often show the same GPU. Devices of other machines come on top. No GPU: the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from donabe.errors import InvalidRequestError

# Our name of a backend -> how ggml registers it, in the order of preference.
BACKENDS = {"cuda": "CUDA", "rocm": "ROCm", "metal": "MTL", "vulkan": "Vulkan", "sycl": "SYCL"}
_OTHER_NAMES = {"Metal": "metal", "HIP": "rocm", "RPC": "rpc"}
BACKEND_NAMES = (*BACKENDS, "cpu")


class Device(Protocol):
    """What `_core.DeviceInfo` tells."""

    @property
    def name(self) -> str: ...
    @property
    def backend(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def memory_free_bytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a device takes part, and why."""

    name: str
    is_chosen: bool
    reason: str


def backend_name(registered: str) -> str:
    """Our name of a backend that ggml calls so."""
    known = {theirs: ours for ours, theirs in BACKENDS.items()} | _OTHER_NAMES
    return known.get(registered, registered.lower())


def select_devices(
    devices: Sequence[Device], backend: str | None = None, names: Sequence[str] | None = None
) -> list[Verdict]:
    """A verdict on each device, in their order.

    Args:
        backend: One of BACKEND_NAMES: only its devices may be chosen. None is automatic.
        names: Exactly these devices; wins over `backend`. Empty or None is automatic.

    Raises:
        InvalidRequestError: The backend has no device here, or there is no device of a given name.
    """
    if names:
        return _by_name(devices, names)
    gpus = [device for device in devices if device.kind in ("gpu", "igpu")]
    ranked = [name for name in BACKENDS if any(backend_name(gpu.backend) == name for gpu in gpus)]
    if backend is not None and backend != "cpu" and backend not in ranked:
        there = ", ".join([*ranked, "cpu"])
        raise InvalidRequestError(
            f"backend {backend} has no device here", field="backend", hint=f"backends with devices: {there}"
        )
    wanted = backend or next(iter(ranked), "cpu")
    has_discrete = any(gpu.kind == "gpu" and backend_name(gpu.backend) == wanted for gpu in gpus)
    return [_judge(device, wanted, backend is not None, has_discrete) for device in devices]


def _judge(device: Device, wanted: str, is_given: bool, has_discrete: bool) -> Verdict:
    mine = backend_name(device.backend)
    if device.kind == "accel":
        return Verdict(device.name, wanted == "cpu", "helps the CPU")
    if device.kind == "cpu":
        return Verdict(device.name, True, "computes everything" if wanted == "cpu" else "computes what GPUs don't")
    if mine == "rpc":
        return Verdict(device.name, wanted != "cpu" or not is_given, "of another machine")
    if mine != wanted:
        why = f"backend is set to {wanted}" if is_given else f"{wanted} comes first"
        return Verdict(device.name, False, why)
    if device.kind == "igpu" and has_discrete:
        return Verdict(device.name, False, "integrated, and there is a discrete one")
    return Verdict(device.name, True, "as set" if is_given else "the best there is")


def _by_name(devices: Sequence[Device], names: Sequence[str]) -> list[Verdict]:
    known = [device.name for device in devices]
    for name in names:
        if name not in known:
            raise InvalidRequestError(
                f"there is no device {name}", field="devices", hint=f"devices here: {', '.join(known)}"
            )
    return [
        Verdict(
            device.name, device.name in names or device.kind == "cpu", "as set" if device.name in names else "not set"
        )
        for device in devices
    ]


def offload_names(
    devices: Sequence[Device], verdicts: Sequence[Verdict], names: Sequence[str] | None = None
) -> tuple[str, ...]:
    """The chosen devices that layers are put on, the first layers on the first of them.

    Args:
        names: The devices as they were asked for: their order is kept. Empty or None is automatic: other machines
            first, to send the least over the network.
    """
    chosen = [
        device
        for device, verdict in zip(devices, verdicts, strict=True)
        if verdict.is_chosen and device.kind in ("gpu", "igpu")
    ]
    if names:
        order = list(names)
        return tuple(sorted((device.name for device in chosen), key=order.index))
    return tuple(device.name for device in sorted(chosen, key=lambda item: backend_name(item.backend) != "rpc"))
