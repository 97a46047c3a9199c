"""The child process of `donabe doctor`: `python -m donabe.devices.describe`.

Reads one JSON object from stdin: `backend`, `devices` and `rpc`, as set. Writes one to stdout: the build, what the CPU
can do, every device with whether and why it is used, the plug-ins, RPC workers that can't be used. A driver that
crashes ends this process alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from donabe.devices.hardware import driver_of
from donabe.devices.rpc import add_workers
from donabe.devices.selection import select_devices
from donabe.devices.start import start_backends
from donabe.errors import DonabeError


def describe(
    backend: str | None, names: list[str], native: Any = None, *, workers: Sequence[str] = ()
) -> dict[str, Any]:
    """What there is; a setting that can't be met is told as `error`, beside the devices."""
    if native is None:
        from donabe import _core as native
    lost = [] if backend == "cpu" else _add_each(workers, native)
    started = start_backends(backend, native)
    answer: dict[str, Any] = {
        "build": dict(started.build),
        "features": _features(native.system_info()),
        "plugins": list(started.plugins),
        "refused": [
            {"name": item.name, "message": item.message, "hint": item.hint, "kind": item.kind}
            for item in started.refused
        ],
        "hint": started.hint,
        "lost_workers": lost,
    }
    try:
        verdicts = select_devices(started.devices, backend, names)
    except DonabeError as error:
        answer |= {"setting_error": error.message, "setting_hint": error.hint or ""}
        verdicts = select_devices(started.devices)
    answer["devices"] = [
        {
            "name": device.name,
            "description": device.description,
            "backend": device.backend,
            "kind": device.kind,
            "pci_id": device.pci_id,
            "driver": driver_of(device.pci_id),
            "memory_total_bytes": device.memory_total_bytes,
            "memory_free_bytes": device.memory_free_bytes,
            "is_chosen": verdict.is_chosen,
            "reason": verdict.reason,
        }
        for device, verdict in zip(started.devices, verdicts, strict=True)
    ]
    return answer


def _add_each(workers: Sequence[str], native: Any) -> list[dict[str, str]]:
    """Connect to the RPC workers; those that can't be used, with the reason."""
    lost = []
    for address in workers:
        try:
            add_workers([address], native)
        except DonabeError as error:
            lost.append({"address": address, "message": error.message, "hint": error.hint or ""})
    return lost


def _features(system_info: str) -> list[str]:
    """Names of what is switched on for the CPU, out of `CUDA : NO_VMM = 1 | CPU : AVX = 1 | AVX2 = 0 | ...`."""
    names = []
    backend = ""
    for item in system_info.split("|"):
        head, colon, feature = item.rpartition(":")
        backend = head.strip() if colon else backend
        name, equals, value = feature.partition("=")
        if backend == "CPU" and equals and value.strip() == "1":
            names.append(name.strip())
    return names


def main() -> int:
    request = json.loads(sys.stdin.read() or "{}")
    try:
        answer = describe(request.get("backend"), request.get("devices", []), workers=request.get("rpc", ()))
    except DonabeError as error:
        answer = {"error": error.message, "hint": error.hint or ""}
    json.dump(answer, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
