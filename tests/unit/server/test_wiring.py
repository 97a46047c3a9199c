"""What the settings of a server become in the options a model is loaded with."""

from __future__ import annotations

import asyncio
from pathlib import Path

from donabe.server import wiring
from donabe.settings import load_settings
from donabe.types import LoadOptions


def test_budgets_and_the_queue_reach_the_runner(tmp_path: Path) -> None:
    environ = {
        "DONABE_HOME": str(tmp_path),
        "DONABE_MAX_QUEUE": "700",
        "DONABE_PREFIX_CACHE_POOL": "1000",
        "DONABE_PREFIX_CACHE_RAM": "2000",
        "DONABE_PREFIX_CACHE_DISK": "3000",
    }
    seen: list[LoadOptions] = []

    async def start(spec, options, **_):
        seen.append(options)

    asyncio.run(wiring._start_runner(load_settings(environ=environ), start, None, LoadOptions(n_ctx=5)))
    assert seen == [
        LoadOptions(
            n_ctx=5,
            n_waiting_max=700,
            prefix_cache_pool_bytes=1000,
            prefix_cache_ram_bytes=2000,
            prefix_cache_disk_bytes=3000,
            prefix_cache_home=str(tmp_path),
        )
    ]
