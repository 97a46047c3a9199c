"""Locks between processes (and threads) that share a store. Held locks vanish with their process, also on kill -9.

One lock file per purpose; its content means nothing. The lock is advisory: only donabe takes it.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import TracebackType

from donabe.errors import StoreError

_POLL_S = 0.05

if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


class FileLock:
    """An exclusive lock on one file. A context manager; not re-entrant, two objects exclude each other in one process
    too.

    Args:
        path: The lock file; it and its folder are created when needed.
        timeout_s: How long entering waits before it gives up.
        what: What is changed under the lock, for the error.
    """

    def __init__(self, path: Path, *, timeout_s: float = 60.0, what: str = "the model store") -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._what = what
        self._descriptor = -1

    def try_acquire(self) -> bool:
        """Take the lock if it is free, without waiting."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        if _try_lock(descriptor):
            self._descriptor = descriptor
            return True
        os.close(descriptor)
        return False

    def release(self) -> None:
        """Give the lock back; idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> FileLock:
        deadline = time.monotonic() + self._timeout_s
        while not self.try_acquire():
            if time.monotonic() > deadline:
                raise StoreError(
                    f"another process has been changing {self._what} for {self._timeout_s:g} s",
                    hint="wait for it, or end it",
                )
            time.sleep(_POLL_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
