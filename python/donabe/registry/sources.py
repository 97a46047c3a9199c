"""The one interface of all model sources, and the settings they share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from donabe.registry.download import Patience
from donabe.store.models import ModelStore
from donabe.store.names import ModelName
from donabe.types import PullProgress

HUB_HOSTS = frozenset({"hf.co", "huggingface.co"})


@dataclass(frozen=True, slots=True)
class PullOptions:
    """How to pull.

    Attributes:
        insecure: Speak plain HTTP to registries.
        rate_limit: Bytes per second, 0 = unlimited.
        offline: Refuse anything that needs the network.
        private_hosts: Registries that may be on private, loopback or link-local addresses: `host`, `host:port` or `*`.
        key_folder: Where the key for registry logins is kept.
        host_tokens: Bearer tokens by `host` or `host:port`; each goes to its very host only.
    """

    insecure: bool = False
    rate_limit: int = 0
    offline: bool = False
    private_hosts: tuple[str, ...] = ()
    key_folder: Path = field(default_factory=lambda: Path.home() / ".donabe")
    host_tokens: Mapping[str, str] = field(default_factory=dict, repr=False)
    patience: Patience = field(default_factory=Patience)

    def for_call(self, *, insecure: bool, limit_rate: int) -> PullOptions:
        """With what one call asks for: plain HTTP, or fewer bytes per second than the settings allow."""
        limits = [limit for limit in (self.rate_limit, limit_rate) if limit > 0]
        return replace(self, insecure=insecure or self.insecure, rate_limit=min(limits, default=0))


class TransferSettings(Protocol):
    """The settings that transfers depend on."""

    @property
    def home(self) -> Path: ...
    @property
    def offline(self) -> bool: ...
    @property
    def private_registries(self) -> tuple[str, ...]: ...
    @property
    def limit_rate(self) -> int: ...
    @property
    def hf_token(self) -> str: ...


def options_from(settings: TransferSettings) -> PullOptions:
    """How to pull and push by the user's settings."""
    return PullOptions(
        offline=settings.offline,
        private_hosts=settings.private_registries,
        rate_limit=settings.limit_rate,
        key_folder=settings.home,
        host_tokens=dict.fromkeys(HUB_HOSTS, settings.hf_token) if settings.hf_token else {},
    )


class Source(Protocol):
    """A place a model can be pulled from."""

    def pull(self, store: ModelStore, name: ModelName, options: PullOptions) -> AsyncIterator[PullProgress]:
        """Fetch the model and make it visible in the store under `name`; the last event before the end is `success`.

        Raises:
            SourceUnreachableError: Another source may be tried.
            SourceError, StoreError, ModelFileError: This source, or the machine, can't deliver it.
        """
        ...

    def __str__(self) -> str:
        """The source as the user would write it."""
        ...
