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

from donabe.devices.hardware import find_accelerators, suggestion
from donabe.devices.plugins import Plugin, Refused, find_plugins, preload_libraries
from donabe.devices.selection import Verdict, offload_names, select_devices
from donabe.errors import NativeError

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
    used = []
    for plugin in plugins:
        problem = preload_libraries(plugin) or _open(plugin, native)
        if problem is None:
            used.append(plugin.name)
        else:
            refused.append(problem)
    devices = tuple(native.devices())
    hint = ""
    if backend is None and not any(device.kind in ("gpu", "igpu") for device in devices):
        hint = suggestion(find_accelerators(), [*used, *(item.name for item in refused)])
    return Started(native.build_info(), tuple(used), tuple(refused), hint, devices)


def _open(plugin: Plugin, native: Any) -> Refused | None:
    try:
        native.init(plugins=[str(plugin.library)])
    except NativeError as error:
        return Refused(plugin.name, error.message, error.hint or "check that its driver is installed")
    return None


def choose_devices(
    backend: str | None = None, names: Sequence[str] | None = None, native: Any = None
) -> tuple[str, ...]:
    """Start the backends and name the devices that layers go to; none is the CPU alone. Says so loudly, in one line,
    when a GPU of this machine stays unused.

    Raises:
        InvalidRequestError: The backend has no device here, or there is no device of a given name.
        LoadError: There is no CPU backend.
    """
    started = start_backends(backend, native)
    verdicts: list[Verdict] = select_devices(started.devices, backend, names)
    chosen = offload_names(started.devices, verdicts)
    if not chosen and backend is None and not names:
        text = fallback_line(started)
        if text:
            _warn_once(text)
    return chosen


def fallback_line(started: Started) -> str:
    """Why the CPU does what a GPU could do; "" when nothing suggests that there is one."""
    reasons = [f"plug-in {item.name}: {item.message}; {item.hint}" for item in started.refused]
    if started.hint:
        reasons.append(started.hint)
    return f"running on the CPU: {'; '.join(reasons)}" if reasons else ""


@functools.cache
def _warn_once(text: str) -> None:
    logger.warning("%s", text)
