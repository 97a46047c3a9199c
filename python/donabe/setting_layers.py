"""The layers a setting's value can come from, and how one is picked: config file, environment, flags.

Knows what a declaration looks like, but none of them; `donabe.settings` declares. Standard library only.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from donabe.errors import SettingsError
from donabe.setting_values import ValueKind, clean_text

SourceKind = Literal["default", "config file", "environment", "flag"]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value came from; `name` is the file, the variable or the flag."""

    kind: SourceKind
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".rstrip()


@dataclass(frozen=True, slots=True)
class Setting:
    """One declaration. `twins` are other programs' variables that are read when our own is unset."""

    name: str
    attribute: str
    kind: ValueKind
    default: object
    default_text: str
    env: str
    twins: tuple[str, ...]
    help: str
    is_secret: bool


def pick(
    setting: Setting, table: Mapping[str, object], path: Path, environ: Mapping[str, str], flags: Mapping[str, object]
) -> tuple[object, Source]:
    """The raw value of a setting and the layer it comes from."""
    if flags.get(setting.name) is not None:
        return flags[setting.name], Source("flag", f"--{setting.name.replace('_', '-')}")
    for variable in (setting.env, *setting.twins):
        if text := clean_text(environ.get(variable, "")):
            return text, Source("environment", variable)
    if setting.name in table:
        return table[setting.name], Source("config file", str(path))
    return setting.default, Source("default")


def parsed(setting: Setting, raw: object, source: Source) -> object:
    """The checked value.

    Raises:
        SettingsError: It is none of the setting's kind.
    """
    try:
        return setting.kind(raw)
    except ValueError as error:
        text = "has a bad value" if setting.is_secret else str(error)
        raise SettingsError(
            f"setting {setting.name} ({source}) {text}", setting=setting.name, source=str(source)
        ) from None


def read_config(path: Path, *, must_exist: bool) -> dict[str, object]:
    """The config file's table; {} when there is none and none is asked for.

    Raises:
        SettingsError: It can't be read, or is no TOML.
    """
    if not must_exist and not path.is_file():
        return {}
    if sys.version_info >= (3, 11):
        import tomllib  # only when there is a file to read
    else:
        import tomli as tomllib
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise SettingsError(
            f"config file {path}: {reason}",
            setting="config",
            source=str(path),
            hint="fix the file or unset DONABE_CONFIG",
        ) from error


def refuse_unknown(given: Mapping[str, object], declared: Mapping[str, Setting], where: str) -> None:
    """Raise SettingsError for a name that is no setting, with the nearest one that is."""
    for name in given:
        if name not in declared:
            close = difflib.get_close_matches(name, declared, n=1)
            hint = f"did you mean {close[0]}?" if close else "docs/settings.md lists all settings"
            raise SettingsError(f"unknown setting {name} in {where}", setting=name, source=where, hint=hint)
