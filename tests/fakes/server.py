"""An app over scripted runners, and an HTTP client for it that needs no socket."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
from fastapi import FastAPI
from tests.fakes.runner import RunnerFactory, Script, hello, make_spec
from tests.fakes.settings import FakeSettings
from tests.fakes.store import FakePull, FakeStore, read_fake_header

from donabe.server.app import Collaborators, create_app
from donabe.server.tracing import Tracing
from donabe.service.create import ModelCreator
from donabe.service.idle_tuning import Measure
from donabe.service.uploads import Uploads
from donabe.store.models import ModelStore
from donabe.types import Message, ModelSpec

# C chats; T has tools and thinking; E embeds; S fills in the middle; R ranks and classifies.
MODELS = (
    make_spec("C:latest"),
    make_spec("T:latest", capabilities=("completion", "tools", "thinking"), modified_at=1_600_000_000.0),
    make_spec("E:latest", capabilities=("embedding",), modified_at=1_500_000_000.0),
    make_spec("S:latest", capabilities=("completion", "insert"), modified_at=1_400_000_000.0),
    make_spec("R:latest", capabilities=("embedding", "rerank"), modified_at=1_350_000_000.0),
    make_spec(
        "P:latest",
        system="be brief",
        parameters={"temperature": 0.5, "stop": ["<end>"]},
        messages=(Message(role="user", content="1+1?"), Message(role="assistant", content="2")),
        modified_at=1_300_000_000.0,
    ),
)


@dataclass
class FakeServer:
    """The app, what it is built over, and a client."""

    app: FastAPI
    store: FakeStore
    pull: FakePull
    runners: RunnerFactory
    client: httpx.AsyncClient = field(repr=False)

    async def post(self, path: str, body: Any = None, **kwargs: Any) -> httpx.Response:
        content = body if isinstance(body, (bytes, str)) else msgspec.json.encode(body)
        return await self.client.post(path, content=content, **kwargs)

    async def lines(self, path: str, body: Any) -> list[dict[str, Any]]:
        response = await self.post(path, body)
        assert response.headers["content-type"] == "application/x-ndjson", response.text
        return [msgspec.json.decode(line) for line in response.content.splitlines()]


def make_server(
    *specs: ModelSpec,
    script: Script = hello,
    settings: FakeSettings | None = None,
    host: str = "127.0.0.1:11434",
    tracing: Tracing | None = None,
    measure: Measure | None = None,
) -> FakeServer:
    files = ModelStore(Path("/nonexistent"))  # for the routes that make models; nothing is written to it
    store, pull, runners = FakeStore(*(specs or MODELS)), FakePull(), RunnerFactory(script)
    app = create_app(
        settings or FakeSettings(),
        Collaborators(
            store=store,
            pull=pull,
            read_metadata=read_fake_header,
            start_runner=runners,
            creator=ModelCreator(files, pull=pull),
            uploads=Uploads(files),
            push=pull,
            tracing=tracing,
            measure=measure,
        ),
    )
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    client = httpx.AsyncClient(transport=transport, base_url=f"http://{host}")
    return FakeServer(app, store, pull, runners, client)
