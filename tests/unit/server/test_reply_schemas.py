"""Replies and events of streams are as the OpenAPI document says, to the last member. A route without a case fails."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import httpx
import msgspec
import pytest
from tests.fakes.parameter_classes import HONOURED, ROUTES
from tests.fakes.registry_gguf import tiny_model
from tests.fakes.runner import RunnerFactory, make_spec
from tests.fakes.schema_check import problems
from tests.fakes.server import MODELS, FakeServer, make_server
from tests.fakes.settings import FakeSettings
from tests.fakes.store import FakePull

from donabe.server.app import Collaborators, create_app
from donabe.server.openapi import OPERATIONS
from donabe.service.create import ModelCreator
from donabe.service.parameters import BOUNDS
from donabe.service.uploads import Uploads
from donabe.store.metadata import read_metadata
from donabe.store.models import ModelStore
from donabe.types import Delta, Finished, FinishReason, TokenLogprob, ToolCall, Usage

HI = [{"role": "user", "content": "hi"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}
FLAT_TOOL = {"type": "function", "name": "get_weather", "parameters": PARAMETERS}
CUSTOM_TOOL = {"type": "custom", "name": "free"}
CLAUDE_TOOL = {"name": "get_weather", "input_schema": PARAMETERS}
TOP = TokenLogprob(token="Ho", token_id=6, logprob=-1.5)
ENTRY = TokenLogprob(token="Hi", token_id=5, logprob=-0.5, top=(TOP,))
USAGE = Usage(
    n_prompt_tokens=11,
    n_cached_tokens=4,
    n_output_tokens=3,
    n_thinking_tokens=1,
    n_truncated_tokens=2,
    n_dropped_messages=1,
    prompt_s=0.1,
    output_s=0.2,
    queue_s=0.01,
)


def everything(request) -> list:
    """All that an answer can hold."""
    calls = (
        ToolCall(name="get_weather", arguments='{"city":"Paris"}', id="call_a"),
        ToolCall(name="free", arguments='{"input":"x"}', index=1),
    )
    has_tools = bool(getattr(request, "tools", ()))
    logprobs = (ENTRY,) if request.output.logprobs else ()
    context = (5, 6) if request.output.return_context else ()
    return [
        Delta(thinking="hm"),
        Delta(text="Hi", logprobs=logprobs),
        *([Delta(tool_calls=calls)] if has_tools else []),
        Finished(reason=FinishReason.STOP, usage=USAGE, context=context, warnings=("slow",)),
    ]


CHAT = {"model": "T", "messages": HI, "tools": [TOOL], "logprobs": True, "top_logprobs": 1}
CASES: dict[tuple[str, str], list[Any]] = {
    ("GET", "/"): [None],
    ("HEAD", "/"): [None],
    ("GET", "/health"): [None],
    ("GET", "/metrics"): [None],
    ("GET", "/openapi.json"): [None],
    ("GET", "/api/version"): [None],
    ("HEAD", "/api/version"): [None],
    ("GET", "/api/status"): [None],
    ("GET", "/api/tags"): [None],
    ("HEAD", "/api/tags"): [None],
    ("GET", "/api/ps"): [None],
    ("POST", "/api/show"): [{"model": "P"}, {"model": "C", "verbose": True}, {"model": "C", "system": "x"}],
    ("POST", "/api/generate"): [
        {"model": "T", "prompt": "hi", "logprobs": True, "top_logprobs": 1},
        {"model": "T"},
        {"model": "T", "keep_alive": 0},
        {"model": "C", "prompt": "hi", "_debug_render_only": True},
        {"model": "C", "prompt": "hi", "think": True},
    ],
    ("POST", "/api/chat"): [
        CHAT,
        {"model": "C", "messages": []},
        {"model": "C", "messages": HI, "_debug_render_only": True},
        {"model": "E", "messages": HI},
    ],
    ("POST", "/api/embed"): [{"model": "E", "input": ["a", "b"]}, {"model": "E"}, {"model": "E", "input": 5}],
    ("POST", "/api/embeddings"): [{"model": "E", "prompt": "a"}, {"model": "E"}],
    ("POST", "/api/tokenize"): [{"model": "C", "text": "a"}],
    ("POST", "/api/detokenize"): [{"model": "C", "tokens": [5]}],
    ("POST", "/api/rerank"): [
        {"model": "R", "query": "a", "documents": ["a", "b"], "return_documents": True},
        {"model": "C", "query": "a", "documents": ["a"]},
    ],
    ("POST", "/api/pull"): [{"model": "tiny"}, {"model": "unknown"}],
    ("POST", "/api/push"): [{"model": "tiny"}, {"model": "unknown"}],
    ("POST", "/api/create"): [{"model": "x"}],
    ("POST", "/api/copy"): [{"source": "C", "destination": "C2"}, {"source": "nope", "destination": "x"}],
    ("DELETE", "/api/delete"): [{"model": "P"}, {"model": "nope"}],
    ("HEAD", "/api/blobs/{digest}"): [None],
    ("POST", "/api/blobs/{digest}"): [None],
    ("POST", "/api/me"): [None],
    ("POST", "/api/signout"): [None],
    ("DELETE", "/api/user/keys/{key}"): [None],
    ("GET", "/api/experimental/model-recommendations"): [None],
    ("POST", "/api/experimental/web_search"): [{"query": "x"}],
    ("POST", "/api/experimental/web_fetch"): [{"url": "x"}, {}],
    ("POST", "/v1/chat/completions"): [CHAT, {**CHAT, "n": 2}, {"model": "nope", "messages": HI}],
    ("POST", "/v1/completions"): [
        {"model": "T", "prompt": ["hi", "ho"], "logprobs": 1, "echo": True},
        {"model": "C", "prompt": "hi"},
        {"model": "C", "prompt": ""},
    ],
    ("POST", "/v1/embeddings"): [
        {"model": "E", "input": "a"},
        {"model": "E", "input": "a", "encoding_format": "base64"},
    ],
    ("POST", "/v1/audio/transcriptions"): [None],
    ("GET", "/v1/models"): [None],
    ("GET", "/v1/models/{model}"): [None],
    ("POST", "/v1/responses"): [
        {"model": "T", "input": "hi", "tools": [FLAT_TOOL, CUSTOM_TOOL], "top_logprobs": 1},
        {"model": "C", "input": "hi", "max_output_tokens": 5, "instructions": "x", "metadata": {"a": "b"}},
        {"model": "C", "input": []},
    ],
    ("POST", "/v1/responses/input_tokens"): [{"model": "C", "input": "hi"}],
    ("GET", "/v1/responses/{id}"): [None],
    ("DELETE", "/v1/responses/{id}"): [None],
    ("POST", "/v1/responses/{id}/cancel"): [None],
    ("GET", "/v1/responses/{id}/input_items"): [None],
    ("POST", "/v1/rerank"): [{"model": "R", "query": "a", "documents": ["a"]}],
    ("POST", "/rerank"): [{"model": "R", "query": "a", "documents": ["a"]}],
    ("POST", "/reranking"): [{"model": "R", "query": "a", "documents": ["a"]}],
    ("POST", "/infill"): [
        {"model": "S", "input_prefix": "a", "input_suffix": "b"},
        {"model": "C", "input_prefix": "a"},
    ],
    ("POST", "/tokenize"): [
        {"model": "C", "content": "a\xff", "with_pieces": True},
        {"model": "C", "messages": HI, "return_token_strs": True},
        {"model": "C"},
    ],
    ("POST", "/detokenize"): [{"model": "C", "tokens": [5]}],
    ("POST", "/apply-template"): [{"model": "C", "messages": HI}],
    ("GET", "/props"): [None],
    ("POST", "/embedding"): [{"model": "E", "content": ["a", "b"]}, {"model": "E", "content": "a", "pooling": "none"}],
    ("POST", "/embeddings"): [{"model": "E", "content": "a"}],
    ("POST", "/classify"): [{"model": "R", "input": ["a", "b"]}, {"model": "E", "input": ["a", "b"]}],
    ("POST", "/v1/messages"): [
        {"model": "T", "messages": HI, "max_tokens": 5, "tools": [CLAUDE_TOOL]},
        {"model": "C", "messages": HI},
    ],
    ("POST", "/v1/messages/count_tokens"): [{"model": "C", "messages": HI}],
}
NEEDS_A_STORE = ("/api/blobs/{digest}", "/api/create")  # their successes have a test of their own


@pytest.fixture
def server(tmp_path):
    scoring = make_spec("R:latest", capabilities=("rerank",))
    return make_server(*MODELS, scoring, script=everything, settings=FakeSettings(home=tmp_path))


@pytest.fixture
async def document(server):
    return (await server.client.get("/openapi.json")).json()


async def ask(server: FakeServer, method: str, path: str, body: Any):
    if "{id}" in path:
        stored = await server.post("/v1/responses", {"model": "C", "input": "hi"})
        path = path.replace("{id}", stored.json()["id"])
    path = path.replace("{digest}", "sha256:00").replace("{key}", "k").replace("{model}", "C")
    if path in ("/api/ps", "/props"):
        await server.post("/api/generate", {"model": "C"})
    content = b"" if body is None else msgspec.json.encode(body)
    return await server.client.request(method, path, content=content)


def test_every_route_has_a_case():
    assert set(CASES) == set(OPERATIONS)


@pytest.mark.parametrize(("method", "path"), list(CASES))
async def test_replies_are_as_documented(server, document, method, path):
    answers = document["paths"][path][method.lower()]["responses"]
    for index, body in enumerate(CASES[method, path]):
        bodies = [body]
        if OPERATIONS[method, path].event:
            bodies = [{**body, "stream": False}, {**body, "stream": True}]
        for sent in bodies:
            response = await ask(server, method, path, sent)
            if index == 0 and path not in NEEDS_A_STORE:
                statuses = OPERATIONS[method, path].statuses
                assert str(response.status_code) in statuses or not statuses, (sent, response.text)
            check(document, answers, response, sent)


def check(document: dict[str, Any], answers: dict[str, Any], response, sent: Any) -> None:
    assert str(response.status_code) in answers, (sent, response.status_code, response.text)
    answer, schemas = answers[str(response.status_code)], document["components"]["schemas"]
    assert set(answer.get("headers", {})) >= {"X-Request-Id"}
    if not response.content:
        return
    kind = response.headers["content-type"].partition(";")[0]
    content = answer["content"][kind]
    if kind == "application/json":
        assert problems(response.json(), content["schema"], schemas) == []
        return
    for event in events_of(kind, response.text):
        wanted = content["x-event"]
        if "error" in event and kind == "application/x-ndjson":
            wanted = {"$ref": "#/components/schemas/NativeError"}
        assert problems(event, wanted, schemas) == [], event


def events_of(kind: str, text: str) -> list[Any]:
    if kind == "application/x-ndjson":
        return [msgspec.json.decode(line) for line in text.splitlines()]
    if kind == "text/event-stream":
        blocks = [block.rpartition("data: ")[2] for block in text.strip().split("\n\n")]
        return [msgspec.json.decode(block) for block in blocks if block != "[DONE]"]
    return []


async def test_made_models_are_as_documented(tmp_path, document):
    store, pull = ModelStore(tmp_path / "store"), FakePull()
    collaborators = Collaborators(
        store=store,  # type: ignore[arg-type]  # takes more kinds of names than the protocol asks for
        pull=pull,
        read_metadata=read_metadata,
        start_runner=RunnerFactory(everything),
        creator=ModelCreator(store, pull=pull),
        uploads=Uploads(store),
        push=pull,
    )
    transport = httpx.ASGITransport(app=create_app(FakeSettings(home=tmp_path), collaborators))
    model = tiny_model().encode()
    digest = "sha256:" + hashlib.sha256(model).hexdigest()
    assert re.fullmatch(document["paths"]["/api/blobs/{digest}"]["post"]["parameters"][0]["schema"]["pattern"], digest)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for method, path, body, status in (
            ("POST", "/api/blobs/{digest}", model, 201),
            ("POST", "/api/blobs/{digest}", model, 200),
            ("HEAD", "/api/blobs/{digest}", b"", 200),
            ("POST", "/api/create", msgspec.json.encode({"model": "x", "files": {"m.gguf": digest}}), 200),
            ("POST", "/api/create", msgspec.json.encode({"model": "y", "from": "x", "stream": False}), 200),
            ("POST", "/api/show", b'{"model":"x"}', 200),
        ):
            response = await client.request(method, path.replace("{digest}", digest), content=body)
            assert response.status_code == status, response.text
            check(document, document["paths"][path][method.lower()]["responses"], response, body)


async def test_nothing_is_left_open(document):
    """Every answer with a body has a schema that says something."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            for status, answer in operation["responses"].items():
                for content in answer.get("content", {}).values():
                    assert content["schema"], (method, path, status)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
async def test_every_field_with_an_effect_is_documented(document, route):
    operation = document["paths"][route.path]["post"]
    name = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    known = document["components"]["schemas"][name]["properties"]
    honoured = {field for field, (kind, *_) in route.parameters.items() if kind == HONOURED and "." not in field}
    assert honoured - set(known) - {"_debug_render_only"} == set()


@pytest.mark.parametrize(
    ("schema", "field", "bound"),
    [
        ("ChatCompletionRequest", "n", "n"),
        ("CompletionRequest", "n", "n"),
        ("CompletionRequest", "best_of", "best_of"),
        ("EmbedRequest", "dimensions", "dimensions"),
        ("OpenAIEmbeddingRequest", "dimensions", "dimensions"),
        ("RerankRequest", "top_n", "top_n"),
        ("PullRequest", "limit_rate", "limit_rate"),
        ("ChatRequest", "messages", "messages"),
        ("ChatRequest", "tools", "tools"),
        ("ChatCompletionRequest", "messages", "messages"),
        ("ChatCompletionRequest", "tools", "tools"),
        ("ChatCompletionRequest", "guided_choice", "choices"),
        ("MessagesRequest", "messages", "messages"),
        ("MessagesRequest", "tools", "tools"),
        ("GenerateRequest", "images", "images"),
        ("RerankRequest", "documents", "documents"),
        ("InfillRequest", "input_extra", "input_extra"),
    ],
)
async def test_bounds_are_those_of_the_table(document, schema, field, bound):
    found = document["components"]["schemas"][schema]["properties"][field]
    if found["type"] == "array":
        assert found["maxItems"] == BOUNDS[bound].high
    else:
        assert (found["minimum"], found["maximum"]) == (BOUNDS[bound].low, BOUNDS[bound].high)


async def test_what_a_route_takes_is_documented(document):
    def parameters(path: str, method: str) -> set[str]:
        return {f"{p['in']} {p['name']}" for p in document["paths"][path][method]["parameters"]}

    assert parameters("/v1/responses/{id}/input_items", "get") >= {
        "path id",
        "query order",
        "query after",
        "query limit",
        "header X-Request-Id",
    }
    assert "header Content-Encoding" in parameters("/api/chat", "post")
    assert "query model" in parameters("/props", "get")
    blobs = document["paths"]["/api/blobs/{digest}"]["post"]
    assert list(blobs["requestBody"]["content"]) == ["application/octet-stream"]
    assert {"200", "201", "507"} <= set(blobs["responses"])
    audio = document["paths"]["/v1/audio/transcriptions"]["post"]
    assert list(audio["requestBody"]["content"]) == ["multipart/form-data"]
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert "405" in operation["responses"], path
            assert ("499" in operation["responses"]) == ("requestBody" in operation), (method, path)
            for status in ("429", "503"):
                if status in operation["responses"]:
                    assert "Retry-After" in operation["responses"][status]["headers"]
