"""A transport that refuses to talk to private addresses, and connects to the very address it checked.

A model name or a redirect chooses the host a server connects to; without this, anyone who may pull could reach into the
network the server stands in. Names are resolved here, every address must be a public one, and the connection goes to
that address (TLS still verifies the name), so a second DNS answer can't change anything. Imported with httpx, never
before.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import urllib.request
from collections.abc import Iterable

import httpx

from donabe.errors import SourceError

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class GuardedTransport(httpx.AsyncBaseTransport):
    """Sends requests to public addresses, and to the private hosts that are allowed by name.

    Args:
        private_hosts: `host` or `host:port` of registries that may be anywhere; `*` allows all.
        proxies: Proxy URL by scheme; the environment's by default. A proxied host is resolved by the proxy, so only its
            literal address, or what it resolves to here if anything, can be checked.
    """

    def __init__(
        self, context: ssl.SSLContext, private_hosts: Iterable[str], proxies: dict[str, str] | None = None
    ) -> None:
        self._context = context
        self._private_hosts = frozenset(host.lower() for host in private_hosts)
        self._proxies = urllib.request.getproxies() if proxies is None else proxies
        self._inner: dict[tuple[str, str], httpx.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host, scheme = request.url.host, request.url.scheme
        proxy = self._proxies.get(scheme, "")
        is_allowed = self.is_allowed_private(host, request.url.port)
        if proxy and not urllib.request.proxy_bypass(host):
            if not is_allowed:
                await self._public_addresses(host, request.url.port or 443, must_resolve=False)
            return await self._transport(proxy, "").handle_async_request(request)
        if is_allowed:
            return await self._transport("", host).handle_async_request(request)
        addresses = await self._public_addresses(host, request.url.port or (443 if scheme == "https" else 80))
        return await self._send_to(addresses, request)

    def is_allowed_private(self, host: str, port: int | None) -> bool:
        names = {"*", host.lower(), f"{host.lower()}:{port}"}
        return bool(names & self._private_hosts)

    async def _send_to(self, addresses: list[_Address], request: httpx.Request) -> httpx.Response:
        """Try the addresses in turn; a failed connection has not used up the request's body."""
        last: httpx.ConnectError | httpx.ConnectTimeout | None = None
        for address in addresses:
            pinned = httpx.Request(
                request.method,
                request.url.copy_with(host=str(address)),
                headers=request.headers,  # Host was set from the name already
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": request.url.host},
            )
            try:
                return await self._transport("", request.url.host).handle_async_request(pinned)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                last = error
        raise last or httpx.ConnectError("no address")

    def _transport(self, proxy: str, host: str) -> httpx.AsyncHTTPTransport:
        """One connection pool a name: two names on one address must not share a connection."""
        key = (proxy, host)
        if key not in self._inner:
            limits = httpx.Limits(max_connections=64, max_keepalive_connections=32)
            self._inner[key] = httpx.AsyncHTTPTransport(verify=self._context, proxy=proxy or None, limits=limits)
        return self._inner[key]

    async def _public_addresses(self, host: str, port: int, *, must_resolve: bool = True) -> list[_Address]:
        try:
            answers = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            if must_resolve:
                raise httpx.ConnectError(f"the name does not resolve ({error})") from error
            return []
        addresses = list(dict.fromkeys(ipaddress.ip_address(str(answer[4][0]).partition("%")[0]) for answer in answers))
        if not all(is_public(address) for address in addresses):
            raise SourceError(
                f"{host} is on a private network, which model sources may not be",
                hint=f"if that is your registry, allow it: DONABE_PRIVATE_REGISTRIES={host}",
            )
        return addresses

    async def aclose(self) -> None:
        for transport in self._inner.values():
            await transport.aclose()


def is_public(address: _Address) -> bool:
    """Whether an address is on the public internet, also when it hides an IPv4 address."""
    if isinstance(address, ipaddress.IPv6Address):
        hidden = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if hidden is None and address in _NAT64:
            hidden = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if hidden is not None:
            return is_public(hidden)
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)
