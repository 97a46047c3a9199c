"""A live server over real runner processes and the shared model store, for `models`-marked tests. Nothing is fake but
the settings object."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from tests.fakes.live import running
from tests.fakes.settings import FakeSettings
from tests.model_store import SMOLLM2, ensure_model, shared_store

from donabe.registry.jobs import Puller
from donabe.runner.api import ModelRunner
from donabe.runner.client import RunnerProcess
from donabe.server.app import Collaborators, create_app
from donabe.store.metadata import read_metadata


@dataclass
class RealServer:
    url: str
    pool: Any = field(repr=False)

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=300)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=30)

    def runner(self) -> ModelRunner:
        """The one generating runner."""
        [resident] = [r for r in self.pool.residents() if not r.options.embedding]
        return resident.runner

    def metrics(self) -> dict[str, float]:
        lines = self.get("/metrics").text.splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}


@contextmanager
def real_server(home: Path, model: str = SMOLLM2, **settings: Any) -> Iterator[RealServer]:
    ensure_model(model)
    store = shared_store()
    values: dict[str, Any] = {"keep_alive_s": 600, "num_parallel": 8, "context_length": 2048, "home": home}
    app = create_app(
        FakeSettings(**(values | settings)),
        Collaborators(store=store, pull=Puller(store), read_metadata=read_metadata, start_runner=RunnerProcess.start),
    )
    with running(app, timeout_s=60) as url:
        yield RealServer(url, app.state.pool)
