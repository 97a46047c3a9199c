"""TLS: bad files are refused with the reason, a good pair serves HTTPS, and clients trust whom they are told to."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.fakes.certificates import Certificate, make_certificate
from tests.fakes.live import running
from tests.fakes.server import make_server

from donabe.client import Client
from donabe.errors import ServerUnavailableError, SettingsError
from donabe.server.tls import tls_context


@pytest.fixture
def files(tmp_path: Path) -> Certificate:
    return make_certificate(tmp_path)


@pytest.fixture
def url(files: Certificate) -> Iterator[str]:
    with running(make_server().app, tls=tls_context(files.cert, files.key)) as url:
        yield url


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("DONABE_", "OLLAMA_")) or name == "SSL_CERT_FILE":
            monkeypatch.delenv(name)
    monkeypatch.setenv("DONABE_HOME", str(tmp_path))


def test_no_files_is_plain_http() -> None:
    assert tls_context(None, None) is None


@pytest.mark.parametrize(("given", "missing"), [("cert", "tls_key"), ("key", "tls_cert")])
def test_one_without_the_other(files: Certificate, given: str, missing: str) -> None:
    with pytest.raises(SettingsError, match=f"{missing} is not") as caught:
        tls_context(files.cert if given == "cert" else None, files.key if given == "key" else None)
    assert caught.value.setting == missing


def test_missing_files_are_named(files: Certificate, tmp_path: Path) -> None:
    gone = tmp_path / "gone.pem"
    with pytest.raises(SettingsError, match=r"tls_cert: can't read .*gone\.pem: No such file"):
        tls_context(gone, files.key)
    with pytest.raises(SettingsError, match=r"tls_key: can't read .*gone\.pem: No such file"):
        tls_context(files.cert, gone)
    with pytest.raises(SettingsError, match=r"tls_cert: can't read .*: Is a directory"):
        tls_context(tmp_path, files.key)


def test_files_that_are_something_else(files: Certificate, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_text("hello")
    with pytest.raises(SettingsError, match=r"tls_cert: .*other\.pem holds no certificate"):
        tls_context(other, files.key)
    with pytest.raises(SettingsError, match=r"tls_key: .*other\.pem holds no private key"):
        tls_context(files.cert, other)


def test_key_of_another_certificate(files: Certificate, tmp_path: Path) -> None:
    other = make_certificate(tmp_path, "other")
    with pytest.raises(SettingsError, match=r"other-key\.pem is not the key of the certificate .*server\.pem"):
        tls_context(files.cert, other.key)


def test_encrypted_key(files: Certificate, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as pem

    key = pem.load_pem_private_key(files.key.read_bytes(), None)
    locked = tmp_path / "locked.pem"
    secret = pem.BestAvailableEncryption(b"secret")
    locked.write_bytes(key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, secret))
    with pytest.raises(SettingsError, match=r"locked\.pem is encrypted") as caught:
        tls_context(files.cert, locked)
    assert "openssl" in str(caught.value.hint)


def test_stream_over_https(url: str, files: Certificate) -> None:
    assert url.startswith("https://")
    trust = ssl.create_default_context(cafile=files.ca)
    response = httpx.post(f"{url}/api/generate", json={"model": "C", "prompt": "hi"}, verify=trust, trust_env=False)
    assert len(response.text.splitlines()) == 3


@pytest.mark.parametrize("variable", ["DONABE_TLS_CA", "SSL_CERT_FILE"])
def test_client_trusts_whom_it_is_told_to(
    url: str, files: Certificate, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client(url) as stranger, pytest.raises(ServerUnavailableError, match="can't be trusted") as caught:
        stranger.heartbeat()
    assert "DONABE_TLS_CA" in str(caught.value.hint)
    monkeypatch.setenv(variable, str(files.ca))
    with Client(url) as client:
        client.heartbeat()


def test_certificate_for_another_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = make_certificate(tmp_path, "named", "example.org")
    monkeypatch.setenv("DONABE_TLS_CA", str(files.ca))
    with (
        running(make_server().app, tls=tls_context(files.cert, files.key)) as url,
        Client(url) as client,
        pytest.raises(ServerUnavailableError, match="IP address mismatch"),
    ):
        client.heartbeat()


def test_https_to_a_plain_server_is_explained() -> None:
    with (
        running(make_server().app) as url,
        Client(url.replace("http:", "https:")) as client,
        pytest.raises(ServerUnavailableError, match="does not speak TLS"),
    ):
        client.heartbeat()


def test_bad_trust_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text, reason in (("x", "holds no certificate"), (None, "No such file")):
        path = tmp_path / f"{text}.pem"
        if text is not None:
            path.write_text(text)
        monkeypatch.setenv("DONABE_TLS_CA", str(path))
        with pytest.raises(SettingsError, match=reason):
            Client("https://127.0.0.1:1")
