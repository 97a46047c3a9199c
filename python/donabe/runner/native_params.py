"""Load options as the native side takes them, and the names it gives to devices."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from donabe import _core
from donabe.devices.selection import backend_name
from donabe.types import LoadOptions

_EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"


def model_params(options: LoadOptions, *, repack: bool = True, no_alloc: bool = False) -> _core.ModelParams:
    """Native parameters of placed options; without devices llama.cpp chooses."""
    gpus = {device.name for device in _core.devices() if device.kind in ("gpu", "igpu")}
    devices = [name for name in options.devices if name in gpus] if options.devices else None
    return _core.ModelParams(
        n_gpu_layers=-1 if options.n_gpu_layers is None else options.n_gpu_layers,
        main_gpu=(options.main_gpu or 0) if devices != [] else 0,
        split_mode="none" if options.main_gpu is not None and devices != [] else "layer",
        tensor_split=options.tensor_split if devices != [] else (),
        devices=devices,
        load_mode=_load_mode(options),
        use_extra_bufts=repack,
        no_alloc=no_alloc,
        cpu_tensors=_cpu_tensors(options.n_cpu_moe) if devices != [] else (),
    )


def _cpu_tensors(n_cpu_moe: int | None) -> tuple[str, ...]:
    """Patterns of the tensors that stay in the machine's memory: the experts of the first layers, or of all (-1)."""
    if not n_cpu_moe:
        return ()
    if n_cpu_moe < 0:
        return (_EXPERTS,)
    return tuple(rf"blk\.{layer}{_EXPERTS}" for layer in range(min(n_cpu_moe, 1024)))


def _load_mode(options: LoadOptions) -> Literal["auto", "none", "mmap", "mlock", "mmap_mlock"]:
    if options.use_mlock:
        return "mlock" if options.use_mmap is False else "mmap_mlock"
    if options.use_mmap is None:
        return "auto"
    return "mmap" if options.use_mmap else "none"


def device_ids() -> dict[str, str]:
    """Name of each GPU -> the name of its buffers, which is the same in every process: of a device of another machine
    the number there and the address, as its own name only counts the devices that this process has added."""
    ids = {}
    n_there: Counter[str] = Counter()
    for device in _core.devices():
        if backend_name(device.backend) == "rpc":
            ids[device.name] = f"RPC{n_there[device.description]}[{device.description}]"
            n_there[device.description] += 1
        elif device.kind in ("gpu", "igpu"):
            ids[device.name] = device.name
    return ids
