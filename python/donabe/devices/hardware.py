"""What accelerators the machine has, told without any backend: for the hint which extra would help.

Reads /sys and /proc on Linux and looks for the vendor's driver library on Windows. Loads nothing, starts nothing, and
finds nothing rather than fail.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_VENDORS = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel"}
_DISPLAY_CLASS = "0x03"
_PCI_ID = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")  # CUDA may append which part of a GPU it is
_EXTRAS = {"NVIDIA": ("cuda", "cuda13", "vulkan"), "AMD": ("vulkan",), "Intel": ("vulkan",)}
_PLUGINS = {"cuda": "cuda12"}  # plug-in of an extra, where it has another name
# The oldest driver for programs made with any CUDA of that number: "Minor Version Compatibility" in NVIDIA's document
# "CUDA Compatibility".
_NVIDIA_DRIVERS = {"cuda12": 525, "cuda13": 580}


@dataclass(frozen=True, slots=True)
class Accelerator:
    """A GPU the operating system knows. `has_driver`: whether its vendor's own driver is running, where that shows."""

    vendor: str
    has_driver: bool = True


def find_accelerators(root: Path = Path("/"), platform: str = sys.platform) -> list[Accelerator]:
    """One entry per vendor, NVIDIA first."""
    found: set[str] = set()
    has_nvidia_driver = True
    if platform.startswith("linux"):
        found = _pci_vendors(root)
        has_nvidia_driver = (root / "proc/driver/nvidia/version").exists()
        if has_nvidia_driver or (root / "usr/lib/wsl/lib/libcuda.so.1").exists():
            found.add("NVIDIA")
            has_nvidia_driver = True
    elif platform == "win32":
        system = root / os.environ.get("SYSTEMROOT", "C:/Windows").replace("\\", "/").partition(":")[2].strip("/")
        if (system / "System32/nvcuda.dll").exists():
            found.add("NVIDIA")
    return [
        Accelerator(vendor, has_nvidia_driver if vendor == "NVIDIA" else True) for vendor in _EXTRAS if vendor in found
    ]


def _pci_vendors(root: Path) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for device in (root / "sys/bus/pci/devices").iterdir():
            with contextlib.suppress(OSError):
                if (device / "class").read_text().startswith(_DISPLAY_CLASS):
                    found.add(_VENDORS.get((device / "vendor").read_text().strip(), ""))
    return found - {""}


def driver_of(pci_id: str, root: Path = Path("/")) -> str:
    """The kernel's driver of a device with its version, such as `nvidia 580.65.06`; "" where the system does not tell.

    Args:
        pci_id: As a backend reports it, "" without one.
    """
    found = _PCI_ID.match(pci_id)
    if found is None:
        return ""
    try:
        name = (root / "sys/bus/pci/devices" / found[0] / "driver").resolve(strict=True).name
    except OSError:
        return ""
    # A driver that is part of the kernel has no version of its own.
    for path, prefix in ((f"sys/module/{name}/version", ""), ("proc/sys/kernel/osrelease", "of Linux ")):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            return f"{name} {prefix}{(root / path).read_text().strip()}"
    return name


def suggestion(accelerators: Sequence[Accelerator], installed: Sequence[str]) -> str:
    """What would make an unused GPU useful, as a command where one helps; "" when there is none to use.

    Args:
        installed: Names of installed plug-ins, also of those that were refused.
    """
    for accelerator in accelerators:
        extras = _EXTRAS[accelerator.vendor]
        if any(_PLUGINS.get(extra, extra) in installed for extra in extras):
            continue
        if not accelerator.has_driver:
            return f"install the driver of the {accelerator.vendor} GPU, then pip install 'donabe[{extras[0]}]'"
        return f"pip install 'donabe[{extras[0]}]' to use the {accelerator.vendor} GPU"
    return ""


def may_have_device(accelerators: Sequence[Accelerator], backend: str) -> bool:
    """Whether the machine has a GPU that this backend (our name) is made for. Vulkan is for any."""
    return any(backend in _EXTRAS[accelerator.vendor] for accelerator in accelerators)


def driver_advice(backend: str, plugin: str) -> str:
    """What a plug-in needs of the machine, for one that has found no device.

    Args:
        backend: Our name of its backend.
        plugin: Its name, as in `_NVIDIA_DRIVERS`.
    """
    if backend == "cuda":
        oldest = f" of version {_NVIDIA_DRIVERS[plugin]} or newer" if plugin in _NVIDIA_DRIVERS else ""
        return f"install NVIDIA's driver{oldest} (nvidia-smi has to list the GPU)"
    if backend == "vulkan":
        return "install a Vulkan driver of the GPU (vulkaninfo has to list it)"
    return "install the driver of its GPU"
