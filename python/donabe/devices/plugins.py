"""Backend plug-ins: separately installed packages that bring one ggml backend library each.

A plug-in is found by its entry point in the group `donabe.backends` and described by `plugin.json` in its package
folder. Nothing of it is imported. Version and build id are compared before the library is opened, because structures of
ggml change without its own interface version changing; libraries are opened by absolute path only. Finding them costs
one walk over the installed distributions, so it happens where a model is loaded or `doctor` asks, never at import.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal

GROUP = "donabe.backends"
MANIFEST = "plugin.json"
_MANIFEST_MAX_BYTES = 65_536
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_BUILT_BY_USERS = ("rocm", "sycl")  # from packaging/, and in no index: they need the vendor's software on the machine


RefusalKind = Literal["broken", "idle", "outdone"]


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plug-in that fits this build. `preload`: vendor libraries to open first, relative to a site-packages folder."""

    name: str
    version: str
    library: Path
    preload: tuple[str, ...] = ()

    @property
    def distribution(self) -> str:
        return f"donabe-{self.name.replace('_', '-')}"


@dataclass(frozen=True, slots=True)
class Refused:
    """A plug-in that is installed but not used.

    Attributes:
        hint: What mends it.
        kind: `broken` can't be opened, `idle` finds no device, `outdone` leaves its devices to another plug-in.
    """

    name: str
    message: str
    hint: str
    kind: RefusalKind = "broken"


class _BadPluginError(Exception):
    """args: message, hint."""


def find_plugins(
    build: Mapping[str, Any], found: Iterable[EntryPoint] | None = None
) -> tuple[list[Plugin], list[Refused]]:
    """The installed plug-ins that fit this build, and those that don't, each once, by name.

    Args:
        build: `_core.build_info()`.
        found: Entry points, default those of the installed distributions.
    """
    plugins: dict[str, Plugin] = {}
    refused: dict[str, Refused] = {}
    for entry in sorted(_installed() if found is None else found, key=lambda item: item.name):
        if entry.name in plugins or entry.name in refused:
            continue  # the same distribution twice on the path: the first one counts, as for imports
        try:
            plugins[entry.name] = _checked(entry, build)
        except _BadPluginError as error:
            refused[entry.name] = Refused(entry.name, *error.args)
    return list(plugins.values()), list(refused.values())


@functools.cache
def _installed() -> tuple[EntryPoint, ...]:
    """Looked up once: a process that has opened backends can't take others anyway."""
    return tuple(entry_points(group=GROUP))


def _checked(entry: EntryPoint, build: Mapping[str, Any]) -> Plugin:
    if not _NAME.fullmatch(entry.name):
        raise _BadPluginError("its name is not one a backend can have", "uninstall it")
    wanted = f"pip install 'donabe-{entry.name.replace('_', '-')}=={build['version']}'"
    if entry.name in _BUILT_BY_USERS:
        wanted = f"pip install packaging/{entry.name} (in the source of donabe {build['version']})"
    folder = _package_folder(entry, wanted)
    manifest = _manifest(folder, wanted)
    if manifest.get("version") != build["version"]:
        raise _BadPluginError(f"it is of version {manifest.get('version')}, donabe of {build['version']}", wanted)
    if manifest.get("build_id") != build["build_id"]:
        again = wanted.replace("install", "install --force-reinstall --no-deps", 1)
        raise _BadPluginError("it was made for another build of the same version", again)
    if not build.get("backend_dl"):
        again = f"pip install --force-reinstall --no-deps --only-binary donabe 'donabe=={build['version']}'"
        raise _BadPluginError("this build of donabe has its backends linked in and takes no plug-ins", again)
    library = Path(os.path.realpath(folder / str(manifest.get("library", ""))))
    if not library.is_relative_to(os.path.realpath(folder)) or not library.is_file():
        raise _BadPluginError("its library is missing", wanted.replace("install", "install --force-reinstall", 1))
    preload = manifest.get("preload", [])
    if not isinstance(preload, list) or not all(isinstance(item, str) and _is_inside(item) for item in preload):
        raise _BadPluginError(f"{MANIFEST} has a bad list of libraries to open first", wanted)
    return Plugin(entry.name, build["version"], library, tuple(preload))


def _is_inside(relative: str) -> bool:
    path = Path(relative)
    return not path.is_absolute() and not path.drive and ".." not in path.parts


def _package_folder(entry: EntryPoint, wanted: str) -> Path:
    if entry.dist is None or not entry.value.isidentifier():
        raise _BadPluginError("its entry point does not name a package", wanted)
    folder = Path(str(entry.dist.locate_file(entry.value)))
    if not folder.is_absolute():  # found through an empty path entry
        raise _BadPluginError("it lies in the current folder", "install it, or go elsewhere")
    return folder


def _manifest(folder: Path, wanted: str) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        if path.stat().st_size > _MANIFEST_MAX_BYTES:
            raise ValueError("too large")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        again = wanted.replace("install", "install --force-reinstall", 1)
        raise _BadPluginError(f"{MANIFEST} can't be read: {error}", again) from None
    if not isinstance(value, dict):
        raise _BadPluginError(f"{MANIFEST} is not an object", wanted)
    return value


def preload_libraries(plugin: Plugin, folders: Sequence[str] | None = None) -> Refused | None:
    """Open the vendor's libraries, in order; they stay open. Returns why the plug-in can't be used, if so."""
    folders = [entry for entry in sys.path if os.path.isabs(entry)] if folders is None else folders
    for relative in plugin.preload:
        path = next((item for base in folders if os.path.isfile(item := os.path.join(base, relative))), None)
        again = f"pip install --force-reinstall '{plugin.distribution}=={plugin.version}'"
        if path is None:
            return Refused(plugin.name, f"{os.path.basename(relative)} of the vendor's package is missing", again)
        try:
            ctypes.CDLL(os.path.abspath(path), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            return Refused(plugin.name, f"{os.path.basename(relative)} can't be opened: {error}", again)
    return None
