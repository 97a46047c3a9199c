"""What both clients share below the calls: connection settings, reading answers, and turning failures into our errors.

Foreign exceptions (httpx, JSON) never leave this package.
"""

from __future__ import annotations

import json
import logging
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx

from donabe.client.calls import Call
from donabe.errors import ResponseError, ServerUnavailableError, SettingsError
from donabe.setting_values import HostAddress, parse_host
from donabe.settings import load_settings
from donabe.types import JsonObject

logger = logging.getLogger("donabe.client")

CONNECT_TIMEOUT_S = 5.0
MAX_ERROR_CHARS = 2000  # of a body that is no JSON error, for example a proxy's HTML page


def connection_options(host: str | None, api_key: str | None, timeout_s: float | None) -> dict[str, Any]:
    """Arguments of `httpx.Client`; what is None comes from the settings."""
    settings = load_settings()
    address = settings.address if host is None else _address(host)
    key = settings.api_key if api_key is None else api_key
    headers = {"User-Agent": f"donabe/{_version()}"} | ({"Authorization": f"Bearer {key}"} if key else {})
    return {
        "base_url": address.url,
        "verify": _trust(settings.tls_ca) if address.scheme == "https" else True,
        "headers": headers,
        "timeout": httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S),
        "trust_env": not (address.is_loopback or address.is_wildcard),  # no proxy on the way to this machine
        "follow_redirects": True,
    }


def _trust(extra: Path | None) -> ssl.SSLContext:
    """The system's trust, or that of SSL_CERT_FILE, and the user's own file."""
    context = httpx.create_ssl_context(trust_env=True)
    if extra is None:
        return context
    try:
        context.load_verify_locations(extra)
    except ssl.SSLError as error:
        raise SettingsError(f"setting tls_ca: {extra} holds no certificate in PEM form", setting="tls_ca") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise SettingsError(f"setting tls_ca: can't read {extra}: {reason}", setting="tls_ca") from error
    return context


def _address(host: str) -> HostAddress:
    try:
        return parse_host(host)
    except ValueError as error:
        raise SettingsError(f"host {error}", setting="host", source="argument host") from None


def _version() -> str:
    try:
        return metadata.version("donabe")
    except metadata.PackageNotFoundError:
        return "unknown"


@contextmanager
def transport_errors(base_url: httpx.URL) -> Iterator[None]:
    """Turn httpx's exceptions into ours."""
    url = str(base_url).rstrip("/")
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        if "SSL" in str(error):
            raise _tls_error(url, str(error)) from error
        raise ServerUnavailableError(f"could not connect to donabe server at {url}", hint=_START_HINT) from error
    except httpx.TimeoutException as error:
        raise ServerUnavailableError(f"the server at {url} did not answer in time") from error
    except httpx.RequestError as error:
        text = str(error) or type(error).__name__
        raise ServerUnavailableError(f"the connection to {url} broke: {text}") from error


def _tls_error(url: str, text: str) -> ServerUnavailableError:
    if "CERTIFICATE_VERIFY_FAILED" in text:
        reason = text.partition("certificate verify failed: ")[2].partition(" (_ssl")[0] or text
        hint = "name the PEM file of the authority that signed it: DONABE_TLS_CA, or tls_ca in the config file"
        return ServerUnavailableError(f"the certificate of {url} can't be trusted: {reason}", hint=hint)
    return ServerUnavailableError(f"{url} does not speak TLS: {text}", hint="write http:// if it is a plain server")


_START_HINT = "run 'donabe serve' to start it"


def log_warnings(response: httpx.Response) -> None:
    """Log what the server said it ignored in the request (`Warning: 299 donabe "..."`)."""
    for value in response.headers.get_list("warning"):
        match = re.fullmatch(r'299 \S+ "(.*)"', value)
        logger.warning("%s", match[1].replace('\\"', '"') if match else value)


def read_object(response: httpx.Response) -> JsonObject:
    """The JSON object of a successful answer ({} for an empty one), or the error it carries."""
    if response.status_code >= 400:
        raise response_error(response.status_code, response.text, response.reason_phrase)
    log_warnings(response)
    if not response.content:
        return {}
    return _parsed(response.text, response.status_code)


def response_error(status_code: int, text: str, reason: str = "") -> ResponseError:
    """The error that an answer with a status of 400 or more stands for."""
    try:
        body = json.loads(text)
    except ValueError:
        body = None
    if isinstance(body, dict) and body.get("error"):
        return _carried_error(body, status_code)
    return ResponseError(text.strip()[:MAX_ERROR_CHARS] or f"{status_code} {reason}".strip(), status_code=status_code)


def _carried_error(body: JsonObject, status_code: int) -> ResponseError:
    error = body["error"]
    if isinstance(error, dict):  # the OpenAI and Anthropic dialects nest it
        body, error = error, error.get("message", error)
    hint = body.get("hint")
    return ResponseError(str(error), status_code=status_code, hint=hint if isinstance(hint, str) else None)


def _parsed(text: str, status_code: int) -> JsonObject:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ResponseError(
            f"the server sent something that is no JSON: {text[:80]!r}",
            status_code=status_code,
            hint="is that a donabe server?",
        ) from error
    if not isinstance(value, dict):
        raise ResponseError(f"the server sent {type(value).__name__}, not an object", status_code=status_code)
    if value.get("error"):
        raise _carried_error(value, status_code)
    return value


def rendered_prompt(answer: JsonObject) -> JsonObject:
    """`prompt` and `tokens` of a reply that shows the prompt instead of running it."""
    info = answer.get("_debug_info") or {}
    return {"prompt": str(info.get("rendered_template", "")), "tokens": list(info.get("tokens") or ())}


class StreamReader:
    """Parses the lines of one stream and knows whether it ended as it must."""

    def __init__(self, call: Call) -> None:
        self._last = call.last
        self._is_complete = False

    def read(self, line: str) -> JsonObject | None:
        """The line's object, or None for a blank line.

        Raises:
            ResponseError: The line is an error event.
        """
        if not line.strip():
            return None
        event = _parsed(line, 200)
        key, value = self._last
        self._is_complete = self._is_complete or event.get(key) == value
        return event

    def finish(self) -> None:
        """Raises ResponseError when the stream stopped before its last event."""
        if not self._is_complete:
            raise ResponseError("the server ended the stream before the answer was complete", status_code=200)
