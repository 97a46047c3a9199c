"""Starts `donabe serve` detached from the terminal, waits until it answers, and stops it. Knows processes, not HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from donabe.errors import ResponseError, ServerUnavailableError
from donabe.setting_values import Folder, Folders
from donabe.settings import Settings, declared_settings, default_config_path, load_settings

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0  # beyond what the server gives running answers
_POLL_S = 0.05
_TAIL_LINES = 5


@dataclass(frozen=True, slots=True)
class Started:
    """The background server; it outlives this process."""

    process: subprocess.Popen[bytes]
    log: Path


def log_path(settings: Settings) -> Path:
    """Where a background server logs."""
    return settings.home / "logs" / "server.log"


def start_background_server(
    heartbeat: Callable[[], None], *, command: tuple[str, ...] = (sys.executable, "-m", "donabe", "serve")
) -> Started | None:
    """Start a server and wait until `heartbeat` succeeds.

    Returns:
        The process, or None if another server took the address meanwhile.

    Raises:
        ServerUnavailableError: It ended, or was not ready in time; the message has its last log line.
    """
    settings = load_settings()
    log = log_path(settings)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        start = output.tell()
        process = _spawn(command, settings, output)
    try:
        started = _wait_until_ready(process, heartbeat, log, start)
        if started is not None:
            _pid_path(settings).write_text(f"{process.pid}\n", encoding="ascii")
        return started
    except BaseException:
        if process.poll() is None:
            process.terminate()
            process.wait(timeout=10)
        raise


def stop_background_server() -> int:
    """Stop the server that `start_background_server` started last, and return its process id.

    Raises:
        ServerUnavailableError: There is none, or it does not end.
    """
    import psutil

    settings = load_settings()
    timeout_s = min(settings.shutdown_timeout_s, 86_400.0) + STOP_TIMEOUT_S
    path = _pid_path(settings)
    try:
        process = psutil.Process(int(path.read_text(encoding="ascii")))
        is_ours = "serve" in process.cmdline()  # the number may belong to another program by now
    except (OSError, ValueError, psutil.Error):
        is_ours = False
    if not is_ours:
        raise ServerUnavailableError(
            "no server runs in the background", hint="Ctrl-C ends one started with donabe serve"
        )
    process.terminate()
    try:
        process.wait(timeout_s)
    except psutil.TimeoutExpired:
        raise ServerUnavailableError(f"the server (pid {process.pid}) did not end within {timeout_s:.0f} s") from None
    path.unlink(missing_ok=True)
    return process.pid


def _pid_path(settings: Settings) -> Path:
    return settings.home / "server.pid"


def _spawn(command: tuple[str, ...], settings: Settings, output: BinaryIO) -> subprocess.Popen[bytes]:
    detached: dict[str, Any] = {"start_new_session": True}
    if os.name == "nt":
        detached = {"creationflags": 0x00000200 | 0x08000000}  # new process group, no console window
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        cwd=settings.home,  # holds no user's folder busy, and no file there can shadow a module of Python
        env={**os.environ, **_absolute_paths(settings)},
        **detached,
    )


def _absolute_paths(settings: Settings) -> dict[str, str]:
    """Paths of the environment that are relative to this process's folder."""
    paths = {}
    if os.environ.get("DONABE_CONFIG"):
        paths["DONABE_CONFIG"] = str(default_config_path().absolute())
    if search_path := os.environ.get("PYTHONPATH"):
        paths["PYTHONPATH"] = os.pathsep.join(os.path.abspath(entry) for entry in search_path.split(os.pathsep))
    for setting in declared_settings():
        if not settings.is_set(setting.name):
            continue
        value = getattr(settings, setting.attribute)
        if isinstance(setting.kind, Folder):
            paths[setting.env] = str(value)
        elif isinstance(setting.kind, Folders):
            paths[setting.env] = os.pathsep.join(map(str, value)) or "none"
    return paths


def _wait_until_ready(
    process: subprocess.Popen[bytes], heartbeat: Callable[[], None], log: Path, start: int
) -> Started | None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        code = process.poll()
        if _answers(heartbeat):
            return None if code is not None else Started(process, log)
        if code is not None:
            raise ServerUnavailableError(f"the server ended at start (exit code {code}): {_tail(log, start)}")
        time.sleep(_POLL_S)
    raise ServerUnavailableError(
        f"the server was not ready within {READY_TIMEOUT_S:.0f} s: {_tail(log, start)}", hint=f"its log is {log}"
    )


def _answers(heartbeat: Callable[[], None]) -> bool:
    try:
        heartbeat()
    except (ServerUnavailableError, ResponseError):
        return False
    return True


def _tail(log: Path, start: int) -> str:
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
    return " | ".join(line.removeprefix("Error: ").strip() for line in lines[-_TAIL_LINES:]) or "it logged nothing"
