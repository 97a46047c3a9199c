"""Writing files so that a crash at any moment leaves the old content or the new, and naming what went wrong if it
can't.

Every write goes to a unique temporary file beside the target, is flushed to the disk, then renamed. Operating-system
errors become `StoreError`s here, once, so that the rest of the store need not know errno.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from donabe.errors import DiskFullError, StoreError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


def store_error(error: OSError, folder: Path) -> StoreError:
    """The typed form of an operating-system error met below `folder`."""
    shown = _tilde(folder)
    if error.errno in _FULL:
        return DiskFullError(
            f"the disk that holds the model store is full ({shown})",
            hint="free some space, remove models with `donabe rm`, or point DONABE_MODELS at another disk",
        )
    if error.errno in _DENIED:
        return StoreError(
            f"the model store {shown} is not writable: {os.strerror(error.errno or 0)}",
            hint="fix the folder's permissions, or point DONABE_MODELS at a folder you can write",
        )
    return StoreError(
        f"the model store {shown} can't be used: {error.strerror or error}",
        hint="check the folder, or point DONABE_MODELS elsewhere",
    )


@contextlib.contextmanager
def store_errors(folder: Path) -> Iterator[None]:
    """Turn operating-system errors inside the block into `StoreError`s."""
    try:
        yield
    except OSError as error:
        raise store_error(error, folder) from error


def require_space(folder: Path, n_bytes: int) -> None:
    """Refuse early when the disk below `folder` can't take `n_bytes` more.

    Raises:
        DiskFullError: There is less free space than that.
    """
    probe = folder
    while not probe.exists() and probe != probe.parent:
        probe = probe.parent
    free = shutil.disk_usage(probe).free
    if free < n_bytes:
        raise DiskFullError(
            f"not enough space in the model store {_tilde(folder)}: "
            f"{n_bytes / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free",
            hint="free some space, remove models with `donabe rm`, or point DONABE_MODELS at another disk",
        )


def write_atomically(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace the file's content as a whole (mode 0644), creating folders as needed.

    Args:
        durable: Also survive a power failure. Without it only a crash of the process is covered, at no cost.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:64]}.{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            if durable:
                flush_to_disk(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        flush_folder(path.parent)


def flush_to_disk(descriptor: int) -> None:
    os.fsync(descriptor)


def flush_folder(folder: Path) -> None:
    """Make a rename in the folder durable, where the system has such a call."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_empty_folders(root: Path) -> None:
    """Remove the empty folders below `root`, deepest first; `root` itself stays."""
    for folder, _, _ in os.walk(root, topdown=False):
        if Path(folder) != root:
            with contextlib.suppress(OSError):  # not empty, or another process was faster
                os.rmdir(folder)


def _tilde(folder: Path) -> str:
    with contextlib.suppress(ValueError, RuntimeError):
        return str(Path("~") / folder.relative_to(Path.home()))
    return str(folder)
