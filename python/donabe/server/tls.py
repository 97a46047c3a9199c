"""The server's certificate: both files are checked before anything listens; errors say which one is wrong and why."""

from __future__ import annotations

import ssl
from pathlib import Path

from donabe.errors import SettingsError


class _EncryptedKeyError(Exception):
    """The key file asks for a password."""


def tls_context(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """What the server encrypts with; None when no certificate is set.

    Raises:
        SettingsError: Only one of the two is set, a file can't be read or is something else, or they don't
            belong together.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        missing, given = ("tls_key", "tls_cert") if key is None else ("tls_cert", "tls_key")
        raise SettingsError(
            f"{given} is set, but {missing} is not", setting=missing, hint="set both, or neither for plain HTTP"
        )
    for path, setting in ((certificate, "tls_cert"), (key, "tls_key")):
        _check_readable(path, setting)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _check_certificate(certificate)
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except _EncryptedKeyError:
        raise SettingsError(
            f"setting tls_key: {key} is encrypted",
            setting="tls_key",
            hint=f"decrypt it: openssl pkey -in {key} -out plain-key.pem",
        ) from None
    except ssl.SSLError as error:
        raise _explain(error, certificate, key) from error
    return context


def _check_readable(path: Path, setting: str) -> None:
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise SettingsError(
            f"setting {setting}: can't read {path}: {error.strerror or error}",
            setting=setting,
            hint="it must be a PEM file that the server's user may read",
        ) from error


def _check_certificate(certificate: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(certificate)
    except ssl.SSLError as error:
        raise SettingsError(
            f"setting tls_cert: {certificate} holds no certificate in PEM form", setting="tls_cert"
        ) from error


def _no_password() -> str:
    raise _EncryptedKeyError


def _explain(error: ssl.SSLError, certificate: Path, key: Path) -> SettingsError:
    if error.reason == "KEY_VALUES_MISMATCH":
        return SettingsError(
            f"setting tls_key: {key} is not the key of the certificate {certificate}",
            setting="tls_key",
            hint="the server's own certificate must be the first one in its file",
        )
    reason = error.reason or ""
    if "TOO_SMALL" in reason or "TOO_WEAK" in reason:
        return SettingsError(f"setting tls_cert: {certificate} is too weak: {reason}", setting="tls_cert")
    return SettingsError(f"setting tls_key: {key} holds no private key in PEM form", setting="tls_key")
