"""Who may talk to the server, before any route: browser origins (CORS), the Host header (DNS rebinding), and the types
of bodies that any page can send without being asked first (CSRF).

Pure ASGI middleware, outside routing, so that it covers unknown paths too. Order: origin, host, body, then the app.
A browser names its page's origin; a page that rebinds a name to our address sends that name as Host. Other clients are
not affected: they send no Origin, and a Host that names the machine. Keys guard against rebound names by themselves, as
their pages have none.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from donabe.errors import SettingsError
from donabe.server.errors import ForbiddenError, note_error, send_error
from donabe.server.routing import style_for

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
_LOOPBACK_SUFFIX = ".localhost"  # means this machine by definition (RFC 6761)
_LOCAL_SUFFIXES = (_LOOPBACK_SUFFIX, ".local", ".internal")

# Types of bodies that a page of any site can send without a preflight; no type is one of them (a Blob without one).
_FORM_TYPES = frozenset(("", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"))

_SHOWN_NAME_CHARS = 253  # the longest a name can be

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
        return self.allows_all or self.names(origin)

    def names(self, origin: str) -> bool:
        """Whether an entry means this origin, and not just every one."""
        return origin in self.exact or any(
            len(origin) >= len(prefix) + len(suffix) and origin.startswith(prefix) and origin.endswith(suffix)
            for prefix, suffix in self.patterns
        )

    def hosts(self) -> frozenset[str]:
        """Host names of the exact origins: who may call from there may also call the server by that name."""
        return frozenset(host_name(origin.partition("://")[2]) for origin in self.exact)


def host_name(host: str) -> str:
    """The Host header without its port and brackets, in lower case."""
    host = host.strip().lower()
    if host.startswith("["):
        name, _, rest = host[1:].partition("]")
        return name if not rest or (rest[0] == ":" and rest[1:].isdigit()) else host
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() and ":" not in name else host


class HostRules:
    """Which Host headers mean this machine: addresses, as no page can rebind an address, and names.

    Names of the machine itself, of the interface listened on and of configured origins always do. On a loopback
    interface every `.local` and `.internal` name does too, and no public address but the machine's own, as clients of
    the reference expect.

    Args:
        bound_to: The interface the server listens on; "" is all.
        names: Further names that are allowed.
    """

    def __init__(self, bound_to: str, names: frozenset[str] = frozenset()) -> None:
        self._is_loopback = is_loopback(bound_to)
        machine = socket.gethostname().lower()
        short = machine.partition(".")[0]
        self._names = (names | {"localhost", machine, short, f"{short}.local", host_name(bound_to)}) - {""}

    def allows(self, host: str) -> bool:
        """Whether a request for this Host is for us."""
        name = host_name(host).removesuffix(".")  # the root's dot means the same name
        address = _address(name)
        if name in self._names:
            return True
        if address is not None:
            return not self._is_loopback or not address.is_global or name in _interface_addresses()
        return name.endswith(_LOCAL_SUFFIXES if self._is_loopback else _LOOPBACK_SUFFIX)

    def is_named(self, host: str) -> bool:
        """Whether the Host is a name, and not an address."""
        return _address(host_name(host)) is None


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def is_loopback(host: str) -> bool:
    """Whether listening there is reachable from this machine only."""
    name = host_name(host)
    address = _address(name)
    return name == "localhost" if address is None else address.is_loopback


def _interface_addresses() -> frozenset[str]:
    import psutil  # only for public addresses, which are rare

    return frozenset(entry.address.partition("%")[0] for entries in psutil.net_if_addrs().values() for entry in entries)


class Guard:
    """The middleware.

    Args:
        asks_for_keys: Whether callers need a key now.
    """

    def __init__(
        self, app: ASGIApp, *, origins: OriginRules, hosts: HostRules, asks_for_keys: Callable[[], bool]
    ) -> None:
        self._app = app
        self._origins = origins
        self._hosts = hosts
        self._asks_for_keys = asks_for_keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        host = _one_host(scope)
        origin = headers.get(b"origin", b"").decode("latin-1")
        added: tuple[tuple[bytes, bytes], ...] = ()
        is_own = origin in (f"http://{host}", f"https://{host}")
        if origin and not is_own:
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
        is_unnamed = not host and scope.get("http_version") == "1.0"  # older than the header, and than every browser
        if not is_unnamed and not self._takes(host):
            await _refuse(scope, send, _wrong_host(host))
            return
        if scope["method"] == "OPTIONS" and not origin and self._hosts.is_named(host):
            await _send_empty(send, 204)
            return
        answer = _adding(send, added) if added else send
        if not is_own and not self._origins.names(origin) and _is_form_of_a_page(scope["method"], headers):
            await _refuse(scope, answer, _FORM_REFUSED)
            return
        await self._app(scope, receive, answer)

    def _takes(self, host: str) -> bool:
        return self._hosts.allows(host) or (host_name(host).strip(".") != "" and self._asks_for_keys())

    def _allow_headers(self, origin: str) -> tuple[tuple[bytes, bytes], ...]:
        if self._origins.allows_all:
            return ((b"access-control-allow-origin", b"*"),)
        return ((b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"Origin"))

    def _preflight_vary(self) -> tuple[tuple[bytes, bytes], ...]:
        return ((b"vary", b"Access-Control-Request-Method"), (b"vary", b"Access-Control-Request-Headers"))


_READING = ("GET", "HEAD", "OPTIONS")
_FORM_REFUSED = ForbiddenError(
    "a page's request needs the Content-Type application/json",
    hint="any site can send forms and plain text; pages of the setting origins may, when they are named there",
)


def _wrong_host(host: str) -> ForbiddenError:
    if not host:
        return ForbiddenError(
            "the request needs exactly one Host header", hint="send the name or address it is sent to"
        )
    name = host_name(host)[:_SHOWN_NAME_CHARS]
    return ForbiddenError(
        f'the Host "{name}" is not known to mean this server',
        hint=f"if it does, add http://{name} to the setting origins (DONABE_ORIGINS), or ask callers for API keys",
    )


def _one_host(scope: Scope) -> str:
    """The Host header; "" when there is none, or more than one, of which each could mean something else."""
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    return hosts[0].decode("latin-1").strip() if len(hosts) == 1 else ""


def _is_form_of_a_page(method: str, headers: Mapping[bytes, bytes]) -> bool:
    """Whether a browser sends a body that it would send to any server, on behalf of any page, without a preflight.

    Of origins that `*` alone allows, and of pages that don't say theirs: every page may ask, not act unasked. Other
    programs may send what they like: curl's default is a form's type.
    """
    if method in _READING or not (headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers):
        return False
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")
    return kind in _FORM_TYPES and _is_browser(headers)


def _is_browser(headers: Mapping[bytes, bytes]) -> bool:
    """Node's fetch says `sec-fetch-mode: cors` and no more; browsers name the site and the destination as well."""
    return (
        any(name in headers for name in (b"origin", b"sec-fetch-site", b"sec-fetch-dest", b"sec-fetch-user"))
        or headers.get(b"sec-fetch-mode", b"cors") != b"cors"
    )


def _adding(send: Send, added: tuple[tuple[bytes, bytes], ...]) -> Send:
    async def send_with_headers(message: dict[str, object]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *added]}  # type: ignore[misc]
        await send(message)

    return send_with_headers  # type: ignore[return-value]


async def _refuse(scope: Scope, send: Send, error: ForbiddenError) -> None:
    """In the words of the path's dialect."""
    note_error(scope, error)
    if scope["method"] == "HEAD":
        await _send_empty(send, 403)
    else:
        await send_error(send, error, style_for(scope["path"]))


async def _send_empty(send: Send, status: int, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    length = () if status == 204 else ((b"content-length", b"0"),)
    await send({"type": "http.response.start", "status": status, "headers": [*length, *headers]})
    await send({"type": "http.response.body", "body": b""})
