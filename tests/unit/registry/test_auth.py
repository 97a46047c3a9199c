"""Challenges, token addresses, keys, and which addresses are public."""

from __future__ import annotations

import base64
import ipaddress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from donabe.errors import SourceAuthError, StoreError
from donabe.registry.auth import Challenge, parse_challenge, signed_message, token_url
from donabe.registry.guard import is_public
from donabe.registry.keys import load_key


def test_challenge_fields_end_at_a_quote_before_a_comma() -> None:
    header = 'Bearer realm="https://h/token?a="b"",service="s,t",scope="repository:a/b:pull,push x"'
    assert parse_challenge(header) == Challenge('https://h/token?a="b"', "s,t", "repository:a/b:pull,push x")


@pytest.mark.parametrize(
    "header", ["", 'Basic realm="x"', "Bearer", 'Bearer service="x"', "Negotiate", "Bearer realm=x"]
)
def test_challenge_without_a_bearer_realm_is_refused(header: str) -> None:
    with pytest.raises(SourceAuthError):
        parse_challenge(header)


def test_token_url_sorts_the_query_and_splits_scopes() -> None:
    challenge = Challenge("https://h:1/token?z=1", "reg", "b:pull a:push")
    url = token_url(challenge, "https://h:1/v2/x", now=5, nonce="n")
    assert url == "https://h:1/token?nonce=n&scope=b%3Apull&scope=a%3Apush&service=reg&ts=5&z=1"


@pytest.mark.parametrize(
    "realm", ["https://h/token", "https://h:2/token", "http://h:1/token", "https://u@h:1/token", "https://h:1.evil/token",
              "https://evil/h:1", "//h:1/token", "/token", "https:/h:1/token"],
)  # fmt: skip
def test_token_url_refuses_every_other_origin(realm: str) -> None:
    with pytest.raises(SourceAuthError, match=r'realm host ".*" does not match original host "h:1"'):
        token_url(Challenge(realm), "https://h:1/v2/x")


def test_realm_that_is_no_address_is_a_typed_error() -> None:
    with pytest.raises(SourceAuthError, match="no address"):
        token_url(Challenge("https://[x"), "https://h/v2/")


def test_key_is_made_once_and_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    key = load_key(tmp_path / "home")
    assert load_key(tmp_path / "home").public_line == key.public_line
    message = signed_message("https://h/token")
    public, _, signature = key.authorization(message).partition(":")
    raw = base64.b64decode(public)
    assert raw[4:15] == b"ssh-ed25519"
    Ed25519PublicKey.from_public_bytes(raw[-32:]).verify(base64.b64decode(signature), message)
    assert (tmp_path / "home" / "id_ed25519").stat().st_mode & 0o777 == 0o600


def test_existing_key_of_the_reference_system_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = load_key(tmp_path / ".ollama")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_key(tmp_path / "home").public_line == theirs.public_line
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    "content", [b"", b"not a key", b"-----BEGIN OPENSSH PRIVATE KEY-----\nxx\n-----END OPENSSH PRIVATE KEY-----\n"]
)
def test_broken_key_is_a_typed_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "id_ed25519").write_bytes(content)
    with pytest.raises(SourceAuthError, match="can't be read") as caught:
        load_key(tmp_path)
    assert caught.value.hint


def test_key_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        load_key(tmp_path / "file")


PRIVATE = [
    "127.0.0.1", "127.1.2.3", "10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1",
    "224.0.0.1", "255.255.255.255", "240.0.0.1", "198.18.0.1", "192.0.2.1", "::1", "::", "fe80::1", "fc00::1",
    "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::", "2001:db8::1",
]  # fmt: skip


@pytest.mark.parametrize("text", PRIVATE)
def test_private_addresses(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", ["1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))
