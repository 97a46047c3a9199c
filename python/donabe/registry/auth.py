"""The token flow of registries: read the challenge, ask for a token, sign the question with the user's key.

The token is asked for only at the host that was asked for the model: a challenge that points elsewhere is refused
before anything is sent, because the signed question is a credential.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import time
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote_plus, urlsplit, urlunsplit

from donabe.errors import SourceAuthError

_FIELD = re.compile(r'(realm|service|scope)="(.*?)"(?=,|\s*$)')
_EMPTY_BODY = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()


@dataclass(frozen=True, slots=True)
class Challenge:
    """A parsed `WWW-Authenticate: Bearer` header."""

    realm: str
    service: str = ""
    scope: str = ""


def parse_challenge(header: str) -> Challenge:
    """Parse a challenge; a value ends at the first quote that a comma or the end follows.

    Raises:
        SourceAuthError: It is not a bearer challenge with a realm.
    """
    scheme, _, rest = header.strip().partition(" ")
    if scheme.lower() != "bearer":
        raise SourceAuthError(
            "the registry wants a kind of login donabe does not have", hint="use a registry with token authentication"
        )
    fields = dict(_FIELD.findall(rest))
    if not fields.get("realm"):
        raise SourceAuthError("the registry's login challenge has no realm")
    return Challenge(fields["realm"], fields.get("service", ""), fields.get("scope", ""))


def token_url(challenge: Challenge, asked_url: str, *, now: float | None = None, nonce: str = "") -> str:
    """The URL to ask for a token, on the host that was asked for the model and nowhere else.

    Raises:
        SourceAuthError: The realm is no address, on another host, or leaves TLS.
    """
    try:
        realm, asked = urlsplit(challenge.realm), urlsplit(asked_url)
    except ValueError as error:
        raise SourceAuthError("the registry's login challenge names a realm that is no address") from error
    if realm.netloc.lower() != asked.netloc.lower() or realm.scheme != asked.scheme:
        raise SourceAuthError(
            f'realm host "{_shown(realm.netloc)}" does not match original host "{_shown(asked.netloc)}"',
            hint="the registry is misconfigured or hostile; nothing was sent to that host",
        )
    query = parse_qsl(realm.query, keep_blank_values=True)
    query += [("service", challenge.service)] if challenge.service else []
    query += [("scope", scope) for scope in challenge.scope.split()]
    query += [("ts", str(int(time.time() if now is None else now))), ("nonce", nonce or _nonce())]
    encoded = "&".join(
        f"{quote_plus(key)}={quote_plus(value)}" for key, value in sorted(query, key=lambda item: item[0])
    )
    return urlunsplit((realm.scheme, realm.netloc, realm.path, encoded, ""))


def signed_message(url: str) -> bytes:
    """What the key signs to ask for the token at `url`."""
    return f"GET,{url},{_EMPTY_BODY}".encode()


def _nonce() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(16)).rstrip(b"=").decode()


def _shown(netloc: str) -> str:
    """A host for an error message: without user info, printable, short."""
    host = netloc.rpartition("@")[2]
    return "".join(character for character in host if character.isprintable())[:100]
