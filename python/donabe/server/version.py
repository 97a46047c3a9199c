"""donabe's own version, as `/api/version` reports it."""

from __future__ import annotations

from functools import cache
from importlib import metadata


@cache
def own_version() -> str:
    """The installed version; `unknown` when donabe runs from a source tree that was never installed."""
    try:
        return metadata.version("donabe")
    except metadata.PackageNotFoundError:
        return "unknown"
