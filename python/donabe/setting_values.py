"""Kinds of setting values: how text (environment, flags) or a TOML value becomes a checked Python value.

A kind is a small callable with a `label` for tables and messages. It raises ValueError with a text that completes
"<setting> ...", for example "must be a whole number from 1 to 1024, not 'x'". It knows no setting and no source.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

DEFAULT_PORT = 11434
DEFAULT_RPC_PORT = 50052
_SCHEME_PORTS = {"http": 80, "https": 443}
_TRUE = {"1", "true", "t", "yes", "on"}
_FALSE = {"0", "false", "f", "no", "off"}
_DURATION_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?")
_N_WORKERS_MAX = 16  # as many as ggml takes
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_SIZE_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


class ValueKind(Protocol):
    """Turns a raw value into a checked one, or raises ValueError."""

    @property
    def label(self) -> str: ...

    def __call__(self, raw: object) -> object: ...


@dataclass(frozen=True, slots=True)
class HostAddress:
    """Where the server listens and where clients find it: `[scheme://]host[:port][/path]`."""

    scheme: str = "http"
    host: str = "127.0.0.1"  # "" = all interfaces when listening; IPv6 without brackets
    port: int = DEFAULT_PORT
    path: str = ""  # "" or "/prefix", for clients behind a reverse proxy

    @property
    def url(self) -> str:
        """Base URL for a client, without a trailing slash; a wildcard address becomes loopback."""
        host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        host = f"[{host}]" if ":" in host else host
        return f"{self.scheme}://{host}:{self.port}{self.path}"

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine can reach it."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")

    @property
    def is_wildcard(self) -> bool:
        """Whether it stands for all interfaces."""
        return self.host in ("", "0.0.0.0", "::")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def clean_text(text: str) -> str:
    """Trim blanks, then one layer of quotes, as environment files leave them."""
    return text.strip().strip("\"'").strip()


def parse_host(text: str) -> HostAddress:
    """Parse `[scheme://]host[:port][/path]`; the port defaults to the scheme's, or to 11434 without a scheme."""
    scheme, separator, rest = clean_text(text).partition("://")
    if not separator:
        scheme, rest = "", scheme
    if scheme not in ("", "http", "https"):
        raise ValueError(f"must start with http:// or https:// if it names a scheme, not {scheme}://")
    authority, slash, path = rest.partition("/")
    host, port_text = _split_authority(authority)
    if any(character.isspace() or character in "@?#" for character in host):
        raise ValueError(f"must be [http://]host[:port][/path], not {text!r}")
    port = _SCHEME_PORTS.get(scheme, DEFAULT_PORT) if not port_text else parse_port(port_text)
    return HostAddress(scheme or "http", host, port, (slash + path).rstrip("/"))


def _split_authority(authority: str) -> tuple[str, str]:
    if authority.startswith("["):
        host, bracket, rest = authority[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"has an unclosed IPv6 bracket: {authority!r}")
        return host, rest[1:]
    if authority.count(":") > 1:  # a bare IPv6 address has no port
        return authority, ""
    host, _, port = authority.partition(":")
    return host, port


def parse_port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 <= int(text) <= 65535:
        raise ValueError(f"must have a port from 0 to 65535, not {text!r}")
    return int(text)


def parse_worker(text: str) -> str:
    """`host:port` of an RPC worker; the port defaults to 50052."""
    host, separator, port_text = clean_text(text).partition(":")
    if ":" in port_text or host.startswith("["):
        raise ValueError(f"must name workers by IPv4 address or host name, not {text!r}")
    if not _HOST_NAME.fullmatch(host):
        raise ValueError(f"must be host:port, not {text!r}")
    port = parse_port(port_text) if separator else DEFAULT_RPC_PORT
    if port == 0:
        raise ValueError(f"must have a port from 1 to 65535, not {text!r}")
    return f"{host}:{port}"


def parse_duration(raw: object) -> float:
    """Seconds from a number or a text such as `90`, `5m`, `1h30m`, `-1`; the sign is kept."""
    if isinstance(raw, (int, float)) and not isinstance(raw, bool):
        return float(raw)
    text = clean_text(raw) if isinstance(raw, str) else ""
    sign, body = (-1.0, text[1:]) if text.startswith("-") else (1.0, text.removeprefix("+"))
    if re.fullmatch(r"\d+(\.\d+)?", body):
        return sign * float(body)
    parts = _DURATION_PART.findall(body)
    if not parts or "".join(number + unit for number, unit in parts) != body:
        raise ValueError(f"must be a duration such as 30s, 5m or 1h30m, not {_shown(raw)}")
    return sign * sum(float(number) * _DURATION_UNITS_S[unit] for number, unit in parts)


def _shown(raw: object) -> str:
    return repr(raw) if isinstance(raw, str) else f"{type(raw).__name__} {raw!r}"


@dataclass(frozen=True, slots=True)
class Flag:
    """On or off. `auto_text` is a word that means "let donabe decide"."""

    auto: bool = False

    @property
    def label(self) -> str:
        return "on/off/auto" if self.auto else "on/off"

    def __call__(self, raw: object) -> bool | None:
        if isinstance(raw, bool):
            return raw
        text = clean_text(raw).lower() if isinstance(raw, str) else str(raw)
        if text in _TRUE or text in _FALSE:
            return text in _TRUE
        if self.auto and text == "auto":
            return None
        raise ValueError(f"must be {self.label.replace('/', ', ')}, not {_shown(raw)}")


@dataclass(frozen=True, slots=True)
class Number:
    """A whole number in a closed range. With `zero_is_auto`, 0 and `auto` mean "let donabe decide" (0)."""

    low: int = 0
    high: int = 2**31 - 1
    zero_is_auto: bool = False

    @property
    def label(self) -> str:
        low = max(self.low, 1) if self.zero_is_auto else self.low
        bounds = f"{low} to {self.high}" if self.high < 2**31 - 1 else f"{low} or more"
        return f"number, {bounds}, or auto" if self.zero_is_auto else f"number, {bounds}"

    def __call__(self, raw: object) -> int:
        value = raw
        if isinstance(raw, str):
            text = clean_text(raw)
            if self.zero_is_auto and text.lower() == "auto":
                return 0
            value = int(text) if re.fullmatch(r"[+-]?\d{1,18}", text, re.ASCII) else None
        if isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high:
            return value
        raise ValueError(f"must be a whole {self.label}, not {_shown(raw)}")


@dataclass(frozen=True, slots=True)
class Layers:
    """A count of a model's layers; `all` is -1, `auto` None."""

    label: str = "number, all, or auto"

    def __call__(self, raw: object) -> int | None:
        text = clean_text(raw).lower() if isinstance(raw, str) else str(raw)
        if text in ("auto", "all"):
            return None if text == "auto" else -1
        if isinstance(raw, bool) or not re.fullmatch(r"\d{1,5}", text, re.ASCII):
            raise ValueError(f"must be a {self.label}, not {_shown(raw)}")
        return int(text)


@dataclass(frozen=True, slots=True)
class Shares:
    """Numbers that divide something, comma-separated outside TOML; not all 0."""

    label: str = "comma list of numbers"

    def __call__(self, raw: object) -> tuple[float, ...]:
        items: Sequence[object] = clean_text(raw).split(",") if isinstance(raw, str) else _as_list(raw)
        try:
            shares = tuple(float(str(item)) for item in items if str(item).strip())
        except ValueError:
            shares = (-1.0,)
        if any(not math.isfinite(share) or share < 0 for share in shares) or (shares and not any(shares)):
            raise ValueError(f"must be a {self.label}, 0 or more and not all 0, not {_shown(raw)}")
        return shares


@dataclass(frozen=True, slots=True)
class Verbosity:
    """0, 1 or 2; on and off are 1 and 0."""

    label: str = "on/off, or 0 to 2"

    def __call__(self, raw: object) -> int:
        text = clean_text(raw).lower() if isinstance(raw, str) else str(raw).lower()
        if text in _TRUE or text in _FALSE:
            return int(text in _TRUE)
        if text == "2":
            return 2
        raise ValueError(f"must be {self.label}, not {_shown(raw)}")


@dataclass(frozen=True, slots=True)
class Duration:
    """Seconds. Negative (and zero, with `zero_is_forever`) means forever; with `auto`, 0 and `auto` mean None."""

    zero_is_forever: bool = False
    auto: bool = False

    @property
    def label(self) -> str:
        return "duration or auto" if self.auto else "duration"

    def __call__(self, raw: object) -> float | None:
        if self.auto and isinstance(raw, str) and clean_text(raw).lower() == "auto":
            return None
        seconds = parse_duration(raw)
        if not math.isfinite(seconds):
            raise ValueError(f"must be a finite duration, not {_shown(raw)}")
        if self.auto:
            if seconds < 0:
                raise ValueError(f"must not be negative, but is {_shown(raw)}")
            return seconds or None
        return math.inf if seconds < 0 or (seconds == 0 and self.zero_is_forever) else seconds


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes: a number, or a text such as `512MB`, `4GiB`. With `auto`, that word means None."""

    auto: bool = False

    @property
    def label(self) -> str:
        return "size or auto" if self.auto else "size"

    def __call__(self, raw: object) -> int | None:
        if self.auto and isinstance(raw, str) and clean_text(raw).lower() == "auto":
            return None
        return parse_size(raw)


def parse_size(raw: object) -> int:
    """Bytes of a number or a text such as `512MB`, `4GiB`; raises ValueError."""
    if isinstance(raw, int) and not isinstance(raw, bool) and raw >= 0:
        return raw
    match = _SIZE.fullmatch(clean_text(raw)) if isinstance(raw, str) else None
    if match is None:
        raise ValueError(f"must be a size such as 512MB or 4GiB, not {_shown(raw)}")
    number, prefix, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** _SIZE_POWERS[prefix.lower()])


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words. With `auto`, that word means None."""

    words: tuple[str, ...]
    auto: bool = False

    @property
    def label(self) -> str:
        return ", ".join((*self.words, "auto") if self.auto else self.words)

    def __call__(self, raw: object) -> str | None:
        text = clean_text(raw).lower() if isinstance(raw, str) else ""
        if self.auto and text == "auto":
            return None
        if text not in self.words:
            raise ValueError(f"must be one of {self.label}, not {_shown(raw)}")
        return text


@dataclass(frozen=True, slots=True)
class Text:
    """Any text."""

    label: str = "text"

    def __call__(self, raw: object) -> str:
        if not isinstance(raw, str):
            raise ValueError(f"must be text, not {_shown(raw)}")
        return clean_text(raw)


@dataclass(frozen=True, slots=True)
class Texts:
    """A list of texts, comma-separated outside TOML."""

    label: str = "comma list"

    def __call__(self, raw: object) -> tuple[str, ...]:
        items: Sequence[object] = clean_text(raw).split(",") if isinstance(raw, str) else _as_list(raw)
        if not all(isinstance(item, str) for item in items):
            raise ValueError("must be a list of texts")
        return tuple(text for item in items if (text := str(item).strip()))


@dataclass(frozen=True, slots=True)
class Workers:
    """Addresses of RPC workers, each once, comma-separated outside TOML."""

    label: str = "comma list of host:port"

    def __call__(self, raw: object) -> tuple[str, ...]:
        workers = tuple(parse_worker(text) for text in Texts()(raw))
        if len(set(workers)) < len(workers):
            raise ValueError("must name each worker once")
        if len(workers) > _N_WORKERS_MAX:
            raise ValueError(f"must name at most {_N_WORKERS_MAX} workers, not {len(workers)}")
        return workers


@dataclass(frozen=True, slots=True)
class Folder:
    """A path, made absolute; `~` is the home folder."""

    label: str = "path"

    def __call__(self, raw: object) -> Path:
        if not isinstance(raw, (str, Path)) or not str(raw).strip() or "\0" in str(raw):
            raise ValueError(f"must be a path, not {_shown(raw)}")
        return Path(os.path.abspath(Path(clean_text(str(raw))).expanduser()))


@dataclass(frozen=True, slots=True)
class File(Folder):
    """The path of a file; whoever reads it says what is wrong with it."""

    label: str = "file"


@dataclass(frozen=True, slots=True)
class Folders:
    """Several paths, separated as in PATH outside TOML; `none` is the empty list."""

    label: str = "paths"

    def __call__(self, raw: object) -> tuple[Path, ...]:
        if isinstance(raw, str) and clean_text(raw).lower() == "none":
            return ()
        items: Sequence[object] = clean_text(raw).split(os.pathsep) if isinstance(raw, str) else _as_list(raw)
        return tuple(Folder()(item) for item in items if item != "")


@dataclass(frozen=True, slots=True)
class Address:
    """A `HostAddress`."""

    label: str = "[http://]host[:port][/path]"

    def __call__(self, raw: object) -> HostAddress:
        if isinstance(raw, HostAddress):
            return raw
        if not isinstance(raw, str):
            raise ValueError(f"must be {self.label}, not {_shown(raw)}")
        return parse_host(raw)


def _as_list(raw: object) -> Sequence[object]:
    if not isinstance(raw, (list, tuple)):
        raise ValueError(f"must be a list, not {_shown(raw)}")
    return raw
