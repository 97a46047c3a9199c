"""What `donabe doctor` looks at: the package, its native part, the server's address, the store; the network if asked.

Each check returns findings instead of raising, so that one broken part does not hide the others. The native part is
asked in a child process: loading it must not end the command that reports why it can't be loaded.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from donabe.cli.native_child import ask_child
from donabe.cli.text import format_bytes
from donabe.errors import DonabeError, ServerUnavailableError
from donabe.types import JsonObject

Level = Literal["ok", "warning", "problem"]

NETWORK_DEADLINE_S = 20.0
_SERVER_TIMEOUT_S = 5.0
_CHILD_TIMEOUT_S = 60.0
_DESCRIBE = "donabe.devices.describe"


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


def ask_machine() -> JsonObject | Finding:
    """What `donabe.devices.describe` tells of the build, the devices and the plug-ins; or why it can't."""
    from donabe.settings import load_settings

    try:
        settings = load_settings()
        wanted: JsonObject = {"backend": settings.backend, "devices": list(settings.devices), "rpc": list(settings.rpc)}
    except DonabeError:
        wanted = {}  # reported with the settings
    try:
        return ask_child(_DESCRIBE, wanted, timeout_s=_CHILD_TIMEOUT_S)
    except (DonabeError, OSError) as error:
        message = error.message if isinstance(error, DonabeError) else str(error)
        return Finding("problem", "engine", f"the native part can't be loaded: {message}", "install donabe again")


def machine_facts(machine: JsonObject | Finding) -> JsonObject:
    """The machine's answer for programs: the build, its devices, and every plug-in with its state."""
    if isinstance(machine, Finding):
        return {"build": {}, "devices": [], "plugins": []}
    used = [{"name": name, "state": "used", "message": "", "hint": ""} for name in machine["plugins"]]
    refused = [
        {"name": item["name"], "state": item["kind"], "message": item["message"], "hint": item["hint"]}
        for item in machine["refused"]
    ]
    return {"build": machine["build"], "devices": machine["devices"], "plugins": [*used, *refused]}


def check_installation(machine: JsonObject | Finding) -> Iterator[Finding]:
    """The package, its settings, the native part and its devices, and the server's address."""
    from donabe.cli.version import own_version

    where = f"donabe {own_version()}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    yield Finding("ok", "installation", where)
    yield from _check_settings()
    yield from _check_native(machine)
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


def _check_native(answer: JsonObject | Finding) -> Iterator[Finding]:
    if isinstance(answer, Finding):
        yield answer
        return
    yield Finding("ok", "engine", _build_text(answer["build"]))
    yield Finding("ok", "processor", f"uses {', '.join(answer['features']) or 'no extensions'}")
    yield from _check_devices(answer)


def _build_text(build: JsonObject) -> str:
    text = f"llama.cpp {build.get('llama_version', 'unknown')}, build {build.get('build_id', 'unknown')}"
    if variant := build.get("cpu_variant"):
        return f"{text}, CPU variant {variant}"
    return text if build.get("backend_dl") else f"{text}, made for this machine"


def _check_devices(answer: JsonObject) -> Iterator[Finding]:
    """Each device, with why it is used or not; plug-ins that can't be; what would make a GPU useful."""
    for device in answer["devices"]:
        memory = f"{format_bytes(device['memory_free_bytes'])} of {format_bytes(device['memory_total_bytes'])} free"
        place = f", PCI {device['pci_id']}" if device["pci_id"] else ""
        place += f", driver {device['driver']}" if device["driver"] else ""
        use = "used" if device["is_chosen"] else "not used"
        text = f"{device['description']} ({device['backend']}){place}, {memory}; {use}: {device['reason']}"
        yield Finding("ok", f"device {device['name']}", text)
    for worker in answer["lost_workers"]:
        yield Finding("problem", f"worker {worker['address']}", worker["message"], worker["hint"])
    for plugin in answer["refused"]:
        yield Finding(_plugin_level(plugin, answer), f"plug-in {plugin['name']}", plugin["message"], plugin["hint"])
    if "setting_error" in answer:
        yield Finding("problem", "devices", answer["setting_error"], answer["setting_hint"])
    if answer["hint"]:
        yield Finding("warning", "devices", "a GPU is not used", answer["hint"])


def _plugin_level(plugin: JsonObject, answer: JsonObject) -> Level:
    """A plug-in that is not used is a problem where no GPU of this machine is."""
    has_gpu = any(
        device["is_chosen"] and device["kind"] in ("gpu", "igpu") and device["backend"] != "RPC"
        for device in answer["devices"]
    )
    if plugin["kind"] == "outdone" or (plugin["kind"] == "idle" and has_gpu):
        return "ok"
    return "warning" if has_gpu else "problem"


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

    try:
        settings = load_settings()
    except DonabeError:
        return  # reported with the settings and the store
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
