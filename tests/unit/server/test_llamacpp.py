"""Routes of llama.cpp and vLLM clients over scripted runners."""

from __future__ import annotations

import msgspec
import pytest
from tests.fakes.server import make_server


@pytest.fixture
def server():
    return make_server()


async def test_infill(server):
    body = {"model": "S", "input_prefix": "def f(", "input_suffix": "return 1", "prompt": "a", "n_predict": 5}
    answer = (await server.post("/infill", body | {"cache_prompt": True})).json()
    assert (answer["content"], answer["stop"], answer["tokens_predicted"]) == ("Hello", True, 3)
    request = server.runners.last.requests[0]
    assert (request.prompt, request.suffix, request.output.max_tokens) == ("def f(a", "return 1", 5)


async def test_infill_stream(server):
    body = {"model": "S", "input_prefix": "x", "input_suffix": "y", "stream": True}
    response = await server.post("/infill", body)
    events = [msgspec.json.decode(block[6:]) for block in response.text.strip().split("\n\n")]
    assert [event["content"] for event in events] == ["Hel", "lo", ""]
    assert [event["stop"] for event in events] == [False, False, True]


async def test_infill_needs_a_model_that_can(server):
    response = await server.post("/infill", {"model": "C", "input_prefix": "x", "input_suffix": "y"})
    assert response.status_code == 400
    assert "does not support insert" in response.json()["error"]["message"]


async def test_model_in_use_is_meant_when_none_is_named(server):
    response = await server.post("/tokenize", {"content": "\x01\x02"})
    assert (response.status_code, response.json()["error"]["message"]) == (400, "model is required")
    await server.post("/api/generate", {"model": "C"})
    assert (await server.post("/tokenize", {"content": "\x01\x02"})).json() == {
        "tokens": [1, 2],
        "count": 2,
        "max_model_len": 4096,
    }
    assert (await server.post("/detokenize", {"tokens": [1, 2]})).json()["content"] == "\x01\x02"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {}),
        ("/tokenize", {"content": "x", "with_pieces": True}),
        ("/detokenize", {"tokens": ["a"]}),
        ("/infill", {}),
        ("/infill", {"input_prefix": "x", "temperature": "hot"}),
    ],
)
async def test_refusals(server, path, body):
    await server.post("/api/generate", {"model": "C"})
    response = await server.post(path, body)
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")
