"""The OpenAPI document: every route is in it, every reference leads somewhere, its ranges are the server's."""

from __future__ import annotations

import re

import pytest
from tests.fakes.server import make_server

from donabe.server.openapi import OPERATIONS
from donabe.service.parameters import PARAMETERS


@pytest.fixture
async def document():
    response = await make_server().client.get("/openapi.json")
    assert response.headers["content-type"] == "application/json"
    return response.json()


def references(value):
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


async def test_every_route_is_documented(document):
    found = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    routes = {
        (method, re.sub(r":path\}", "}", route.path))
        for route in make_server().app.router.routes
        for method in route.methods
    }
    assert found == routes
    assert set(OPERATIONS) >= routes


async def test_every_reference_leads_somewhere(document):
    parts = document["components"]
    names = {f"#/components/{kind}/{name}" for kind in ("schemas", "headers") for name in parts[kind]}
    assert set(references(document)) <= names


@pytest.mark.parametrize("name", ["temperature", "top_p", "num_ctx", "seed", "logit_bias", "stop"])
async def test_ranges_are_those_the_server_checks(document, name):
    server = make_server()
    [schema, null] = document["components"]["schemas"]["Options"]["properties"][name]["anyOf"]
    assert null == {"type": "null"}

    async def status(value) -> int:
        body = {"model": "C", "prompt": "x", "options": {name: value}}
        return (await server.post("/api/generate", body)).status_code

    if "minimum" in schema:
        assert (schema["minimum"], schema["maximum"]) == (PARAMETERS[name].low, PARAMETERS[name].high)
        step = 1 if schema["type"] == "integer" else 0.01
        assert await status(schema["maximum"]) == 200
        assert await status(schema["maximum"] + step) == 400
        assert await status(schema["minimum"] - step) == 400
    elif name == "stop":
        assert await status(["x"] * (schema["maxItems"] + 1)) == 400
    else:
        assert await status({"1": schema["additionalProperties"]["maximum"] + 1}) == 400


@pytest.mark.parametrize("name", list(PARAMETERS))
@pytest.mark.parametrize("value", ["1", {"a": 1}, [1], 1e400, -(2**70), 2**70, [["x"]]])
async def test_no_value_of_any_option_breaks_the_server(name, value):
    """Every option with every kind of wrong value is a 400 that names it, or is right."""
    server = make_server()
    body = {"model": "C", "prompt": "x", "stream": False, "options": {name: value}}
    if value == 1e400:
        content = f'{{"model":"C","prompt":"x","stream":false,"options":{{"{name}":1e400}}}}'
        response = await server.post("/api/generate", content)
    else:
        response = await server.post("/api/generate", body)
    assert response.status_code in (200, 400)
    if response.status_code == 400 and value != 1e400:
        assert name in response.json()["error"]
