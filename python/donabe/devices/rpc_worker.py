"""One connection of an RPC worker, in a process of its own: `python -m donabe.devices.rpc_worker`.

Reads one JSON object from stdin. Without `connection` it writes what could be lent, and ends. With it, it serves the
connected socket of that number until the peer leaves. It ends as soon as stdin closes: then the worker is gone. A peer
that makes ggml abort ends this process alone.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import dataclass
from typing import Any

from donabe.devices.rpc import spoken_version
from donabe.devices.rpc_cache import open_cache
from donabe.devices.selection import offload_names, select_devices
from donabe.devices.start import start_backends
from donabe.errors import DonabeError

_WARNING_LEVEL = 3
_LOG_INTERVAL_S = 0.5


@dataclass(frozen=True, slots=True)
class Lending:
    """What is lent. `devices`: their names; `described`: for people."""

    devices: tuple[str, ...]
    described: tuple[str, ...]
    protocol: str


def choose_lent(backend: str | None, names: list[str], native: Any) -> Lending:
    """The devices that are lent: those named, else the GPUs that a model would be put on, else the CPU.

    Raises:
        InvalidRequestError: A backend or device is not there.
        LoadError: There is no CPU backend.
        UnsupportedError: This build has no RPC backend.
    """
    started = start_backends(backend, native)
    verdicts = select_devices(started.devices, backend, names)
    chosen = tuple(names) or offload_names(started.devices, verdicts)
    if not chosen:
        chosen = tuple(device.name for device in started.devices if device.kind == "cpu")[:1]
    by_name = {device.name: device for device in started.devices}
    described = tuple(
        f"{name} ({by_name[name].description}, {by_name[name].memory_total_bytes / 1e9:.1f} GB)" for name in chosen
    )
    return Lending(chosen, described, spoken_version(native))


def serve_connection(request: dict[str, Any], native: Any) -> None:
    """Until the peer leaves. Raises DonabeError."""
    lending = choose_lent(request.get("backend"), request.get("devices", []), native)
    n_threads = request.get("n_threads") or native.n_physical_cores()
    with open_cache(request.get("cache_dir") or "", native) as folder:
        native.rpc_serve_connection(request["connection"], lending.devices, n_threads, folder)


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)  # the main thread is inside native code


def _print_logs(native: Any, ended: threading.Event) -> None:
    is_last = False
    while not is_last:
        is_last = ended.wait(_LOG_INTERVAL_S)
        for level, text in native.drain_logs():
            if level >= _WARNING_LEVEL:
                sys.stderr.write(f"{text.rstrip()}\n")


def main() -> int:
    from donabe import _core as native

    line = b""
    while not line.endswith(b"\n") and (part := os.read(0, 65_536)):
        line += part
    request = json.loads(line)
    if "connection" not in request:
        try:
            lending = choose_lent(request.get("backend"), request.get("devices", []), native)
            answer: dict[str, Any] = {"devices": lending.described, "protocol": lending.protocol}
        except DonabeError as error:
            answer = {"error": error.message, "hint": error.hint or ""}
        json.dump(answer, sys.stdout)
        return 0
    threading.Thread(target=_end_with_stdin, name="donabe-parent", daemon=True).start()
    ended = threading.Event()
    printer = threading.Thread(target=_print_logs, args=(native, ended), name="donabe-logs", daemon=True)
    printer.start()
    try:
        serve_connection(request, native)
        code = 0
    except DonabeError as error:
        sys.stderr.write(f"{error.message}\n")
        code = 1
    ended.set()
    printer.join()
    sys.stderr.flush()
    os._exit(code)  # one thread waits for stdin; backends need no clean-up at the end of a process


if __name__ == "__main__":
    sys.exit(main())
