"""The folder in which an RPC worker keeps large tensors, so that a model's next load need not send them again.

ggml names a file by the hash of its content, writes it in place and believes what it reads. Here is what makes that
safe: one connection at a time has the folder, and the files it wrote are checked when it ends or, where it could not,
by the next one that comes.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from donabe.errors import DonabeError

_MARK = "in-use"
_LOCK = "lock"
LOCK_WAIT_S = 2.0  # a peer asks what there is over short connections, right before it loads
_NAME = re.compile(r"[0-9a-f]{16}")


@contextlib.contextmanager
def open_cache(folder: str, native: Any) -> Iterator[str]:
    """The folder while this process alone may use it; "" where there is none, or another connection has it."""
    if not folder:
        yield ""
        return
    path = Path(folder)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(path) as is_ours:
        if not is_ours:
            sys.stderr.write("another connection uses the cache: this one goes without\n")
            yield ""
            return
        mark = path / _MARK
        if mark.exists():
            drop_unsound(path, mark.stat().st_mtime_ns, native)
        mark.touch()
        os.utime(mark)
        started_ns = mark.stat().st_mtime_ns
        yield folder
        drop_unsound(path, started_ns, native)
        mark.unlink()


def drop_unsound(folder: Path, since_ns: int, native: Any) -> list[str]:
    """Remove the files written since then (a file system's time, in ns) that are not whole; returns their names."""
    dropped = []
    for path in sorted(folder.iterdir()):
        if not _NAME.fullmatch(path.name) or path.stat().st_mtime_ns < since_ns:
            continue
        try:
            is_sound = native.rpc_cache_file_is_sound(str(path))
        except DonabeError:
            is_sound = False
        if not is_sound:
            path.unlink()
            dropped.append(path.name)
    return dropped


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Whether this process got the folder's lock; it is the process's until the block, or the process, ends."""
    import fcntl

    with open(folder / _LOCK, "w", encoding="ascii") as file:
        ends_at = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if time.monotonic() >= ends_at:
                    yield False
                    return
                time.sleep(0.02)
            else:
                yield True
                return
