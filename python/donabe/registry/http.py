"""HTTP clients for sources: certificates, proxies and limits in one place. httpx is imported when a client is made.

Errors of the HTTP library are turned into `SourceError`s here and nowhere else.
"""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from donabe.errors import DonabeError, SourceAuthError, SourceError, SourceUnreachableError

if TYPE_CHECKING:
    import httpx

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 60.0
_CERTIFICATE_VARIABLES = ("DONABE_CA_BUNDLE", "PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def tls_context() -> ssl.SSLContext:
    """The trust store: the bundle the environment names, as pip and other tools use it, else the system's and
    certifi's.
    """
    for variable in _CERTIFICATE_VARIABLES:
        path = os.environ.get(variable, "")
        if path and os.path.exists(path):
            is_folder = os.path.isdir(path)
            return ssl.create_default_context(cafile=None if is_folder else path, capath=path if is_folder else None)
    import certifi

    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


def new_client(
    stall_s: float = READ_TIMEOUT_S, *, guarded: bool = False, private_hosts: tuple[str, ...] = ()
) -> httpx.AsyncClient:
    """A client for downloads. It follows no redirect by itself, and asks for bytes as they are (no compression).

    Args:
        stall_s: How long a connection may stay silent.
        guarded: Refuse private addresses, except the `private_hosts`. For hosts that a name or a peer chose; not for
            those of the user's own pip configuration.
    """
    import httpx

    context = tls_context()
    transport = None
    if guarded:
        from donabe.registry.guard import GuardedTransport

        transport = GuardedTransport(context, private_hosts)
    return httpx.AsyncClient(
        transport=transport,
        verify=context,
        timeout=httpx.Timeout(stall_s, connect=CONNECT_TIMEOUT_S),
        limits=httpx.Limits(max_connections=64, max_keepalive_connections=32),
        headers={"Accept-Encoding": "identity", "User-Agent": _user_agent()},
        follow_redirects=False,
    )


def _user_agent() -> str:
    import platform

    return f"donabe ({platform.machine()} {platform.system().lower()}) Python/{platform.python_version()}"


def host_of(url: str) -> str:
    """Host and port of a URL, for messages; never its credentials or query."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname or url


def is_stall(error: Exception) -> bool:
    """Whether the other side went silent, as opposed to breaking the connection."""
    import httpx

    return isinstance(error, httpx.ReadTimeout)


def transport_error(error: Exception, url: str) -> DonabeError:
    """The typed form of an error of the HTTP library."""
    import httpx

    host = host_of(url)
    if isinstance(error, httpx.ConnectError) and "certificate" in str(error).lower():
        return SourceError(
            f"{host}: its certificate is not trusted", hint="set SSL_CERT_FILE to your certificate authority's bundle"
        )
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)):
        return SourceUnreachableError(
            f"{host} can't be reached: {_reason(error)}", hint="check the network and the proxy"
        )
    if isinstance(error, (httpx.UnsupportedProtocol, httpx.InvalidURL)):
        return SourceError(f"{host}: not an address that can be downloaded from")
    return SourceUnreachableError(f"{host} stopped answering: {_reason(error)}", hint="try again; the download resumes")


def status_error(status: int, url: str, detail: str = "") -> DonabeError:
    """The typed form of an HTTP status that is not a success."""
    host, shown = host_of(url), f": {detail}" if detail else ""
    if status in {401, 403, 407}:
        return SourceAuthError(
            f"{host} refuses access ({status}){shown}", hint="check your credentials for this source"
        )
    if status >= 500 or status == 429:
        return SourceUnreachableError(f"{host} answered {status}{shown}", hint="try again later")
    return SourceError(f"{host} answered {status}{shown}")


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
