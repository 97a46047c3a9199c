"""Talking to one registry: addresses of one repository, authentication, redirects, bounded answers.

Credentials go to the registry's own origin and nowhere else; every redirect is followed here, hop by hop, and the
guarded transport checks each host. Runs on the pull thread.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from donabe.errors import SourceAuthError, SourceError
from donabe.registry import auth
from donabe.registry.http import new_client, status_error, transport_error
from donabe.registry.keys import load_key
from donabe.registry.sources import HUB_HOSTS, PullOptions
from donabe.store.names import ModelName

if TYPE_CHECKING:
    import httpx

MAX_REDIRECTS = 10
_MAX_ERROR_BYTES = 2048
_MAX_TOKEN_BYTES = 64 << 10
_TOKEN_HINT = "set HF_TOKEN, where the server runs, to a token that may read the model; or check the name"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class RegistryClient:
    """Requests for one repository of one registry. An async context manager.

    Raises:
        SourceError: The name's scheme can't be used.
    """

    def __init__(self, name: ModelName, options: PullOptions) -> None:
        scheme = "http" if options.insecure else name.scheme
        if scheme == "http" and not options.insecure:
            raise SourceError("insecure protocol http", hint="use --insecure if you mean it")
        if scheme not in {"http", "https"}:
            raise SourceError(f"{name.host}: unknown protocol {scheme[:20]!r}", hint="registries speak https")
        self.name = name
        self._base = f"{scheme}://{name.host}"
        self._options = options
        self._token = ""
        self._token_lock = asyncio.Lock()
        self._http = new_client(options.patience.stall_s, guarded=True, private_hosts=options.private_hosts)

    async def __aenter__(self) -> RegistryClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    @property
    def origin(self) -> str:
        """Scheme and host."""
        return self._base

    def url(self, path: str) -> str:
        """`<registry>/v2/<repository>/<path>`."""
        return f"{self._base}/v2/{self.name.repository}/{path}"

    def is_own(self, url: str) -> bool:
        """Whether a URL is on the registry's own origin."""
        mine, other = urlsplit(self._base), urlsplit(url)
        return (mine.scheme, mine.netloc.lower()) == (other.scheme, other.netloc.lower())

    def _host_token(self, url: str) -> str:
        """The user's own token for the host of a URL, if there is one. It never crosses a network in the clear."""
        parts = urlsplit(url)
        host = parts.netloc.lower()
        is_safe = parts.scheme == "https" or host in self._options.private_hosts
        token = self._options.host_tokens.get(host, "") if is_safe else ""
        if not (token.isascii() and token.isprintable()):
            raise SourceAuthError(f"the token for {host} holds characters that no token has", hint=_TOKEN_HINT)
        return token

    @asynccontextmanager
    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | AsyncIterator[bytes] = b"",
        follow: bool = True,
    ) -> AsyncIterator[httpx.Response]:
        """Send a request and give its answer, whatever the status; a 401 is answered with a token once.

        Args:
            follow: Follow redirects (for requests without a streamed body).

        Raises:
            SourceError and kin: The request did not get through.
        """
        import httpx

        has_retried, n_hops = False, 0
        while True:
            token = self._token if self.is_own(url) else ""
            bearer = token or self._host_token(url)
            sent = {**(headers or {}), **({"Authorization": f"Bearer {bearer}"} if bearer else {})}
            try:
                request = self._http.build_request(method, url, headers=sent, content=body or None)
                response = await self._http.send(request, stream=True)
            except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
                raise transport_error(error, url) from error
            try:
                if response.status_code == 401 and self.is_own(url) and not has_retried:
                    has_retried = True
                    await self._log_in(response.headers.get("www-authenticate", ""), url, token)
                elif follow and response.status_code in _REDIRECTS and "location" in response.headers:
                    n_hops += 1
                    url = self._next_hop(url, response.headers["location"], n_hops)
                else:
                    yield response
                    return
            finally:
                await response.aclose()

    def _next_hop(self, url: str, location: str, n_hops: int) -> str:
        if n_hops > MAX_REDIRECTS:
            raise SourceError(f"maximum redirects exceeded ({MAX_REDIRECTS}) for directURL")
        return self.check_target(url, location)

    def check_target(self, base: str, location: str) -> str:
        """The URL of a location the registry gave in its answer to `base`, if it may be used.

        Raises:
            SourceError: It is none, leaves HTTP or TLS, or carries credentials.
        """
        try:
            url = urljoin(base, location)
            parts = urlsplit(url)
            _ = parts.port
        except ValueError as error:
            raise SourceError("the registry gave an address that is none") from error
        allowed = {"https", "http"} if self._options.insecure else {"https"}
        if parts.scheme not in allowed or not parts.hostname:
            raise SourceError(f"the registry points to an address that is not {' or '.join(sorted(allowed))}")
        if "@" in parts.netloc:
            raise SourceError("the registry points to an address with credentials in it")
        return url

    async def _log_in(self, header: str, url: str, rejected: str) -> None:
        """Get a token, unless another request got a newer one meanwhile."""
        async with self._token_lock:
            if self._token != rejected:
                return
            if not header:
                raise SourceAuthError("unauthorized: access denied", hint=self._login_hint())
            target = auth.token_url(auth.parse_challenge(header), url)
            key = await asyncio.to_thread(load_key, self._options.key_folder)
            data = await self._ask_token(target, key.authorization(auth.signed_message(target)))
            self._token = _read_token(data)

    async def _ask_token(self, target: str, authorization: str) -> bytes:
        import httpx

        try:
            async with self._http.stream("GET", target, headers={"Authorization": authorization}) as response:
                data = await read_capped(response, _MAX_TOKEN_BYTES)
                if response.status_code != 200:
                    raise SourceAuthError(
                        f"{response.status_code}: {_printable(data)}", hint="check your registry login"
                    )
                return data
        except httpx.HTTPError as error:
            raise transport_error(error, target) from error

    async def failure(self, response: httpx.Response) -> Exception:
        """The typed error for an answer that is not a success."""
        if response.status_code in {401, 403}:
            return SourceAuthError("unauthorized: access denied", hint=self._login_hint())
        try:
            detail = _printable(await read_capped(response, _MAX_ERROR_BYTES, cut=True))
        except SourceError:
            detail = ""
        return status_error(response.status_code, str(response.url), detail)

    def _login_hint(self) -> str:
        is_hub = self.name.host.lower() in HUB_HOSTS or self.name.host.lower() in self._options.host_tokens
        return _TOKEN_HINT if is_hub else "sign in to the registry, or check the name"


async def read_capped(response: httpx.Response, limit: int, *, cut: bool = False) -> bytes:
    """The body of a small answer. Never more than `limit` bytes are read; a compressed body is refused unread.

    Raises:
        SourceError: It is longer (unless `cut`), compressed, or breaks off.
    """
    import httpx

    if response.headers.get("content-encoding", "identity").lower() not in {"identity", ""}:
        raise SourceError("the registry sent a compressed answer that was not asked for")
    parts, n_read = [], 0
    try:
        async for data in response.aiter_raw():
            parts.append(data)
            n_read += len(data)
            if n_read > limit:
                if cut:
                    break
                raise SourceError(f"the registry's answer is longer than the {limit} bytes allowed")
    except httpx.HTTPError as error:
        raise transport_error(error, str(response.url)) from error
    return b"".join(parts)[:limit]


def _read_token(data: bytes) -> str:
    try:
        value = json.loads(data)
        token = value.get("token") or value.get("access_token")
    except (ValueError, AttributeError, RecursionError) as error:
        raise SourceAuthError("the registry's token answer is not JSON") from error
    if not isinstance(token, str) or not token.isascii() or not token.isprintable() or not token:
        raise SourceAuthError("the registry's token answer holds no token")
    return token


def _printable(data: bytes) -> str:
    text = data.decode("utf-8", "replace")
    return "".join(c if c.isprintable() else " " for c in text).strip()[:300]
