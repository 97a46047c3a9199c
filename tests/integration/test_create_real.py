"""Creating models over HTTP with real quantising and runners: the model made answers, with both kinds of templates."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.fakes.live import running
from tests.fakes.settings import FakeSettings
from tests.model_store import SMOLLM2, ensure_model, shared_store

from donabe.client import Client
from donabe.convert.quantize import QuantizeJob, quantize
from donabe.errors import ResponseError
from donabe.registry.jobs import Puller
from donabe.runner.client import RunnerProcess
from donabe.server.app import Collaborators, create_app
from donabe.service.create import ModelCreator
from donabe.service.uploads import Uploads
from donabe.store.metadata import read_metadata
from donabe.store.models import ModelStore

pytestmark = pytest.mark.models

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
CHATML = "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
SYSTEM = "Answer in one short sentence."
TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}},
}


@pytest.fixture(scope="module")
def f16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 as F16."""
    ensure_model(SMOLLM2)
    source = Path(shared_store().resolve(SMOLLM2).paths[0])
    target = tmp_path_factory.mktemp("f16") / "smol.gguf"

    async def convert() -> None:
        async for _ in quantize(QuantizeJob(source, target, "F16")):
            pass

    asyncio.run(convert())
    return target


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    return ModelStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def client(store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    pull = Puller(store)
    app = create_app(
        FakeSettings(context_length=1024, home=tmp_path_factory.mktemp("home")),
        Collaborators(
            store=store,  # type: ignore[arg-type]  # takes more kinds of names than the protocol asks for
            pull=pull,
            read_metadata=read_metadata,
            start_runner=RunnerProcess.start,
            creator=ModelCreator(store, pull=pull),
            uploads=Uploads(store),
        ),
    )
    with running(app, timeout_s=60) as url, Client(url) as client:
        yield client


@pytest.fixture(scope="module")
def quantised(client: Client, f16: Path) -> str:
    """A model created from the file, quantised on the way."""
    events = list(
        client.create(
            "small",
            stream=True,
            files={"smol.gguf": client.upload(f16)},
            quantize="q4_K_M",
            system=SYSTEM,
        )
    )
    progress = [event for event in events if event["status"] == "quantizing F16 model to Q4_K_M"]
    assert progress[-1]["completed"] == progress[-1]["total"] == f16.stat().st_size
    assert events[-1] == {"status": "success"}
    return "small"


def ask(client: Client, model: str) -> str:
    answer = client.chat(model, QUESTION, options={"temperature": 0, "num_predict": 24})
    return str(answer["message"]["content"])


def test_quantised_model_is_listed_and_answers(client: Client, quantised: str) -> None:
    [entry] = [model for model in client.list()["models"] if model["name"] == "small:latest"]
    assert entry["details"]["quantization_level"] == "Q4_K_M"
    assert entry["size"] < 120_000_000
    assert ask(client, quantised).strip()


def test_go_template_gives_the_prompt_of_the_jinja_template(client: Client, quantised: str) -> None:
    client.create("with-go", from_=quantised, template=CHATML)
    client.create("bare", from_=quantised, template="{{ .Prompt }}")
    expected = client.render(quantised, QUESTION)
    assert expected["prompt"].startswith(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n")
    assert client.render("with-go", QUESTION) == expected
    assert client.render("bare", QUESTION)["prompt"] == QUESTION[0]["content"]
    assert ask(client, "with-go") == ask(client, quantised)


def test_template_decides_whether_tools_are_offered(client: Client, quantised: str) -> None:
    with pytest.raises(ResponseError, match="does not support tools"):
        client.chat(quantised, QUESTION, tools=[TOOL])
    client.create("tools", from_=quantised, template="{{ .Tools }}" + CHATML)
    assert "tools" in client.show("tools")["capabilities"]
    answer = client.chat("tools", QUESTION, tools=[TOOL], options={"temperature": 0, "num_predict": 8})
    assert answer["done"] is True
    assert '"name":"f"' in answer_prompt(client, "tools")


def answer_prompt(client: Client, model: str) -> str:
    return str(client.render(model, QUESTION, tools=[TOOL])["prompt"])


def test_quantised_source_is_refused(client: Client, quantised: str) -> None:
    with pytest.raises(ResponseError, match="quantization is only supported for F16, BF16 and F32 models"):
        client.create("again", from_=quantised, quantize="q8_0")


def test_leaving_while_quantising_leaves_nothing(client: Client, store: ModelStore, f16: Path) -> None:
    before = {path.name for path in store.layout.blobs.iterdir()}
    events: Any = client.create("left", stream=True, files={"smol.gguf": client.upload(f16)}, quantize="q8_0")
    for event in events:
        if event["status"].startswith("quantizing"):
            break
    events.close()
    deadline = 50
    work = store.layout.root / ".donabe" / "create"
    while list(work.iterdir()) and deadline:
        deadline -= 1
        httpx.get(client.base_url + "/api/version")
        asyncio.run(asyncio.sleep(0.1))
    assert list(work.iterdir()) == []
    assert {path.name for path in store.layout.blobs.iterdir()} == before
    assert not store.has("left")


def test_file_that_breaks_the_native_loader_ends_the_job_only(client: Client, f16: Path, tmp_path: Path) -> None:
    """The header is sound; an architecture nobody knows is the quantiser's to refuse."""
    data = f16.read_bytes()
    name = b"general.architecture"
    at = data.index(name) + len(name) + 4 + 8
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(data[:at] + b"nosuc" + data[at + 5 :])
    with pytest.raises(ResponseError):
        client.create("broken", files={"b.gguf": client.upload(broken)}, quantize="q8_0")
    assert client.version()["donabe"]
