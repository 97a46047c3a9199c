"""Who may talk to the server, before any route: browser origins (CORS) and the Host header (DNS rebinding).

Pure ASGI middleware, outside routing, so that it covers unknown paths too. Order: origin, then host, then the app.
A browser names its page's origin; a page that rebinds a name to our address sends that name as Host. Other clients are
not affected: they send no Origin, and a Host that names the machine.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from donabe.errors import SettingsError

_LOCAL_NAMES = ("localhost", "127.0.0.1", "0.0.0.0")
BUILT_IN_ORIGINS = (
    *(f"{scheme}://{name}{port}" for scheme in ("http", "https") for name in _LOCAL_NAMES for port in ("", ":*")),
    "app://*",
    "file://*",
    "tauri://*",
    "vscode-webview://*",
    "vscode-file://*",
)
_EXACT_SCHEMES = (
    "http://",
    "https://",
    "chrome-extension://",
    "safari-extension://",
    "moz-extension://",
    "ms-browser-extension://",
)
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")

_PREFLIGHT_HEADERS = (
    (b"access-control-allow-methods", b"GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"),
    (
        b"access-control-allow-headers",
        b"Authorization,Content-Type,User-Agent,Accept,X-Requested-With,X-Api-Key,Anthropic-Version,Anthropic-Beta,"
        b"Openai-Beta,X-Stainless-Arch,X-Stainless-Async,X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,"
        b"X-Stainless-Lang,X-Stainless-Os,X-Stainless-Package-Version,X-Stainless-Poll-Helper,"
        b"X-Stainless-Retry-Count,X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout",
    ),
    (b"access-control-max-age", b"43200"),
)


@dataclass(frozen=True)
class OriginRules:
    """Which browser origins may call. Patterns hold at most one `*`."""

    exact: frozenset[str]
    patterns: tuple[tuple[str, str], ...]  # (prefix, suffix)
    allows_all: bool

    @classmethod
    def parse(cls, extra: Sequence[str]) -> OriginRules:
        """Rules of the built-in origins and these.

        Raises:
            SettingsError: An entry has two `*`, or none and no known scheme.
        """
        entries = [entry.strip() for entry in extra if entry.strip()]
        for entry in entries:
            if entry.count("*") > 1:
                raise SettingsError(f"bad origin {entry!r}: at most one * is allowed", setting="origins")
            if "*" not in entry and not entry.lower().startswith(_EXACT_SCHEMES):
                raise SettingsError(
                    f"bad origin {entry!r}: it needs a scheme", setting="origins", hint=f'write "https://{entry}"'
                )
        every = [*entries, *BUILT_IN_ORIGINS]
        patterns = [entry.partition("*") for entry in every if "*" in entry and entry != "*"]
        return cls(
            exact=frozenset(entry.lower() for entry in every if "*" not in entry),
            patterns=tuple((prefix, suffix) for prefix, _, suffix in patterns),
            allows_all="*" in entries,
        )

    def allows(self, origin: str) -> bool:
        return (
            self.allows_all
            or origin in self.exact
            or any(
                len(origin) >= len(prefix) + len(suffix) and origin.startswith(prefix) and origin.endswith(suffix)
                for prefix, suffix in self.patterns
            )
        )

    def hosts(self) -> frozenset[str]:
        """Host names of the exact origins: who may call from there may also call the server by that name."""
        return frozenset(host_name(origin.partition("://")[2]) for origin in self.exact)


def host_name(host: str) -> str:
    """The Host header without its port and brackets, in lower case."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() and ":" not in name else host


class HostRules:
    """Which Host headers mean this machine.

    Args:
        bound_to: The interface the server listens on; "" is all.
        names: Further names that are allowed.
    """

    def __init__(self, bound_to: str, names: frozenset[str] = frozenset()) -> None:
        self._is_loopback = is_loopback(bound_to)
        machine = socket.gethostname().lower()
        self._names = names | {"localhost", machine, machine.partition(".")[0], host_name(bound_to)}

    def allows(self, host: str) -> bool:
        """Whether a request for this Host is for us. Without one there is nothing a browser could have rebound."""
        name = host_name(host)
        if not name:
            return True
        address = _address(name)
        if address is not None:
            return address.is_loopback or address.is_private or address.is_unspecified or name in _interface_addresses()
        if name in self._names or name.endswith(_LOCAL_SUFFIXES):
            return True
        # A name without a dot is never a public one; containers call each other by such names.
        return not self._is_loopback and "." not in name

    def is_named(self, host: str) -> bool:
        """Whether the Host is a name, and not an address."""
        return _address(host_name(host)) is None


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether listening there is reachable from this machine only."""
    name = host_name(host)
    address = _address(name)
    return name == "localhost" if address is None else address.is_loopback


def _interface_addresses() -> frozenset[str]:
    import psutil  # only for public addresses, which are rare

    return frozenset(entry.address.partition("%")[0] for entries in psutil.net_if_addrs().values() for entry in entries)


class Guard:
    """The middleware."""

    def __init__(self, app: ASGIApp, *, origins: OriginRules, hosts: HostRules) -> None:
        self._app = app
        self._origins = origins
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        origin = headers.get(b"origin", b"").decode("latin-1")
        added: tuple[tuple[bytes, bytes], ...] = ()
        if origin and origin not in (f"http://{host}", f"https://{host}"):
            if not self._origins.allows(origin):
                await _send_empty(send, 403)
                return
            added = self._allow_headers(origin)
            if scope["method"] == "OPTIONS":
                await _send_empty(send, 204, (*_PREFLIGHT_HEADERS, *added, *self._preflight_vary()))
                return
        elif not origin and headers.get(b"sec-fetch-site") == b"cross-site" and scope["method"] not in _READING:
            await _send_empty(send, 403)
            return
        if not self._hosts.allows(host):
            await _send_empty(send, 403)
            return
        if scope["method"] == "OPTIONS" and not origin and self._hosts.is_named(host):
            await _send_empty(send, 204)
            return
        await self._app(scope, receive, _adding(send, added) if added else send)

    def _allow_headers(self, origin: str) -> tuple[tuple[bytes, bytes], ...]:
        if self._origins.allows_all:
            return ((b"access-control-allow-origin", b"*"),)
        return ((b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"Origin"))

    def _preflight_vary(self) -> tuple[tuple[bytes, bytes], ...]:
        return ((b"vary", b"Access-Control-Request-Method"), (b"vary", b"Access-Control-Request-Headers"))


_READING = ("GET", "HEAD", "OPTIONS")


def _adding(send: Send, added: tuple[tuple[bytes, bytes], ...]) -> Send:
    async def send_with_headers(message: dict[str, object]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *added]}  # type: ignore[misc]
        await send(message)

    return send_with_headers  # type: ignore[return-value]


async def _send_empty(send: Send, status: int, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    length = () if status == 204 else ((b"content-length", b"0"),)
    await send({"type": "http.response.start", "status": status, "headers": [*length, *headers]})
    await send({"type": "http.response.body", "body": b""})
