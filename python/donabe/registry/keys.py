"""The ed25519 key that identifies this machine's user to a registry. Made on first need; only its public half leaves.

Uses donabe's own key file, or an existing key of the reference system (read only). `cryptography` is imported when
needed.
"""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from donabe.errors import SourceAuthError
from donabe.store.files import store_errors, write_atomically

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY_NAME = "id_ed25519"
_MAX_KEY_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class RegistryKey:
    """A loaded key pair."""

    private: Ed25519PrivateKey
    public_line: str  # `ssh-ed25519 AAAA...`

    def authorization(self, message: bytes) -> str:
        """`<public key>:<signature>`, the form registries take."""
        signature = base64.b64encode(self.private.sign(message)).decode()
        return f"{self.public_line.split()[1]}:{signature}"


def load_key(home: Path) -> RegistryKey:
    """The user's key: `<home>/id_ed25519`, else the reference system's, else a new one.

    Raises:
        SourceAuthError: The file is no usable key.
        StoreError: A new key can't be written.
    """
    for path in (home / KEY_NAME, Path.home() / ".ollama" / KEY_NAME):
        if path.is_file():
            return _parse(path)
    return _create(home / KEY_NAME)


def _parse(path: Path) -> RegistryKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    hint = f"remove {path.name} to have a new key made, or replace it with an ed25519 key without passphrase"
    try:
        with open(path, "rb") as file:
            private = load_ssh_private_key(file.read(_MAX_KEY_BYTES), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SourceAuthError("the registry key can't be read", hint=hint) from error
    if not isinstance(private, Ed25519PrivateKey):
        raise SourceAuthError("the registry key is not an ed25519 key", hint=hint)
    return RegistryKey(private, _public_line(private))


def _create(path: Path) -> RegistryKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    private = Ed25519PrivateKey.generate()
    data = private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    with store_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        write_atomically(path.with_suffix(".pub"), f"{_public_line(private)}\n".encode())
    return RegistryKey(private, _public_line(private))


def _public_line(private: Ed25519PrivateKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
