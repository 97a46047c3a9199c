"""An RPC worker: `python -m donabe.devices.rpc_server SETTINGS`, which `donabe rpc-server` becomes.

Accepts connections and gives each to a process of its own (`rpc_worker`), so that several models can use the devices, a
peer can't take the others along, and its memory is free when it leaves. Opens no device itself. POSIX only: a socket
is handed over by inheritance.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

from donabe.child_process import describe_exit
from donabe.errors import DonabeError, RunnerStartError, SettingsError

WORKER_COMMAND = (sys.executable, "-m", "donabe.devices.rpc_worker")
N_CONNECTIONS_MAX = 32
_CHECK_TIMEOUT_S = 120.0
# Of accept: the peer left already, or there are no descriptors or no memory for a moment.
_PASSING_ERRORS = {errno.ECONNABORTED, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EPROTO}
_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class Settings:
    """As `donabe rpc-server` was asked. `cache_dir` "" is no cache; `n_threads` 0 one per physical core."""

    host: str
    port: int
    backend: str | None = None
    devices: tuple[str, ...] = ()
    n_threads: int = 0
    cache_dir: str = ""

    def request(self) -> dict[str, Any]:
        return {
            "backend": self.backend,
            "devices": list(self.devices),
            "n_threads": self.n_threads,
            "cache_dir": self.cache_dir,
        }


class Worker:
    """Listens until it is closed.

    Raises:
        SettingsError: The address can't be listened on.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._children: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind((settings.host, settings.port))
            self._listener.listen(16)
        except OSError as error:
            self._listener.close()
            where = f"{settings.host}:{settings.port}"
            raise SettingsError(
                f"can't listen on {where}: {error.strerror or error}", setting="port", hint="choose another --port"
            ) from error

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def run(self) -> NoReturn:
        """Accept connections for ever; ends with an exception only, OSError when it was closed."""
        while True:
            try:
                connection, (host, port) = self._listener.accept()
            except OSError as error:
                if error.errno not in _PASSING_ERRORS:
                    raise
                report(f"a connection was lost: {error.strerror}")
                time.sleep(_PAUSE_S)
                continue
            peer = f"{host}:{port}"
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if len(self._children) >= N_CONNECTIONS_MAX:
                    report(f"{peer} refused: {N_CONNECTIONS_MAX} connections are open")
                    continue
                self._serve(connection, peer)

    def close(self) -> None:
        """Stop listening and end the processes of all connections. Idempotent."""
        with contextlib.suppress(OSError):  # it was closed already
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes a thread that accepts
        self._listener.close()
        with self._lock:
            children, self._children = self._children, set()
        for child in children:
            child.kill()
        for child in children:
            child.wait()

    def _serve(self, connection: socket.socket, peer: str) -> None:
        number = connection.fileno()
        try:
            child = subprocess.Popen(
                WORKER_COMMAND, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=(number,)
            )
        except OSError as error:
            report(f"{peer} refused: no process for it: {error.strerror or error}")
            return
        with self._lock:
            self._children.add(child)
        assert child.stdin is not None  # asked for a pipe; it stays open, and the child ends when it closes
        with contextlib.suppress(BrokenPipeError):  # the child has ended: the thread below says how
            child.stdin.write(json.dumps({**self._settings.request(), "connection": number}).encode() + b"\n")
            child.stdin.flush()
        report(f"{peer} connected")
        threading.Thread(target=self._await, args=(child, peer), name=f"rpc {peer}", daemon=True).start()

    def _await(self, child: subprocess.Popen[bytes], peer: str) -> None:
        code = child.wait()
        with self._lock:
            is_known = child in self._children
            self._children.discard(child)
        if child.stdin is not None:
            child.stdin.close()
        if is_known:
            report(f"{peer} left" if code == 0 else f"{peer}: its process ended with {describe_exit(code)}")


def check_lending(settings: Settings) -> dict[str, Any]:
    """What would be lent, told by a process that ends afterwards: `devices`, `protocol`.

    Raises:
        RunnerStartError: There is no such device, or the native part can't be loaded.
    """
    try:
        done = subprocess.run(
            WORKER_COMMAND,
            input=json.dumps(settings.request()).encode() + b"\n",
            stdout=subprocess.PIPE,
            timeout=_CHECK_TIMEOUT_S,
            check=False,
        )
        answer: dict[str, Any] = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise RunnerStartError("the native part can't be loaded", hint="`donabe doctor` says more") from error
    if "error" in answer:
        raise RunnerStartError(answer["error"], hint=answer["hint"] or None)
    return answer


def report(text: str) -> None:
    """One line for whoever runs the worker."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: list[str]) -> int:
    values = json.loads(arguments[0])
    settings = Settings(**{**values, "devices": tuple(values["devices"])})
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        lent = check_lending(settings)
        worker = Worker(settings)
    except DonabeError as error:
        report(f"Error: {error.message}{f'; {error.hint}' if error.hint else ''}")
        return 1
    except KeyboardInterrupt:
        return 0
    with contextlib.closing(worker), contextlib.suppress(KeyboardInterrupt):
        report(
            f"RPC worker on {settings.host}:{worker.port}, protocol {lent['protocol']}: {', '.join(lent['devices'])}"
        )
        worker.run()
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # threads that wait for children are not waited for
