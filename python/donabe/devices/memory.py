"""Memory and swap of the machine, within the limits of the control group that this process is in: a container's, or a
service's.

Reads /sys/fs/cgroup on Linux, of version 2 or 1. Where there is no limit or none can be read, the system's own number.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

_LIMITS = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
_NO_LIMIT = 1 << 62  # the first version has a number for none, the largest whole page
# Pages of files, which go when memory is needed, those used lately too. The first version's own fields leave out the
# groups below.
_RECLAIMABLE = (("total_inactive_file", "total_active_file"), ("inactive_file", "active_file"))


def total_memory_bytes(root: Path = Path("/")) -> int:
    """Bytes of memory that there are for this process, its children and the others of its group."""
    limits = (_number(folder / name) for folder in _group_folders(root) for name, _ in _LIMITS)
    return min((int(psutil.virtual_memory().total), *(limit for limit in limits if limit is not None)))


def free_memory_bytes(root: Path = Path("/")) -> int:
    """Bytes that this process and its children could still take."""
    free = int(psutil.virtual_memory().available)
    return max(0, min((free, *_left_in_groups(root))))


def free_swap_bytes(root: Path = Path("/")) -> int:
    """Bytes that this process and its children could still have in swap."""
    free = int(psutil.swap_memory().free)
    return max(0, min((free, *_swap_left_in_groups(root))))


def _left_in_groups(root: Path) -> Iterator[int]:
    """What each group with a limit, from ours up, has left."""
    for folder in _group_folders(root):
        for limit_name, used_name in _LIMITS:
            limit, used = _number(folder / limit_name), _number(folder / used_name)
            if limit is not None and used is not None:
                yield limit - max(0, used - _reclaimable(folder))


def _swap_left_in_groups(root: Path) -> Iterator[int]:
    for folder in _group_folders(root):
        limit, used = _number(folder / "memory.swap.max"), _number(folder / "memory.swap.current")
        if limit is not None and used is not None:
            yield limit - used
        yield from _first_version_swap_left(folder)


def _first_version_swap_left(folder: Path) -> Iterator[int]:
    """It counts memory and swap together."""
    limit, used = _number(folder / "memory.limit_in_bytes"), _number(folder / "memory.usage_in_bytes")
    both_limit = _number(folder / "memory.memsw.limit_in_bytes")
    both_used = _number(folder / "memory.memsw.usage_in_bytes")
    if limit is None or used is None or both_limit is None or both_used is None or both_limit > _NO_LIMIT:
        return
    yield (both_limit - limit) - (both_used - used)


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
        found = ([int(fields[name]) for name in names if name in fields] for names in _RECLAIMABLE)
        return sum(next(filter(None, found), ()))
    except (OSError, ValueError):
        return 0
