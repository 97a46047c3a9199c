"""Free memory of the machine, within the limit of the control group this process is in: a container's, or a service's.

Reads /sys/fs/cgroup on Linux, of version 2 or 1. Where there is no limit or none can be read, the system's own number.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

_LIMITS = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
_RECLAIMABLE = ("inactive_file", "total_inactive_file")  # pages of files, which go when memory is needed


def free_memory_bytes(root: Path = Path("/")) -> int:
    """Bytes that this process and its children could still take."""
    free = int(psutil.virtual_memory().available)
    return max(0, min((free, *_left_in_groups(root))))


def _left_in_groups(root: Path) -> Iterator[int]:
    """What each group with a limit, from ours up, has left."""
    for folder in _group_folders(root):
        for limit_name, used_name in _LIMITS:
            limit, used = _number(folder / limit_name), _number(folder / used_name)
            if limit is not None and used is not None:
                yield limit - max(0, used - _reclaimable(folder))


def _group_folders(root: Path) -> Iterator[Path]:
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number != "0" and "memory" not in controllers.split(","):
            continue
        base = root / "sys/fs/cgroup" / ("" if number == "0" else "memory")
        folder = base / group.strip("/")
        # In a container the path is the host's, and the group itself is mounted at the base.
        yield from {folder, *(parent for parent in folder.parents if parent.is_relative_to(base)), base}


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # not there, or "max"
        return None


def _reclaimable(folder: Path) -> int:
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
        fields = dict(line.split(" ", 1) for line in lines)
        return next((int(fields[name]) for name in _RECLAIMABLE[::-1] if name in fields), 0)
    except (OSError, ValueError):
        return 0
