"""What `donabe doctor` looks at: the package, its native part, the server's address, the store; the network if asked.

Each check returns findings instead of raising, so that one broken part does not hide the others. The native part is
asked in a child process: loading it must not end the command that reports why it can't be loaded.
"""

from __future__ import annotations

import asyncio
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from donabe.errors import DonabeError, ServerUnavailableError
from donabe.types import JsonObject

Level = Literal["ok", "warning", "problem"]

NETWORK_DEADLINE_S = 20.0
_SERVER_TIMEOUT_S = 5.0
_CHILD_TIMEOUT_S = 60.0
_ASK_NATIVE = """
import json
from donabe import _core
_core.init()
devices = [(device.name, device.description, device.backend) for device in _core.devices()]
print(json.dumps({"build": _core.build_info(), "devices": devices}))
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    level: Level
    subject: str
    message: str
    hint: str = ""

    @property
    def text(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message

    def to_json(self) -> JsonObject:
        return asdict(self)


def check_installation() -> Iterator[Finding]:
    """The package, its settings, the native part and its devices, and the server's address."""
    from donabe.cli.version import own_version

    where = f"donabe {own_version()}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    yield Finding("ok", "installation", where)
    yield from _check_settings()
    yield from _check_native()
    yield from _check_server()


def _check_settings() -> Iterator[Finding]:
    from donabe.settings import load_settings

    try:
        settings = load_settings()
    except DonabeError as error:
        yield Finding("problem", "settings", error.message, error.hint or "")
        return
    changed = [name for name, _, source in settings.describe() if source != "default"]
    yield Finding("ok", "settings", f"set by you: {', '.join(changed)}" if changed else "all at their defaults")


def _check_native() -> Iterator[Finding]:
    try:
        done = subprocess.run(
            [sys.executable, "-c", _ASK_NATIVE],
            capture_output=True,
            text=True,
            timeout=_CHILD_TIMEOUT_S,
            check=False,
        )
        answer = json.loads(done.stdout) if done.returncode == 0 else None
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        yield Finding("problem", "engine", f"can't be asked: {error}", "install donabe again")
        return
    if answer is None:
        reason = (done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"])[-1]
        yield Finding("problem", "engine", f"the native part can't be loaded: {reason}", "install donabe again")
        return
    yield Finding("ok", "engine", f"llama.cpp {answer['build'].get('llama_version', 'unknown')}")
    for name, description, backend in answer["devices"]:
        yield Finding("ok", f"device {name}", f"{description} ({backend})")


def _check_server() -> Iterator[Finding]:
    from donabe.cli.version import own_version
    from donabe.client import Client

    try:
        with Client(timeout_s=_SERVER_TIMEOUT_S) as client:
            url, answer = client.base_url, client.version()
    except ServerUnavailableError:
        yield _check_port()
        return
    except DonabeError as error:
        yield Finding("warning", "server", error.message, error.hint or "")
        return
    version = answer.get("donabe")
    if not version:
        yield Finding(
            "warning", "server", f"what answers at {url} is not donabe", "stop it, or choose another DONABE_HOST"
        )
    elif version != own_version():
        yield Finding("warning", "server", f"donabe {version} runs at {url}, not {own_version()}", "restart it")
    else:
        yield Finding("ok", "server", f"runs at {url}")


def _check_port() -> Finding:
    """Whether a server could start where none answers."""
    from donabe.server.listening import open_socket
    from donabe.settings import load_settings

    settings = load_settings()
    try:
        open_socket(settings.host, settings.port).close()
    except DonabeError as error:
        return Finding("warning", "server", f"none answers, and donabe {error.message}", error.hint or "")
    return Finding("ok", "server", f"none is running, port {settings.port} is free", "`donabe serve` starts one")


def check_network() -> Iterator[Finding]:
    """Whether the package index and the registries answer."""
    from donabe.registry.reach import check_reach
    from donabe.registry.sources import options_from
    from donabe.settings import load_settings

    settings = load_settings()
    if settings.offline:
        yield Finding("ok", "network", "not asked: donabe is offline", "unset DONABE_OFFLINE to allow downloads")
        return
    found = asyncio.run(check_reach(options_from(settings), deadline_s=NETWORK_DEADLINE_S))
    for reach in found:
        level: Level = "warning" if reach.problem else "ok"
        yield Finding(level, reach.place, reach.problem or "can be reached", reach.hint)
    if all(reach.problem for reach in found):
        yield Finding("problem", "network", "models can be pulled from nowhere", "bring one with `donabe load FILE`")


def check_models(*, deep: bool) -> Iterator[Finding]:
    """Every damage of the store's models, or that there is none."""
    from donabe.store.check import check_store
    from donabe.store.models import ModelStore

    try:
        store = ModelStore.from_settings()
        problems = check_store(store, deep=deep)
        n_models = sum(1 for _ in store.layout.names())
    except (DonabeError, OSError) as error:
        message = error.message if isinstance(error, DonabeError) else str(error)
        yield Finding("problem", "store", message)
        return
    for problem in problems:
        yield Finding("problem", problem.model, problem.message, f"donabe pull {problem.model}, or create it again")
    if not problems:
        yield Finding("ok", "store", f"{n_models} model{'s' * (n_models != 1)} in {store.layout.root}, all sound")
