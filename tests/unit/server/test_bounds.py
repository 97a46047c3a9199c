"""Every number and every list of a request has a range: one step beyond it is a 400 that names the field."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from tests.fakes.images import encoded, png
from tests.fakes.server import make_server
from tests.fakes.settings import FakeSettings

from donabe.service.parameters import BOUNDS, PARAMETERS

HI = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
CLAUDE_TOOL = {"name": "f", "input_schema": {}}
CALL = {"id": "a", "function": {"name": "f", "arguments": {}}}
TEXT_CALL = {"id": "a", "function": {"name": "f", "arguments": "{}"}}
TEXT = {"type": "text", "text": "x"}
IMAGE = encoded(png())

BODIES: dict[str, dict[str, Any]] = {
    "/api/generate": {"model": "C", "prompt": "x"},
    "/api/chat": {"model": "T", "messages": HI},
    "/api/embed": {"model": "E", "input": "x"},
    "/api/detokenize": {"model": "C", "tokens": [1]},
    "/api/rerank": {"model": "E", "query": "x", "documents": ["y"]},
    "/v1/rerank": {"model": "E", "query": "x", "documents": ["y"]},
    "/api/pull": {"model": "C"},
    "/api/push": {"model": "C"},
    "/v1/chat/completions": {"model": "T", "messages": HI},
    "/v1/completions": {"model": "C", "prompt": "x"},
    "/v1/embeddings": {"model": "E", "input": "x"},
    "/v1/responses": {"model": "T", "input": "hi"},
    "/v1/messages": {"model": "T", "max_tokens": 5, "messages": HI},
    "/v1/messages/count_tokens": {"model": "T", "messages": HI},
    "/infill": {"model": "S", "input_prefix": "x"},
    "/tokenize": {"model": "C", "content": "x"},
    "/detokenize": {"model": "C", "tokens": [1]},
}
# (path, field, bound): integers of a request
NUMBERS = [
    ("/v1/chat/completions", "n", "n"),
    ("/v1/completions", "n", "n"),
    ("/v1/completions", "best_of", "best_of"),
    ("/api/embed", "dimensions", "dimensions"),
    ("/v1/embeddings", "dimensions", "dimensions"),
    ("/api/rerank", "top_n", "top_n"),
    ("/v1/rerank", "top_n", "top_n"),
    ("/api/pull", "limit_rate", "limit_rate"),
    ("/api/push", "limit_rate", "limit_rate"),
]
# (path, field, option): options that are fields
OPTIONS = [
    ("/api/generate", "top_logprobs", "top_logprobs"),
    ("/api/chat", "top_logprobs", "top_logprobs"),
    ("/v1/chat/completions", "top_logprobs", "top_logprobs"),
    ("/v1/completions", "logprobs", "top_logprobs"),
    ("/v1/responses", "top_logprobs", "top_logprobs"),
    ("/v1/chat/completions", "max_tokens", "num_predict"),
    ("/v1/chat/completions", "max_completion_tokens", "num_predict"),
    ("/v1/completions", "max_tokens", "num_predict"),
    ("/v1/responses", "max_output_tokens", "num_predict"),
    ("/v1/messages", "max_tokens", "num_predict"),
    ("/infill", "n_predict", "num_predict"),
    *(
        (path, name, name)
        for path in ("/v1/chat/completions", "/v1/completions")
        for name in ("temperature", "top_p", "top_k", "min_p", "seed", "frequency_penalty", "presence_penalty")
    ),
    *(("/v1/responses", name, name) for name in ("temperature", "top_p", "seed")),
    *(("/v1/messages", name, name) for name in ("temperature", "top_p", "top_k")),
]


def message(**changes: Any) -> dict[str, Any]:
    return {"role": "user", "content": "x", **changes}


def part(index: int, url: str = f"data:image/png;base64,{IMAGE}") -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def block(_n: int) -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "data": IMAGE}}


# (path, field the error names, bound, request of n things)
COUNTS: list[tuple[str, str, str, Callable[[int], dict[str, Any]]]] = [
    ("/api/chat", "messages", "messages", lambda n: {"messages": HI * n}),
    ("/v1/chat/completions", "messages", "messages", lambda n: {"messages": HI * n}),
    ("/v1/messages", "messages", "messages", lambda n: {"messages": HI * n}),
    ("/v1/messages/count_tokens", "messages", "messages", lambda n: {"messages": HI * n}),
    ("/v1/responses", "input", "messages", lambda n: {"input": HI * n}),
    ("/v1/chat/completions", "messages.content", "parts", lambda n: {"messages": [message(content=[TEXT] * n)]}),
    ("/v1/messages", "messages.content", "parts", lambda n: {"messages": [message(content=[TEXT] * n)]}),
    ("/v1/messages", "system", "parts", lambda n: {"system": [TEXT] * n}),
    ("/v1/responses", "content", "parts", lambda n: {"input": [message(content=[TEXT] * n)]}),
    ("/api/chat", "messages.tool_calls", "tool_calls", lambda n: {"messages": [message(tool_calls=[CALL] * n)]}),
    (
        "/v1/chat/completions",
        "messages.tool_calls",
        "tool_calls",
        lambda n: {"messages": [message(tool_calls=[TEXT_CALL] * n)]},
    ),
    ("/api/chat", "tools", "tools", lambda n: {"tools": [TOOL] * n}),
    ("/v1/chat/completions", "tools", "tools", lambda n: {"tools": [TOOL] * n}),
    ("/v1/messages", "tools", "tools", lambda n: {"tools": [CLAUDE_TOOL] * n}),
    ("/v1/responses", "tools", "tools", lambda n: {"tools": [{"type": "function", "name": "f"}] * n}),
    ("/api/generate", "images", "images", lambda n: {"images": [IMAGE] * n}),
    ("/api/chat", "messages", "images", lambda n: {"messages": [message(images=[IMAGE])] * n}),
    ("/v1/chat/completions", "messages", "images", lambda n: {"messages": [message(content=[part(0)])] * n}),
    ("/v1/messages", "messages", "images", lambda n: {"messages": [message(content=[block(0)])] * n}),
    ("/api/embed", "input", "inputs", lambda n: {"input": ["x"] * n}),
    ("/v1/embeddings", "input", "inputs", lambda n: {"input": ["x"] * n}),
    ("/api/rerank", "documents", "documents", lambda n: {"documents": ["x"] * n}),
    ("/v1/rerank", "documents", "documents", lambda n: {"documents": ["x"] * n}),
    ("/v1/completions", "prompt", "prompts", lambda n: {"prompt": ["x"] * n}),
    ("/v1/completions", "prompt", "completions", lambda n: {"prompt": ["x"] * 5, "best_of": -(-n // 5)}),
    ("/v1/chat/completions", "guided_choice", "choices", lambda n: {"guided_choice": ["x"] * n}),
    ("/v1/completions", "guided_choice", "choices", lambda n: {"guided_choice": ["x"] * n}),
    ("/infill", "input_extra", "input_extra", lambda n: {"input_extra": [{"text": "x"}] * n}),
    ("/v1/chat/completions", "stop", "stop", lambda n: {"stop": ["x"] * n}),
    ("/v1/messages", "stop_sequences", "stop", lambda n: {"stop_sequences": ["x"] * n}),
]
TOKENS = [
    ("/api/generate", "context", lambda token: {"context": [1, token]}),
    ("/api/detokenize", "tokens", lambda token: {"tokens": [1, token]}),
    ("/detokenize", "tokens", lambda token: {"tokens": [1, token]}),
    ("/v1/completions", "prompt", lambda token: {"prompt": [1, token]}),
    ("/v1/completions", "prompt", lambda token: {"prompt": [[1], [1, token]]}),
    ("/v1/embeddings", "input", lambda token: {"input": [1, token]}),
    ("/v1/embeddings", "input", lambda token: {"input": [[1], [1, token]]}),
]


@pytest.fixture(scope="module")
def server():
    return make_server(settings=FakeSettings(max_body_bytes=2**26))


async def refused(server, path: str, text: bytes, field: str) -> None:
    response = await server.client.post(path, content=text)
    assert response.status_code == 400, (path, text[:200], response.text[:200])
    assert field in response.text, response.text[:300]


def with_value(path: str, field: str, value: str) -> bytes:
    """The route's request with this field, whose value is JSON text."""
    body = {name: item for name, item in BODIES[path].items() if name != field}
    return msgspec.json.encode(body)[:-1] + f', "{field}": {value}}}'.encode()


def beyond(low: float, high: float) -> Iterator[str]:
    yield from (str(int(low) - 1), str(int(high) + 1), "NaN", "1e400", "-1e400", str(2**70), "9" * 5000, '"1"', "[1]")
    yield from ("true", "{}")


@pytest.mark.parametrize(("path", "field", "name"), NUMBERS)
async def test_numbers(server, path, field, name):
    for value in (*beyond(BOUNDS[name].low, BOUNDS[name].high), "1.5"):
        await refused(
            server, path, with_value(path, field, value), "invalid character 'N'" if value == "NaN" else field
        )


@pytest.mark.parametrize(("path", "field", "name"), OPTIONS)
async def test_options_as_fields(server, path, field, name):
    for value in beyond(PARAMETERS[name].low, PARAMETERS[name].high):
        if (field, value) == ("logprobs", "true"):  # a switch in the chat form
            continue
        await refused(
            server, path, with_value(path, field, value), "invalid character 'N'" if value == "NaN" else field
        )


@pytest.mark.parametrize(("path", "field", "name", "make"), COUNTS)
async def test_counts(server, path, field, name, make):
    high = BOUNDS[name].high if name in BOUNDS else int(PARAMETERS[name].high)
    n_before = len(server.runners.loads)
    text = msgspec.json.encode({**BODIES[path], **make(high + 1)})
    await refused(server, path, text, f"{field} ")
    assert len(server.runners.loads) == n_before
    if name not in ("messages", "parts", "tool_calls", "images", "completions"):  # slow, or refused for another reason
        response = await server.client.post(path, content=msgspec.json.encode({**BODIES[path], **make(high)}))
        assert f"at most {high}" not in response.text


@pytest.mark.parametrize(("path", "field", "make"), TOKENS)
@pytest.mark.parametrize("token", [-1, 2**31, 2**63, -(2**63)])
async def test_token_ids(server, path, field, make, token):
    await refused(server, path, msgspec.json.encode({**BODIES[path], **make(token)}), field)


async def test_indices_of_tool_calls(server):
    for index in (-1, 2**31):
        function = {"name": "f", "arguments": {}, "index": index}
        native = {"model": "T", "messages": [message(tool_calls=[{"function": function}])]}
        await refused(server, "/api/chat", msgspec.json.encode(native), "messages.tool_calls.function.index")
        openai = {"model": "T", "messages": [message(tool_calls=[{**TEXT_CALL, "index": index}])]}
        await refused(server, "/v1/chat/completions", msgspec.json.encode(openai), "messages.tool_calls.index")


@pytest.mark.parametrize("limit", ["0", "101", "-1", "x", "1e9", "9" * 20])
async def test_pages(tmp_path, limit):
    server = make_server(settings=FakeSettings(home=tmp_path))
    stored = (await server.post("/v1/responses", {"model": "C", "input": "hi"})).json()["id"]
    response = await server.client.get(f"/v1/responses/{stored}/input_items", params={"limit": limit})
    assert (response.status_code, "limit must be" in response.text) == (400, True)


def test_every_bound_is_tested():
    tested = {name for *_, name in NUMBERS} | {name for _, _, name, _ in COUNTS}
    elsewhere = {
        "token",
        "index",
        "limit",
        "image_bytes",
        "image_pixels",
        "embedding_numbers",
    }  # above, in tests/unit/api/test_images.py and tests/unit/server/test_vectors.py
    assert tested - set(PARAMETERS) | elsewhere == set(BOUNDS)


async def test_one_request_can_not_ask_for_thousands_of_completions(server):
    body = {"model": "C", "prompt": ["x"] * 128, "n": 128, "best_of": 128}
    response = await server.post("/v1/completions", body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "prompt")
    assert "at most 512" in response.json()["error"]["message"]
