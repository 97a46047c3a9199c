"""Nothing is silent: every parameter of every dialect is honoured, accepted, refused or reported, as the table says.

The names come from the official clients as well: one that a client offers and the table does not know must be reported.
"""

from __future__ import annotations

import re

import msgspec
import ollama._types as ollama_types
import pytest
from anthropic.types import message_create_params
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params
from tests.fakes.client_script import script
from tests.fakes.parameter_classes import ACCEPTED, HONOURED, REFUSED, REPORTED, ROUTES, Route
from tests.fakes.server import FakeServer, make_server
from tests.fakes.settings import FakeSettings

from donabe.service.parameters import PARAMETERS

OFFERED = {
    "/api/generate": ollama_types.GenerateRequest.model_fields,
    "/api/chat": ollama_types.ChatRequest.model_fields,
    "/api/embed": ollama_types.EmbedRequest.model_fields,
    "/api/embeddings": ollama_types.EmbeddingsRequest.model_fields,
    "/v1/chat/completions": chat_create_params.CompletionCreateParamsBase.__annotations__,
    "/v1/completions": completion_create_params.CompletionCreateParamsBase.__annotations__,
    "/v1/embeddings": embedding_create_params.EmbeddingCreateParams.__annotations__,
    "/v1/responses": response_create_params.ResponseCreateParamsBase.__annotations__,
    "/v1/messages": message_create_params.MessageCreateParamsBase.__annotations__,
}
CHANGING = re.compile(
    rb'"(?:id|created_at|created|completed_at|item_id|call_id|total_duration|load_duration)":(?:"[^"]*"|\d+)'
)


def cases():
    for route in ROUTES:
        for name, (kind, value, *more) in route.parameters.items():
            yield pytest.param(route, name, kind, value, *(more or [{}]), id=f"{route.path} {name}")


def unlisted():
    for route in ROUTES:
        for name in OFFERED[route.path]:
            if name not in route.parameters:
                yield route, name


async def ask(route: Route, tmp_path, changes: dict, *, strict: bool = False):
    server = make_server(script=script, settings=FakeSettings(home=tmp_path, strict=strict))
    response = await server.post(route.path, {**route.plain, **changes})
    return server, response


def asked_of(server: FakeServer) -> list:
    """What the runners were told, without what differs between any two requests."""
    told = [msgspec.to_builtins(request) for runner in server.runners.runners for request in runner.requests]
    for request in told:
        request.get("scheduling", {}).pop("request_id", None)
    return told


async def effect(server: FakeServer, response) -> tuple:
    """Everything a parameter could have changed."""
    stays = [m["expires_at"] > "2200" for m in (await server.client.get("/api/ps")).json()["models"]]
    loads = [(spec.name, options) for spec, options in server.runners.loads]
    return asked_of(server), loads, stays, CHANGING.sub(b"", response.content)


@pytest.mark.parametrize(("route", "name", "kind", "value", "more"), list(cases()))
async def test_parameter_is_of_its_class(tmp_path, route, name, kind, value, more):
    field = name.partition(".")[0]
    base = {field: more} if isinstance(more, list) else more
    plain_server, plain = await ask(route, tmp_path, base)
    assert plain.status_code == 200, plain.text
    server, response = await ask(route, tmp_path, {**base, field: value})
    warnings = " ".join(response.headers.get_list("warning"))
    last = name.rpartition(".")[2]
    if kind == REFUSED:
        assert response.status_code == 400
        assert last.rstrip("s") in response.text or "images" in response.text
        assert not server.runners.runners or not asked_of(server)
        return
    assert response.status_code == 200, response.text
    if kind == REPORTED:
        assert last in warnings
        _, refused = await ask(route, tmp_path, {**base, field: value}, strict=True)
        assert refused.status_code == 400
        assert last in refused.text
        return
    assert warnings == ""
    if kind == HONOURED:
        assert await effect(server, response) != await effect(plain_server, plain)
    else:
        assert kind == ACCEPTED
        assert asked_of(server) == asked_of(plain_server)
    _, strictly = await ask(route, tmp_path, {**base, field: value}, strict=True)
    assert strictly.status_code == 200


@pytest.mark.parametrize(("route", "name"), list(unlisted()))
async def test_parameter_of_a_client_that_is_not_in_the_table_is_reported(tmp_path, route, name):
    _, response = await ask(route, tmp_path, {name: "x"})
    assert response.status_code == 400 or name in response.headers.get("warning", ""), response.text


@pytest.mark.parametrize("name", sorted({*PARAMETERS, *ollama_types.Options.model_fields}))
async def test_option_is_honoured_or_reported(tmp_path, name):
    """Every option of the native routes changes what the runner is told; retired ones are reported."""
    values = {"integer": 3, "float32": 0.25, "boolean": False, "array": ["x"], "map": {"5": 1}, "string": "q8_0"}
    route = ROUTES[0]
    plain_server, plain = await ask(route, tmp_path, {})
    if name not in PARAMETERS:
        _, response = await ask(route, tmp_path, {"options": {name: True}})
        assert name in response.headers["warning"]
        return
    value = {"mirostat": 1, "use_mlock": True, "ignore_eos": True}.get(name, values[PARAMETERS[name].kind])
    changes = {"options": {name: value}}
    if name == "top_logprobs":  # has a field of its own, which wins
        return
    server, response = await ask(route, tmp_path, changes)
    assert response.status_code == 200, response.text
    assert await effect(server, response) != await effect(plain_server, plain)


@pytest.mark.parametrize("path", ["/api/show", "/api/copy", "/api/delete", "/api/pull", "/api/push", "/api/create"])
@pytest.mark.parametrize("strict", [False, True])
async def test_managing_routes_report_what_they_do_not_know(tmp_path, path, strict):
    server = make_server(settings=FakeSettings(home=tmp_path, strict=strict))
    body = {"model": "C", "source": "C", "destination": "C2", "from": "C", "bogus": 1}
    method = "DELETE" if path == "/api/delete" else "POST"
    response = await server.client.request(method, path, content=msgspec.json.encode(body))
    if strict:
        assert response.status_code == 400
        assert "unknown field" in response.text
    else:
        assert "unknown field bogus" in " ".join(response.headers.get_list("warning"))
