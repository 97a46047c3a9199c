"""Every setting of donabe, declared once: name, kind, default, help and environment variables.

Layers, later ones win: defaults < config file (TOML) < environment < flags. Each value remembers where it came from,
because an automatic value may be lowered by donabe and a user's never. A bad value is a `SettingsError` that names the
setting and its source. Standard library only: every process, also `donabe --help`, reads settings.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from donabe.errors import SettingsError
from donabe.setting_values import (
    Address,
    Choice,
    Duration,
    Flag,
    Folder,
    Folders,
    HostAddress,
    Number,
    Size,
    Text,
    Texts,
    ValueKind,
    Verbosity,
    clean_text,
)

__all__ = [
    "HostAddress",
    "Setting",
    "Settings",
    "Source",
    "declared_settings",
    "default_config_path",
    "default_home",
    "load_settings",
]

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


def _declare(
    kind: ValueKind,
    default: object,
    help: str,
    *,
    twins: str = "",
    shown: str = "",
    secret: bool = False,
    name: str = "",
) -> Any:
    """A dataclass field that carries a declaration. A callable default is computed
    from the home folder and the environment. `name` is what users call it, where the attribute adds a unit."""
    metadata = {"kind": kind, "help": help, "twins": tuple(twins.split()), "shown": shown, "secret": secret}
    metadata |= {"default": default, "name": name}
    return field(metadata=metadata, repr=not secret)


def _under_home(name: str) -> Callable[[Path, Mapping[str, str]], Path]:
    return lambda home, _environ: home / name


def _hugging_face_cache(_home: Path, environ: Mapping[str, str]) -> Path:
    if hf_home := clean_text(environ.get("HF_HOME", "")):
        return Path(hf_home).expanduser() / "hub"
    return Path.home() / ".cache" / "huggingface" / "hub"


_KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings in force. `None` (0 for counts) means automatic; `math.inf` seconds are forever."""

    # where things are
    home: Path = _declare(
        Folder(), lambda _home, _environ: Path.home() / ".donabe", "folder of donabe's own files", shown="~/.donabe"
    )
    models_dir: Path = _declare(
        Folder(), _under_home("models"), "model store", twins="OLLAMA_MODELS", shown="~/.donabe/models", name="models"
    )
    extra_stores: tuple[Path, ...] = _declare(
        Folders(),
        lambda _home, _environ: (Path.home() / ".ollama" / "models",),
        "model stores that are read in place and never written",
        shown="~/.ollama/models",
    )
    hf_cache: Path = _declare(
        Folder(),
        _hugging_face_cache,
        "Hugging Face cache, read in place and never written",
        twins="HF_HUB_CACHE",
        shown="~/.cache/huggingface/hub",
    )
    keep_unused: bool = _declare(Flag(), False, "keep blobs that no model uses", twins="OLLAMA_NOPRUNE")
    offline: bool = _declare(Flag(), False, "never reach out to model sources")
    private_registries: tuple[str, ...] = _declare(
        Texts(), (), "registries that may be on private addresses: `host`, `host:port`, or `*` for all"
    )
    limit_rate: int = _declare(Size(), 0, "bytes per second a pull or push may use, 0 = no limit", shown="0")

    # the server and its clients
    host_address: HostAddress = _declare(
        Address(), HostAddress(), "where the server listens and clients connect", twins="OLLAMA_HOST", name="host"
    )
    port_override: int | None = _declare(
        Number(0, 65535), None, "port that replaces the one in `host`", shown="that of host", name="port"
    )
    origins: tuple[str, ...] = _declare(
        Texts(), (), "further browser origins that may call the API, `*` as wildcard", twins="OLLAMA_ORIGINS"
    )
    strict: bool = _declare(Flag(), False, "refuse unknown request fields instead of reporting them")
    max_queue: int = _declare(
        Number(0), 512, "requests that may wait before new ones are refused", twins="OLLAMA_MAX_QUEUE"
    )
    max_body_bytes: int = _declare(Size(), 256_000_000, "largest accepted request body", shown="256MB", name="max_body")
    debug: int = _declare(Verbosity(), 0, "1 logs at debug level, 2 traces", twins="OLLAMA_DEBUG")
    log_level: str = _declare(
        Choice(("error", "warning", "info", "debug", "trace")), "info", "least severe level that is logged"
    )

    # keys and limits
    api_key: str = _declare(Text(), "", "key that `donabe` and `donabe.Client` send", secret=True)
    api_keys: tuple[str, ...] = _declare(Texts(), (), "keys the server accepts", secret=True)
    require_api_key: bool | None = _declare(
        Flag(auto=True), None, "ask for a key; auto asks as soon as `api_keys` is set", shown="auto"
    )
    insecure_no_auth: bool = _declare(Flag(), False, "allow listening beyond this machine without keys")
    requests_per_minute: int = _declare(Number(0), 0, "requests one key or address may make per minute, 0 = no limit")
    tokens_per_minute: int = _declare(Number(0), 0, "output tokens one key or address may use per minute, 0 = no limit")

    # resident models
    keep_alive_s: float = _declare(
        Duration(),
        300.0,
        "how long an idle model stays loaded, negative = forever",
        twins="OLLAMA_KEEP_ALIVE",
        shown="5m",
        name="keep_alive",
    )
    load_timeout_s: float = _declare(
        Duration(zero_is_forever=True),
        300.0,
        "how long loading may stall, 0 = no limit",
        twins="OLLAMA_LOAD_TIMEOUT",
        shown="5m",
        name="load_timeout",
    )
    max_loaded_models: int = _declare(
        Number(0, zero_is_auto=True), 0, "models resident at once", twins="OLLAMA_MAX_LOADED_MODELS", shown="auto"
    )
    context_length: int = _declare(
        Number(0, zero_is_auto=True), 0, "tokens of context per request", twins="OLLAMA_CONTEXT_LENGTH", shown="auto"
    )
    num_parallel: int = _declare(
        Number(0, 256, zero_is_auto=True),
        0,
        "requests of one model that run at once",
        twins="OLLAMA_NUM_PARALLEL",
        shown="auto",
    )

    # the engine
    flash_attention: bool | None = _declare(
        Flag(auto=True), None, "use flash attention", twins="OLLAMA_FLASH_ATTENTION", shown="auto"
    )
    kv_cache_type: str | None = _declare(
        Choice(_KV_TYPES, auto=True), None, "number format of the KV cache", twins="OLLAMA_KV_CACHE_TYPE", shown="auto"
    )
    max_step_latency_s: float | None = _declare(
        Duration(auto=True),
        None,
        "longest gap between two tokens of a running answer while prompts come in",
        shown="auto",
        name="max_step_latency",
    )
    prefix_cache_ram_bytes: int = _declare(
        Size(),
        256 << 20,
        "memory of each model for prefixes that left its KV cache, 0 = none",
        shown="256MiB",
        name="prefix_cache_ram",
    )
    prefix_cache_disk_bytes: int = _declare(
        Size(),
        2_000_000_000,
        "disk space for prefixes that outlive unloading and restarts, 0 = none",
        shown="2GB",
        name="prefix_cache_disk",
    )

    # the terminal
    no_history: bool = _declare(Flag(), False, "keep no history of interactive prompts", twins="OLLAMA_NOHISTORY")
    editor: str = _declare(
        Text(), "", "editor that Ctrl-G opens", twins="OLLAMA_EDITOR VISUAL EDITOR", shown="$VISUAL, $EDITOR"
    )

    sources: Mapping[str, Source] = field(default_factory=dict, repr=False)

    @property
    def address(self) -> HostAddress:
        """`host` with `port` applied."""
        override = self.port_override
        return self.host_address if override is None else dataclasses.replace(self.host_address, port=override)

    @property
    def host(self) -> str:
        """Interface to listen on; "" is all of them."""
        return self.address.host

    @property
    def port(self) -> int:
        return self.address.port

    @property
    def logging_level(self) -> int:
        """Level for the standard `logging` module; trace is 5."""
        levels = {"error": 40, "warning": 30, "info": 20, "debug": 10, "trace": 5}
        return min(levels[self.log_level], {0: 50, 1: 10, 2: 5}[self.debug])

    def source(self, name: str) -> Source:
        """Where the value of a setting came from."""
        return self.sources.get(name, Source("default"))

    def is_set(self, name: str) -> bool:
        """Whether the user chose the value; such a value is never lowered."""
        return self.source(name).kind != "default"

    def describe(self) -> Iterator[tuple[str, str, str]]:
        """(name, value, source) of every setting, secrets hidden: for the log and for `donabe doctor`."""
        for setting in declared_settings():
            value = getattr(self, setting.attribute)
            shown = "(hidden)" if setting.is_secret and value else _value_text(value)
            yield setting.name, shown, str(self.source(setting.name))


def declared_settings() -> tuple[Setting, ...]:
    """All declarations, in the order of the documentation."""
    return tuple(_as_setting(item) for item in dataclasses.fields(Settings) if "kind" in item.metadata)


def _as_setting(item: dataclasses.Field[Any]) -> Setting:
    meta = item.metadata
    default = meta["default"]
    name = meta["name"] or item.name
    return Setting(
        name=name,
        attribute=item.name,
        kind=meta["kind"],
        default=default,
        default_text=meta["shown"] or _value_text(default),
        env=f"DONABE_{name.upper()}",
        twins=meta["twins"],
        help=meta["help"],
        is_secret=meta["secret"],
    )


def _value_text(value: object) -> str:
    if value is None:
        return "auto"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return "forever" if math.isinf(value) else f"{value:g}s"
    if isinstance(value, tuple):
        return ", ".join(str(item) for item in value)
    return str(value)


def default_config_path(environ: Mapping[str, str] | None = None) -> Path:
    """The config file: `DONABE_CONFIG`, else `config.toml` in donabe's home folder."""
    environ = os.environ if environ is None else environ
    if named := clean_text(environ.get("DONABE_CONFIG", "")):
        return Path(named).expanduser()
    return default_home(environ) / "config.toml"


def default_home(environ: Mapping[str, str] | None = None) -> Path:
    """donabe's own folder where no setting names another: `DONABE_HOME`, else `~/.donabe`."""
    home = clean_text((os.environ if environ is None else environ).get("DONABE_HOME", ""))
    return Path(home).expanduser() if home else Path.home() / ".donabe"


def load_settings(
    flags: Mapping[str, object] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    config_path: Path | None = None,
) -> Settings:
    """Read all layers.

    Args:
        flags: Values from the command line by setting name; None means "not given".
        environ: Environment to read, default the process's.
        config_path: Config file, default `default_config_path()`. Only a file named explicitly must exist.

    Raises:
        SettingsError: A value is bad, a key of the file or a flag is unknown, or the file can't be read.
    """
    environ = os.environ if environ is None else environ
    is_named = config_path is not None or bool(clean_text(environ.get("DONABE_CONFIG", "")))
    path = config_path or default_config_path(environ)
    table = _read_config(path, must_exist=is_named)
    declared = {setting.name: setting for setting in declared_settings()}
    _refuse_unknown(table, declared, f"config file {path}")
    _refuse_unknown(flags or {}, declared, "flags")

    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    for name, setting in declared.items():
        raw, source = _pick(setting, table, path, environ, flags or {})
        if source.kind == "default":
            value = setting.default(values.get("home", Path()), environ) if callable(setting.default) else raw
        else:
            value = _parsed(setting, raw, source)
            sources[name] = source
        values[setting.attribute] = value
    return Settings(**values, sources=sources)


def _pick(
    setting: Setting, table: Mapping[str, object], path: Path, environ: Mapping[str, str], flags: Mapping[str, object]
) -> tuple[object, Source]:
    if flags.get(setting.name) is not None:
        return flags[setting.name], Source("flag", f"--{setting.name.replace('_', '-')}")
    for variable in (setting.env, *setting.twins):
        if text := clean_text(environ.get(variable, "")):
            return text, Source("environment", variable)
    if setting.name in table:
        return table[setting.name], Source("config file", str(path))
    return setting.default, Source("default")


def _parsed(setting: Setting, raw: object, source: Source) -> object:
    try:
        return setting.kind(raw)
    except ValueError as error:
        text = "has a bad value" if setting.is_secret else str(error)
        raise SettingsError(
            f"setting {setting.name} ({source}) {text}", setting=setting.name, source=str(source)
        ) from None


def _read_config(path: Path, *, must_exist: bool) -> dict[str, object]:
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


def _refuse_unknown(given: Mapping[str, object], declared: Mapping[str, Setting], where: str) -> None:
    for name in given:
        if name not in declared:
            close = difflib.get_close_matches(name, declared, n=1)
            hint = f"did you mean {close[0]}?" if close else "docs/settings.md lists all settings"
            raise SettingsError(f"unknown setting {name} in {where}", setting=name, source=where, hint=hint)
