"""What every child process of donabe needs of the operating system: its environment, a group of its own, a socket to
its parent, and its end in words.

The one place that knows how systems differ in this. On Windows a socket can't be inherited by number: its description
goes through the child's stdin. Knows nothing of what children do.
"""

from __future__ import annotations

import contextlib
import os
import signal
import site
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

_NTSTATUS_ERRORS = 0xC0000000  # exit codes from here on are Windows' own: 0xC0000005 is an access violation


def child_environment() -> dict[str, str]:
    """The child imports the same donabe as we do, and nothing from the current folder. numpy only moves data there: its
    linear algebra gets no threads that would wait beside ours."""
    environment = dict(os.environ, PYTHONSAFEPATH="1", PYTHONUNBUFFERED="1", OPENBLAS_NUM_THREADS="1")
    root = str(Path(__file__).resolve().parents[1])
    if root not in (*site.getsitepackages(), site.getusersitepackages()):
        rest = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = root + (os.pathsep + rest if rest else "")
    if python_command() != sys.executable:
        environment["__PYVENV_LAUNCHER__"] = sys.executable  # tells the real interpreter its virtual environment
    return environment


def describe_exit(returncode: int | None) -> str:
    """How a process ended, as people say it: `exit 1`, `signal 9 (SIGKILL)`; "" while it runs."""
    if returncode is None:
        return ""
    if returncode >= _NTSTATUS_ERRORS:
        return f"exit 0x{returncode:08X}"
    if returncode >= 0:
        return f"exit {returncode}"
    try:
        return f"signal {-returncode} ({signal.Signals(-returncode).name})"
    except ValueError:
        return f"signal {-returncode}"


class ChildSocket:
    """A pair of connected sockets, one end of which a child gets: it is started with `arguments` and `options`, and
    `deliver` is called once it runs.

    Attributes:
        ours: The end that stays.
    """

    def __init__(self) -> None:
        """Raises OSError: no file descriptors left."""
        self.ours, self._theirs = socket.socketpair()

    @property
    def arguments(self) -> tuple[str, str]:
        """For the child's command line; it gives the second one to `socket_from_parent`."""
        return ("--fd", _spoken(self._theirs))

    @property
    def options(self) -> dict[str, Any]:
        """Options for `asyncio.create_subprocess_exec`."""
        return _options(self._theirs)

    async def deliver(self, process: asyncio.subprocess.Process) -> None:
        """Give the started child what `options` did not."""
        if process.stdin is not None:
            with contextlib.suppress(OSError):  # the child is gone: its end says why
                process.stdin.write(_description(self._theirs, process.pid))
                await process.stdin.drain()
            process.stdin.close()

    def close_theirs(self) -> None:
        """The child has its end, or will never have it."""
        self._theirs.close()


if sys.platform == "win32":

    def python_command() -> str:
        """The interpreter for a child. A virtual environment's `python` only starts the real one and waits for it, so
        that its process id is another's: the real one is named, as `multiprocessing` does."""
        return str(getattr(sys, "_base_executable", None) or sys.executable)

    def group_options() -> dict[str, Any]:
        """Options for `subprocess`: the child leads a group, so that Ctrl-C at our terminal is not its end too."""
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}

    def kill_group(pid: int) -> None:
        """End a child that was started with `group_options`, and whatever it started, at once; it may be gone."""
        import psutil

        with contextlib.suppress(psutil.Error):
            leader = psutil.Process(pid)
            for process in (*leader.children(recursive=True), leader):
                with contextlib.suppress(psutil.Error):
                    process.kill()

    def socket_from_parent(spoken: str) -> socket.socket:
        """In the child: its end of a `ChildSocket`. Raises ValueError or OSError when there is none."""
        if spoken != "stdin":
            raise ValueError(f"sockets come through stdin, not as {spoken}")
        return socket.fromshare(sys.stdin.buffer.read())

    def _spoken(theirs: socket.socket) -> str:
        return "stdin"

    def _options(theirs: socket.socket) -> dict[str, Any]:
        return {"stdin": subprocess.PIPE}

    def _description(theirs: socket.socket, pid: int) -> bytes:
        return theirs.share(pid)

else:

    def python_command() -> str:
        """The interpreter for a child."""
        return sys.executable

    def group_options() -> dict[str, Any]:
        """Options for `subprocess`: the child leads a group, so that Ctrl-C at our terminal is not its end too."""
        return {"start_new_session": True}

    def kill_group(pid: int) -> None:
        """End a child that was started with `group_options`, and whatever it started, at once; it may be gone."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)

    def socket_from_parent(spoken: str) -> socket.socket:
        """In the child: its end of a `ChildSocket`. Raises ValueError or OSError when there is none."""
        return socket.socket(fileno=int(spoken))

    def _spoken(theirs: socket.socket) -> str:
        return str(theirs.fileno())

    def _options(theirs: socket.socket) -> dict[str, Any]:
        return {"stdin": subprocess.DEVNULL, "pass_fds": (theirs.fileno(),)}

    def _description(theirs: socket.socket, pid: int) -> bytes:
        return b""  # inherited
