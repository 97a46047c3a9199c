"""API keys: what a caller may do, and a file of keys that holds only their hashes.

A key is `dnb_` and 32 random bytes in URL-safe base64; the file keeps its SHA-256 (such keys can't be guessed, so no
slow hash is needed), a name, scope, limits and priority. The server reads the file again when it changes, so a revoked
key ends at once; writers exclude each other by a lock file beside it. Keys in the settings have every scope.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from donabe.errors import InvalidRequestError, SettingsError
from donabe.store.locks import FileLock

Scope = Literal["inference", "manage", "admin"]
Priority = Literal["low", "normal", "high"]

# What each scope includes: reading and running models; changing them; everything.
_INCLUDES: dict[str, frozenset[str]] = {
    "inference": frozenset({"inference"}),
    "manage": frozenset({"inference", "manage"}),
    "admin": frozenset({"inference", "manage", "admin"}),
}
SCOPES = tuple(_INCLUDES)
# What the engine is told of each: larger runs first.
PRIORITIES: dict[Priority, int] = {"low": -1, "normal": 0, "high": 1}
KEY_PREFIX = "dnb_"
KEY_FILE = "keys.json"  # in donabe's home folder
LOCK_TIMEOUT_S = 30.0


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A key as it is stored. Limits of 0 are the server's."""

    id: str
    name: str
    sha256: str
    scope: Scope = "inference"
    created_at: float = 0.0
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    max_concurrent: int = 0
    priority: Priority = "normal"

    def allows(self, scope: Scope) -> bool:
        return scope in _INCLUDES[self.scope]


def hash_key(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


class KeyFile:
    """The stored keys: `keys.json` in donabe's home folder, readable by its owner only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._keys: tuple[ApiKey, ...] = ()

    def load(self) -> tuple[ApiKey, ...]:
        """All keys; read again only when the file has changed.

        Raises:
            SettingsError: The file is damaged. Ignoring it could let everybody in.
        """
        try:
            status = self._path.stat()
        except FileNotFoundError:
            self._stamp, self._keys = None, ()
            return ()
        stamp = (status.st_ino, status.st_mtime_ns, status.st_size)  # each change is a new file
        if stamp != self._stamp:
            try:
                self._keys = msgspec.json.decode(self._path.read_bytes(), type=tuple[ApiKey, ...])
            except msgspec.MsgspecError as error:
                raise SettingsError(
                    f"{self._path.name} is damaged: {error}", setting="api_keys", hint="restore it, or create keys anew"
                ) from None
            self._stamp = stamp
        return self._keys

    def create(
        self, name: str, *, scope: Scope = "inference", priority: Priority = "normal", **limits: int
    ) -> tuple[ApiKey, str]:
        """Add a key; gives it and its text, which is never shown again.

        Raises:
            InvalidRequestError: A value is none that is known, or there is a key of that name.
            StoreError: Other processes have been changing the file all the time.
        """
        _check_choice("scope", scope, SCOPES)
        _check_choice("priority", priority, tuple(PRIORITIES))
        text = KEY_PREFIX + secrets.token_urlsafe(32)
        key = ApiKey(
            id=secrets.token_hex(8),
            name=name,
            sha256=hash_key(text),
            scope=scope,
            created_at=time.time(),
            priority=priority,
            **limits,
        )
        with self._changing():
            keys = self.load()
            if any(other.name == name for other in keys):
                raise InvalidRequestError(
                    f"there is a key named {name!r} already", field="name", hint="revoke it first"
                )
            self._write([*keys, key])
        return key, text

    def revoke(self, name_or_id: str) -> ApiKey:
        """Remove a key.

        Raises:
            InvalidRequestError: There is none of that name or id.
            StoreError: Other processes have been changing the file all the time.
        """
        with self._changing():
            keys = self.load()
            key = next((key for key in keys if name_or_id in (key.name, key.id)), None)
            if key is None:
                raise InvalidRequestError(
                    f"there is no key {name_or_id!r}", field="name", hint="donabe key list shows them"
                )
            self._write([other for other in keys if other is not key])
        return key

    def _changing(self) -> FileLock:
        """Held from reading the keys until the changed ones are written: nobody else's change is lost."""
        return FileLock(self._path.with_suffix(".lock"), timeout_s=LOCK_TIMEOUT_S, what="the API keys")

    def _write(self, keys: Sequence[ApiKey]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self._path.parent, prefix=".keys-")  # mode 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(keys), indent=2) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        self._stamp = None


def _check_choice(field: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise InvalidRequestError(f"{field} must be one of {', '.join(known)}, got {value!r}", field=field)


class KeyRing:
    """Finds the key of a request.

    Args:
        plain: Keys of the settings.
        file: Stored keys.
        required: Whether a key is asked for; None asks as soon as there is one, and from then on: revoking the last key
            of a running server must not open it to everybody.
    """

    def __init__(self, plain: Iterable[str], file: KeyFile | None, *, required: bool | None = None) -> None:
        self._fixed = tuple(
            ApiKey(id=f"setting-{hash_key(text)[:12]}", name="from settings", sha256=hash_key(text), scope="admin")
            for text in plain
            if text
        )
        self._file = file
        self._required = required
        self._had_keys = bool(self._all())

    @property
    def is_required(self) -> bool:
        if self._required is not None:
            return self._required
        self._had_keys = self._had_keys or bool(self._all())
        return self._had_keys

    def find(self, text: str) -> ApiKey | None:
        """The key with this text. Every key is compared, so that the time tells nothing."""
        wanted, found = hash_key(text), None
        for key in self._all():
            if hmac.compare_digest(key.sha256, wanted):
                found = key
        return found

    def _all(self) -> tuple[ApiKey, ...]:
        return self._fixed + (self._file.load() if self._file is not None else ())
