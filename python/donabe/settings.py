"""Every setting of donabe, declared once: name, kind, default, help and environment variables.

Layers, later ones win: defaults < config file (TOML) < environment < flags. Each value remembers where it came from,
because an automatic value may be lowered by donabe and a user's never. A bad value is a `SettingsError` that names the
setting and its source. Standard library only: every process, also `donabe --help`, reads settings.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from donabe.setting_layers import Setting, Source, parsed, pick, read_config, refuse_unknown
from donabe.setting_values import (
    Address,
    Choice,
    Duration,
    File,
    Flag,
    Folder,
    Folders,
    HostAddress,
    Layers,
    Number,
    Shares,
    Size,
    Text,
    Texts,
    ValueKind,
    Verbosity,
    Workers,
    clean_text,
)

__all__ = [
    "KV_CACHE_TYPES",
    "HostAddress",
    "Setting",
    "Settings",
    "Source",
    "declared_settings",
    "default_config_path",
    "default_home",
    "load_settings",
]


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


BACKENDS = ("cuda", "rocm", "metal", "vulkan", "sycl", "cpu")
KV_CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")


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
    hf_token: str = _declare(
        Text(), "", "token that reads private and gated models of hf.co", twins="HF_TOKEN", secret=True
    )

    # the server and its clients
    host_address: HostAddress = _declare(
        Address(), HostAddress(), "where the server listens and clients connect", twins="OLLAMA_HOST", name="host"
    )
    port_override: int | None = _declare(
        Number(0, 65535), None, "port that replaces the one in `host`", shown="that of host", name="port"
    )
    tls_cert: Path | None = _declare(
        File(), None, "PEM file with the server's certificate, and those that sign it: serve HTTPS", shown="none"
    )
    tls_key: Path | None = _declare(File(), None, "PEM file with the key of `tls_cert`", shown="none")
    tls_ca: Path | None = _declare(
        File(), None, "PEM file with certificates that clients trust besides the system's", shown="none"
    )
    origins: tuple[str, ...] = _declare(
        Texts(), (), "further browser origins that may call the API, `*` as wildcard", twins="OLLAMA_ORIGINS"
    )
    strict: bool = _declare(Flag(), False, "refuse unknown request fields instead of reporting them")
    max_queue: int = _declare(
        Number(0), 512, "requests that may wait before new ones are refused", twins="OLLAMA_MAX_QUEUE"
    )
    max_body_bytes: int = _declare(Size(), 256_000_000, "largest accepted request body", shown="256MB", name="max_body")
    stream_interval_s: float = _declare(
        Duration(),
        0.04,
        "least time between two pieces of a streamed answer; 0 sends every token by itself, negative = all at the end",
        shown="40ms",
        name="stream_interval",
    )
    shutdown_timeout_s: float = _declare(
        Duration(),
        10.0,
        "how long running answers may go on when the server is stopped, negative = to their end",
        name="shutdown_timeout",
    )
    debug: int = _declare(Verbosity(), 0, "1 logs at debug level, 2 traces", twins="OLLAMA_DEBUG")
    log_level: str = _declare(
        Choice(("error", "warning", "info", "debug", "trace")), "info", "least severe level that is logged"
    )

    log_format: Literal["text", "json"] = _declare(
        Choice(("text", "json")), "text", "how log lines look: for people, or a JSON object each"
    )

    # keys and limits
    api_key: str = _declare(Text(), "", "key that `donabe` and `donabe.Client` send", secret=True)
    api_keys: tuple[str, ...] = _declare(Texts(), (), "keys the server accepts", secret=True)
    require_api_key: bool | None = _declare(
        Flag(auto=True), None, "ask for a key; auto asks as soon as `api_keys` is set", shown="auto"
    )
    insecure_no_auth: bool = _declare(Flag(), False, "allow listening beyond this machine without keys")
    requests_per_minute: int = _declare(Number(0), 0, "requests one key or address may make per minute, 0 = no limit")
    max_concurrent: int = _declare(Number(0), 0, "requests one key or address may run at once, 0 = no limit")
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
    spare_runner: bool = _declare(
        Flag(), True, "keep one started process without a model ready, about 30 MB, so that models load sooner"
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

    # devices
    backend: str | None = _declare(
        Choice(BACKENDS, auto=True), None, "what models are computed with; auto takes the best there is", shown="auto"
    )
    devices: tuple[str, ...] = _declare(
        Texts(), (), "exactly these devices, by the names `donabe doctor` shows", shown="auto"
    )
    gpu_layers: int | None = _declare(
        Layers(), None, "layers of a model on GPUs; auto puts as many as fit there", shown="auto"
    )
    cpu_moe: int | None = _declare(
        Layers(), None, "layers whose experts stay in the machine's memory, of models that have some", shown="auto"
    )
    main_gpu: int | None = _declare(
        Number(0, 255), None, "use this one of the devices only, counted from 0", shown="auto"
    )
    tensor_split: tuple[float, ...] = _declare(
        Shares(), (), "how much each device gets, for example `3,1`", shown="by free memory"
    )

    rpc: tuple[str, ...] = _declare(
        Workers(), (), "RPC workers whose devices take part, `host:port`; see docs/rpc.md", shown="none"
    )

    # copies of a model
    replicas: int = _declare(
        Number(0), 0, "copies of each model, run by Ray; 0 = one, in a process of the server; see docs/replicas.md"
    )
    replica_cpus: int = _declare(Number(0, zero_is_auto=True), 0, "CPUs of each replica", shown="even shares")
    replica_gpus: int = _declare(Number(0), 0, "GPUs of each replica; 0 = it computes on the CPU")
    ray_address: str = _declare(
        Text(), "", "Ray cluster that replicas run in", twins="RAY_ADDRESS", shown="a Ray of its own on this machine"
    )

    # the engine
    flash_attention: bool | None = _declare(
        Flag(auto=True), None, "use flash attention", twins="OLLAMA_FLASH_ATTENTION", shown="auto"
    )
    kv_cache_type: str | None = _declare(
        Choice(KV_CACHE_TYPES, auto=True),
        None,
        "number format of the KV cache",
        twins="OLLAMA_KV_CACHE_TYPE",
        shown="auto",
    )
    max_step_latency_s: float | None = _declare(
        Duration(auto=True),
        None,
        "longest gap between two tokens of a running answer while prompts come in",
        shown="auto",
        name="max_step_latency",
    )
    prefix_cache_pool_bytes: int | None = _declare(
        Size(auto=True),
        None,
        "part of each model's KV cache that prefixes may hold while no request uses them, auto = all that is free",
        shown="auto",
        name="prefix_cache_pool",
    )
    prefix_cache_ram_bytes: int | None = _declare(
        Size(auto=True),
        None,
        "memory of each model for prefixes that left its KV cache, 0 = none, auto = about as large as that, by the "
        "machine's memory",
        shown="auto",
        name="prefix_cache_ram",
    )
    prefix_cache_disk_bytes: int = _declare(
        Size(),
        2_000_000_000,
        "disk space for prefixes that outlive unloading and restarts, 0 = none",
        shown="2GB",
        name="prefix_cache_disk",
    )

    auto_tune: Literal["off", "cached", "idle", "on"] = _declare(
        Choice(("off", "cached", "idle", "on")),
        "idle",
        "settings measured for a model on this machine: off = ignore them, cached = use those there are, idle = also "
        "measure once while nobody needs the server, on = also measure at a model's first load",
    )

    # the terminal
    no_history: bool = _declare(Flag(), False, "keep no history of interactive prompts", twins="OLLAMA_NOHISTORY")
    editor: str = _declare(
        Text(), "", "editor that Ctrl-G opens", twins="OLLAMA_EDITOR VISUAL EDITOR", shown="$VISUAL, $EDITOR"
    )

    sources: Mapping[str, Source] = field(default_factory=dict, repr=False)

    @property
    def address(self) -> HostAddress:
        """`host` with `port` applied; a server on this machine that has a certificate is called by HTTPS."""
        address = self.host_address
        if self.port_override is not None:
            address = dataclasses.replace(address, port=self.port_override)
        if self.tls_cert is not None and (address.is_loopback or address.is_wildcard):
            address = dataclasses.replace(address, scheme="https")
        return address

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
            shown = setting.default_text if value is None else _value_text(value)
            shown = "(hidden)" if setting.is_secret and value else shown
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
    table = read_config(path, must_exist=is_named)
    declared = {setting.name: setting for setting in declared_settings()}
    refuse_unknown(table, declared, f"config file {path}")
    refuse_unknown(flags or {}, declared, "flags")

    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    for name, setting in declared.items():
        raw, source = pick(setting, table, path, environ, flags or {})
        if source.kind == "default":
            value = setting.default(values.get("home", Path()), environ) if callable(setting.default) else raw
        else:
            value = parsed(setting, raw, source)
            sources[name] = source
        values[setting.attribute] = value
    return Settings(**values, sources=sources)
