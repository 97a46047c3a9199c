"""Starts the backends of this process: the build's own, then the plug-ins that fit. Idempotent.

The only module here that opens native code. A plug-in that can't be used never stops donabe: it is reported, with what
would mend it, and the rest goes on.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from donabe.devices.hardware import driver_advice, find_accelerators, may_have_device, suggestion
from donabe.devices.plugins import Plugin, Refused, find_plugins, preload_libraries
from donabe.devices.selection import BACKENDS, Verdict, backend_name, offload_names, select_devices
from donabe.errors import InvalidRequestError, NativeError

if TYPE_CHECKING:
    from donabe._core import DeviceInfo

logger = logging.getLogger("donabe.devices")


@dataclass(frozen=True, slots=True)
class Started:
    """What runs in this process. `plugins`: names of those in use."""

    build: Mapping[str, Any]
    plugins: tuple[str, ...] = ()
    refused: tuple[Refused, ...] = ()
    hint: str = ""  # what would make an unused GPU useful
    devices: tuple[DeviceInfo, ...] = field(default=())


def start_backends(backend: str | None = None, native: Any = None) -> Started:
    """Load what the backend setting allows and look at the devices. With `cpu` no plug-in is opened.

    Raises:
        LoadError: There is no CPU backend.
    """
    if native is None:
        from donabe import _core as native
    native.init()
    build = native.build_info()
    plugins: Sequence[Plugin] = ()
    refused: list[Refused] = []
    if backend != "cpu":
        plugins, refused = find_plugins(build)
    used: list[str] = []
    for plugin in _newest_first(plugins):
        problem = _outdone(plugin, used) or preload_libraries(plugin) or _open(plugin, native)
        if problem is None:
            used.append(plugin.name)
        else:
            refused.append(problem)
    devices = tuple(native.devices())
    hint = ""
    if backend is None and not any(_is_own_gpu(device) for device in devices):
        hint = suggestion(find_accelerators(), [*used, *(item.name for item in refused)])
    return Started(native.build_info(), tuple(used), tuple(refused), hint, devices)


def _open(plugin: Plugin, native: Any) -> Refused | None:
    try:
        native.init(plugins=[str(plugin.library)])
    except NativeError as error:
        reason = f": {error.log_tail[-1]}" if error.log_tail else ""  # of a library that is missing: its name
        return Refused(plugin.name, error.message + reason, error.hint or "check that its driver is installed")
    family = _family(plugin.name)
    if family in BACKENDS and family not in {backend_name(device.backend) for device in native.devices()}:
        # CUDA starts without a driver too, and has nothing to show then.
        advice = driver_advice(family, plugin.name)
        hint = f"{advice}, or pip uninstall {plugin.distribution}"
        return Refused(plugin.name, "it finds no device it could use", hint, "idle")
    return None


def _newest_first(plugins: Sequence[Plugin]) -> list[Plugin]:
    """By name, but of several releases of one vendor's runtime (`cuda12`, `cuda13`) the newest first."""

    def key(plugin: Plugin) -> tuple[str, int]:
        family = _family(plugin.name)
        return family, -int(plugin.name[len(family) :] or 0)

    return sorted(plugins, key=key)


def _outdone(plugin: Plugin, used: Sequence[str]) -> Refused | None:
    """The devices of one backend are shown by one plug-in: a second one would show each of them again."""
    other = next((name for name in used if _family(name) == _family(plugin.name)), None)
    if other is None:
        return None
    return Refused(plugin.name, f"{other} does its work", f"pip uninstall {plugin.distribution}", "outdone")


def _family(name: str) -> str:
    """`cuda` of `cuda13`: our name of the backend."""
    return name.rstrip("0123456789")


def choose_devices(
    backend: str | None = None, names: Sequence[str] | None = None, native: Any = None
) -> tuple[tuple[str, ...], str]:
    """Start the backends and name the devices that layers go to; none is the CPU alone. With why a GPU of this machine
    may stay unused, or "": a line that is also logged, loudly, once.

    Raises:
        InvalidRequestError: The backend has no device here, or there is no device of a given name.
        LoadError: There is no CPU backend.
    """
    started = start_backends(backend, native)
    verdicts = _verdicts(started, backend, names)
    chosen = offload_names(started.devices, verdicts, names)
    note = fallback_line(started, chosen) if backend is None and not names else ""
    if note:
        _warn_once(note)
    return chosen, note


def _verdicts(started: Started, backend: str | None, names: Sequence[str] | None) -> list[Verdict]:
    try:
        return select_devices(started.devices, backend, names)
    except InvalidRequestError as error:
        hint = "; ".join(filter(None, (error.hint, *_reasons(started))))
        raise InvalidRequestError(error.message, field=error.field, hint=hint or None) from None


def fallback_line(started: Started, chosen: Sequence[str] = ()) -> str:
    """Why the chosen devices, or the CPU, do what a better one could do; "" when nothing suggests that there is one."""
    own = [device for device in started.devices if device.name in chosen and _is_own_gpu(device)]
    reasons = _better_reasons(started, backend_name(own[0].backend)) if own else _reasons(started)
    return f"running on {', '.join(chosen) or 'the CPU'}: {'; '.join(reasons)}" if reasons else ""


def _reasons(started: Started) -> list[str]:
    """Why GPUs are not used."""
    reasons = [_reason(item) for item in started.refused]
    return [*reasons, started.hint] if started.hint else reasons


def _better_reasons(started: Started, used: str) -> list[str]:
    """Why no backend is used that would come before the one that is. That one without a device is installed says
    nothing where the machine has none for it."""
    order = list(BACKENDS)
    reasons = []
    for item in started.refused:
        family = _family(item.name)
        is_better = family in order and used in order and order.index(family) < order.index(used)
        if is_better and (item.kind == "broken" or may_have_device(find_accelerators(), family)):
            reasons.append(_reason(item))
    return reasons


def _reason(item: Refused) -> str:
    return f"plug-in {item.name}: {item.message}; {item.hint}"


def _is_own_gpu(device: DeviceInfo) -> bool:
    """A GPU of this machine; devices of others are extra, and no reason to leave one unused."""
    return device.kind in ("gpu", "igpu") and backend_name(device.backend) != "rpc"


@functools.cache
def _warn_once(text: str) -> None:
    logger.warning("%s", text)
