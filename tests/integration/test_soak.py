"""A short soak of a server of its own: many streams at once, a third of which go away early, and nothing is left over.

`python -m benchmarks.soak` is the long one, which also watches memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from benchmarks.load import Target, complete
from benchmarks.soak import Outcome, drive, settled_cells
from tests.fakes.server_process import ServerProcess, started
from tests.model_store import SMOLLM2, ensure_model, store_folder

pytestmark = pytest.mark.models

N_STREAMS, N_PARALLEL, MAX_QUEUE = 16, 4, 8  # 12 fit, so some are refused
WARM_UP_S, SOAK_S = 3.0, 15.0


@contextlib.asynccontextmanager
async def real_process(home: Path) -> AsyncIterator[tuple[ServerProcess, Target]]:
    ensure_model(SMOLLM2)
    settings = {
        "DONABE_MODELS": str(store_folder()),
        "DONABE_KEEP_UNUSED": "1",  # the store is shared with other tests
        "DONABE_NUM_PARALLEL": str(N_PARALLEL),
        "DONABE_CONTEXT_LENGTH": "512",
        "DONABE_MAX_QUEUE": str(MAX_QUEUE),
        "DONABE_SPARE_RUNNER": "0",
    }
    async with started(home, command=(sys.executable, "-m", "donabe", "serve"), **settings) as server:
        yield server, Target("donabe", server.url, SMOLLM2, "native", pid=server.process.pid)


def n_files(pid: int) -> dict[int, int]:
    """Open file descriptors of the server and its children."""
    server = psutil.Process(pid)
    return {process.pid: process.num_fds() for process in [server, *server.children(recursive=True)]}


async def grown_files(pid: int, before: dict[int, int]) -> dict[int, int]:
    """Those that have more than before, once the connections had time to close."""
    deadline = asyncio.get_running_loop().time() + 10
    while True:
        grown = {number: n - before.get(number, 0) for number, n in n_files(pid).items() if n > before.get(number, 0)}
        if not grown or asyncio.get_running_loop().time() > deadline:
            return grown
        await asyncio.sleep(0.2)


def bad_endings(outcome: Outcome) -> dict[str, int]:
    return {ending: n for ending, n in outcome.endings.items() if ending not in ("answered", "left", "503")}


@pytest.mark.skipif(sys.platform == "win32", reason="counts file descriptors")
async def test_soak_fails_no_request_and_leaves_nothing_over(tmp_path: Path) -> None:
    async with real_process(tmp_path) as (server, target):
        await complete(target, "warm up", 4)
        await drive(target, N_STREAMS, WARM_UP_S, seed=100)
        await asyncio.to_thread(settled_cells, target)
        pid = server.process.pid
        files = n_files(pid)
        outcome = await drive(target, N_STREAMS, SOAK_S, seed=1)
        cells = await asyncio.to_thread(settled_cells, target)
        assert bad_endings(outcome) == {}
        assert outcome.endings["answered"] > 0
        assert outcome.endings["left"] > 0
        assert cells["running"] == cells["waiting"] == 0
        assert cells["used"] == cells["cached"]
        assert await grown_files(pid, files) == {}
        assert [line for line in server.log if " ERROR " in line or "Traceback" in line] == []
