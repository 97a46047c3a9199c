"""The command's server with a real model: the spare runner is what the model is loaded in."""

from __future__ import annotations

import sys
from pathlib import Path

import httpx
import psutil
import pytest
from tests.fakes.server_process import started
from tests.model_store import SMOLLM2, ensure_model

pytestmark = pytest.mark.models


@pytest.fixture
def model() -> tuple[Path, int]:
    """A model's file and its size."""
    path = ensure_model(SMOLLM2)
    return path, path.stat().st_size


async def test_model_is_loaded_in_the_spare_runner(tmp_path: Path, model: tuple[Path, int]) -> None:
    path, size = model
    command = (sys.executable, "-m", "donabe", "serve")
    environment = {"DONABE_PREFIX_CACHE_DISK": "0", "DONABE_CONTEXT_LENGTH": "512", "DONABE_NUM_PARALLEL": "1"}
    async with (
        started(tmp_path, command=command, **environment) as server,
        httpx.AsyncClient(base_url=server.url, timeout=120) as client,
    ):
        process = psutil.Process(server.process.pid)
        while not (spares := process.children()):
            await client.get("/api/version")
        small = spares[0].memory_info().rss
        body = {"model": str(path), "prompt": "The sea is", "raw": True, "stream": False, "options": {"num_predict": 2}}
        answer = await client.post("/api/generate", json=body)
        assert answer.status_code == 200, answer.text
        assert spares[0].is_running()
        assert spares[0].memory_info().rss > small + size / 2
