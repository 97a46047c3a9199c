"""Addresses that a registry gives in its answers."""

from __future__ import annotations

import pytest

from donabe.errors import SourceError
from donabe.registry.client import RegistryClient
from donabe.registry.sources import PullOptions
from donabe.store.names import ModelName

BASE = "https://h/v2/a/b/blobs/x"


@pytest.mark.parametrize(
    ("location", "target"),
    [("/next", "https://h/next"), ("y?z=1", "https://h/v2/a/b/blobs/y?z=1"), ("https://cdn/x", "https://cdn/x")],
)
async def test_location_is_joined_to_what_was_asked(location: str, target: str) -> None:
    async with RegistryClient(ModelName.parse("h/a/b"), PullOptions()) as client:
        assert client.check_target(BASE, location) == target


@pytest.mark.parametrize("location", ["http://[x", "//h:port/", "http://h/x", "https://me@h/x", "file:///x"])
async def test_location_that_may_not_be_used_is_a_typed_error(location: str) -> None:
    async with RegistryClient(ModelName.parse("h/a/b"), PullOptions()) as client:
        with pytest.raises(SourceError):
            client.check_target(BASE, location)
