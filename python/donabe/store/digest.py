"""Content digests. The only value a blob path is ever built from.

A `Digest` can be had in three ways only: by parsing text against the one accepted syntax, from a finished hash, or from
bytes. So whatever a registry, a manifest or a request says, a path built from a `Digest` is `sha256-` and 64 hex
digits.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

from donabe.errors import InvalidRequestError

if TYPE_CHECKING:
    from hashlib import _Hash

_SYNTAX: Final = re.compile(r"sha256[:-]([0-9a-fA-F]{64})", re.ASCII)
_PRIVATE: Final = object()


class Digest:
    """A sha256 digest. Immutable, hashable, compared by value; `str()` is the canonical `sha256:<lower-case hex>`."""

    __slots__ = ("_hex",)

    def __init__(self, hex_digits: str, *, _token: object = None) -> None:
        if _token is not _PRIVATE:
            raise TypeError("use Digest.parse, Digest.of_hash or Digest.of_bytes")
        self._hex = hex_digits

    @classmethod
    def parse(cls, text: object) -> Digest:
        """Parse `sha256:<64 hex>` or `sha256-<64 hex>`, in any case.

        Raises:
            InvalidRequestError: Anything else.
        """
        match = _SYNTAX.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise InvalidRequestError(
                "invalid digest format", field="digest", hint="a digest is sha256: and 64 hexadecimal digits"
            )
        return cls(match.group(1).lower(), _token=_PRIVATE)

    @classmethod
    def of_hash(cls, state: _Hash) -> Digest:
        """The digest a finished `hashlib.sha256` object stands for."""
        if state.name != "sha256":
            raise TypeError(f"a digest is made from sha256, not {state.name}")
        return cls(state.hexdigest(), _token=_PRIVATE)

    @classmethod
    def of_bytes(cls, data: bytes) -> Digest:
        return cls.of_hash(hashlib.sha256(data))

    @property
    def hex(self) -> str:
        return self._hex

    @property
    def short(self) -> str:
        """The first 12 hex digits, as progress lines show it."""
        return self._hex[:12]

    @property
    def file_name(self) -> str:
        """The name of the blob's file. `StoreLayout` turns it into a path; nobody else does."""
        return f"sha256-{self._hex}"

    def __setattr__(self, name: str, value: object) -> None:
        if hasattr(self, "_hex"):
            raise AttributeError("a Digest can't be changed")
        object.__setattr__(self, name, value)

    def __str__(self) -> str:
        return f"sha256:{self._hex}"

    def __repr__(self) -> str:
        return f"Digest({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Digest) and other._hex == self._hex

    def __hash__(self) -> int:
        return hash(self._hex)
