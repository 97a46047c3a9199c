"""The OpenAI dialect over scripted runners: transcripts of streams and replies, refusals, what reaches the runner."""

from __future__ import annotations

import base64
import itertools
import struct

import msgspec
import pytest
from tests.fakes.server import make_server

from donabe.errors import ContextLengthError
from donabe.types import Constraint, Delta, Failed, Finished, FinishReason, TokenLogprob, ToolCall, Usage

HI = [{"role": "user", "content": "hi"}]
TOOL = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
}
USAGE = Usage(n_prompt_tokens=11, n_cached_tokens=4, n_output_tokens=3, n_thinking_tokens=1)
END = Finished(reason=FinishReason.STOP, usage=USAGE)
TOKEN_RANGE = "logit_bias must be an object with token ids between 0 and 2147483647 as keys, got "
CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
USAGE_OBJECT = {
    "prompt_tokens": 11,
    "completion_tokens": 3,
    "total_tokens": 14,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 1},
}


def hello(_request):
    return [Delta(text="Hel"), Delta(text="lo"), END]


@pytest.fixture
def server():
    return make_server(script=hello)


async def stream(server, path, body) -> list:
    response = await server.post(path, {**body, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream"), response.text
    blocks = response.text.removesuffix("\n\n").split("\n\n")
    assert all(block.startswith("data: ") for block in blocks)
    assert blocks[-1] == "data: [DONE]"
    return [msgspec.json.decode(block[6:]) for block in blocks[:-1]]


async def test_whole_answer(server):
    response = await server.post(CHAT, {"model": "C", "messages": HI})
    assert response.headers["content-type"] == "application/json"
    assert response.content.endswith(b"\n")
    body = response.json()
    assert body.pop("id").startswith("chatcmpl-")
    assert body.pop("created") > 1_700_000_000
    assert body == {
        "object": "chat.completion",
        "model": "C",
        "system_fingerprint": "fp_ollama",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
        "usage": USAGE_OBJECT,
    }


async def test_streamed_answer(server):
    chunks = await stream(server, CHAT, {"model": "C", "messages": HI})
    assert [chunk["choices"][0] for chunk in chunks] == [
        {"index": 0, "delta": {"role": "assistant", "content": "Hel"}, "finish_reason": None},
        {"index": 0, "delta": {"content": "lo"}, "finish_reason": None},
        {"index": 0, "delta": {}, "finish_reason": "stop"},
    ]
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1
    assert all("usage" not in chunk for chunk in chunks)


async def test_stream_with_usage(server):
    body = {"model": "C", "messages": HI, "stream_options": {"include_usage": True}}
    *_, last = await stream(server, CHAT, body)
    assert (last["choices"], last["usage"]) == ([], USAGE_OBJECT)


def thinking_and_calls(_request):
    return [
        Delta(thinking="hmm"),
        Delta(text="Sure"),
        Delta(tool_calls=(ToolCall(name="add", arguments='{"a":1}', id="call_1"), ToolCall(name="add"))),
        END,
    ]


async def test_reasoning_and_tool_calls_stream():
    server = make_server(script=thinking_and_calls)
    chunks = await stream(server, CHAT, {"model": "T", "messages": HI, "tools": [TOOL]})
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": "", "reasoning": "hmm", "reasoning_content": "hmm"}
    assert deltas[1] == {"content": "Sure"}
    [first], [second] = deltas[2]["tool_calls"], deltas[3]["tool_calls"]
    assert first == {
        "id": "call_1",
        "index": 0,
        "type": "function",
        "function": {"name": "add", "arguments": '{"a":1}'},
    }
    assert (second["index"], second["function"]["arguments"]) == (1, "{}")
    assert chunks[-1]["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "tool_calls"}


async def test_reasoning_and_tool_calls_whole():
    server = make_server(script=thinking_and_calls)
    choice = (await server.post(CHAT, {"model": "T", "messages": HI, "tools": [TOOL]})).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert (choice["message"]["reasoning"], choice["message"]["content"]) == ("hmm", "Sure")
    assert [call["index"] for call in choice["message"]["tool_calls"]] == [0, 1]


async def test_several_choices():
    def script(request):
        for index in range(request.n):
            yield Delta(text=f"answer {index}", index=index)
        for index in range(request.n):
            yield Finished(reason=FinishReason.STOP, usage=USAGE, index=index, last=index == request.n - 1)

    server = make_server(script=script)
    body = (await server.post(CHAT, {"model": "C", "messages": HI, "n": 3})).json()
    assert [choice["message"]["content"] for choice in body["choices"]] == ["answer 0", "answer 1", "answer 2"]
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (11, 9)
    chunks = await stream(server, CHAT, {"model": "C", "messages": HI, "n": 2})
    assert [c["choices"][0]["delta"].get("role") for c in chunks] == ["assistant", "assistant", None, None]


async def test_logprobs():
    entry = TokenLogprob(token="Hi", token_id=5, logprob=-0.5, top=(TokenLogprob(token="Ho", token_id=6, logprob=-2),))
    server = make_server(script=lambda _: [Delta(text="Hi", logprobs=(entry,)), END])
    body = {"model": "C", "messages": HI, "logprobs": True, "top_logprobs": 1}
    choice = (await server.post(CHAT, body)).json()["choices"][0]
    wanted = {
        "token": "Hi",
        "logprob": -0.5,
        "bytes": [72, 105],
        "top_logprobs": [{"token": "Ho", "logprob": -2.0, "bytes": [72, 111]}],
    }
    assert choice["logprobs"]["content"] == [wanted]
    chunks = await stream(server, CHAT, body)
    assert chunks[0]["choices"][0]["logprobs"]["content"] == [wanted]


async def test_parameters_reach_the_runner(server):
    body = {
        "model": "C",
        "messages": HI,
        "temperature": 0.3,
        "top_p": 0.7,
        "max_completion_tokens": 9,
        "max_tokens": 8,
        "seed": 5,
        "stop": "x",
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
        "logit_bias": {"7": -100},
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
        "user": "somebody",
        "metadata": {},
    }
    response = await server.post(CHAT, body)
    assert "warning" not in response.headers
    request = server.runners.last.requests[0]
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.seed) == (0.3, 0.7, 5)
    assert (sampling.frequency_penalty, sampling.presence_penalty, sampling.logit_bias) == (0.5, -0.5, {7: -100.0})
    assert (request.output.max_tokens, request.output.stop) == (9, ("x",))
    assert request.constraint.json_schema == {"type": "object"}
    assert (request.truncate, request.output.context_shift) == (False, False)


@pytest.mark.parametrize(("model", "temperature"), [("C", 1.0), ("P", 0.5)])
async def test_default_temperature_is_one_unless_the_model_has_its_own(server, model, temperature):
    await server.post(CHAT, {"model": model, "messages": HI})
    assert server.runners.last.requests[0].sampling.temperature == temperature


async def test_message_forms(server):
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
        {"role": "assistant", "content": "ok", "reasoning_content": "thought"},
    ]
    await server.post(CHAT, {"model": "T", "messages": messages})
    system, user, call, result, assistant = server.runners.last.requests[0].messages
    assert (system.role, user.content) == ("system", "a\nb")
    assert call.tool_calls[0].arguments == '{"a":1}'
    assert (result.role, result.tool_name, result.tool_call_id) == ("tool", "add", "c1")
    assert assistant.thinking == "thought"


@pytest.mark.parametrize(
    ("changes", "message", "param"),
    [
        ({"messages": None}, "[] is too short - 'messages'", "messages"),
        ({"model": None}, "model is required", "model"),
        ({"temperature": "hot"}, "temperature must be of type float32", "temperature"),
        ({"top_p": 2}, "top_p must be between 0 and 1, got 2", "top_p"),
        ({"max_tokens": "many"}, "max_tokens must be of type integer", "max_tokens"),
        ({"n": 0}, "n must be between 1 and 128, got 0", "n"),
        ({"n": 10**9}, "n must be between 1 and 128, got 1000000000", "n"),
        ({"top_logprobs": 21}, "top_logprobs must be between 0 and 20", "top_logprobs"),
        ({"logit_bias": {"x": 1}}, "logit_bias must be of type object with token ids as keys, got 'x'", "logit_bias"),
        ({"logit_bias": {"9" * 5000: 1}}, TOKEN_RANGE + "9" * 40, "logit_bias"),
        ({"logit_bias": {str(2**31): 1}}, TOKEN_RANGE + "2147483648", "logit_bias"),
        ({"stop": [1]}, "invalid type for 'stop' field: float64", "stop"),
        ({"functions": [{}]}, "functions is not supported", "functions"),
        ({"modalities": ["audio"]}, "only the text modality is supported", "modalities"),
        ({"tool_choice": "required"}, "tool_choice is required, but there are no tools", "tool_choice"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "sub"}}},
            "tool_choice names 'sub', which is not among the tools",
            "tool_choice",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools of type 'web_search' are not supported", "tools.type"),
        ({"messages": [{"role": "user", "content": None}]}, "invalid message content type: <nil>", "messages.content"),
        ({"messages": [{"role": "user", "content": 5}]}, "invalid message content type: float64", "messages.content"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}
                ]
            },
            "image URLs are not currently supported, please use base64 encoded data instead",
            "messages.content.image_url",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": "data:image/gif;base64,aa"}]}
                ]
            },
            "invalid image input",
            "messages.content.image_url",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[]"}}]}]},
            "invalid tool call arguments",
            "messages.tool_calls.arguments",
        ),
        (
            {"reasoning_effort": "bogus"},
            'invalid reasoning value: "bogus" (must be "minimal", "low", "medium", "high", "xhigh", "ultra", "max",'
            ' or "none")',
            "reasoning_effort",
        ),
        ({"reasoning_effort": "high"}, '"C" does not support thinking', None),
        ({"tools": [TOOL]}, "registry.ollama.ai/library/C:latest does not support tools", None),
        ({"response_format": {"type": "xml"}}, "response_format.type 'xml' is not known", "response_format.type"),
    ],
)
async def test_refusals(server, changes, message, param):
    response = await server.post(CHAT, {"model": "C", "messages": HI, **changes})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["message"], error["type"], error["param"]) == (message, "invalid_request_error", param)
    assert not server.runners.loads


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, EMBEDDINGS])
async def test_empty_body(server, path):
    response = await server.post(path, b"")
    assert (response.status_code, response.json()["error"]["message"]) == (400, "EOF")


async def test_unknown_model(server):
    response = await server.post(CHAT, {"model": "nope", "messages": HI})
    assert response.status_code == 404
    assert response.json()["error"] | {"hint": None} == {
        "message": "model 'nope' not found",
        "type": "not_found_error",
        "param": None,
        "code": "model_not_found",
        "hint": None,
    }


async def test_effort_none_is_fine_everywhere(server):
    assert (await server.post(CHAT, {"model": "C", "messages": HI, "reasoning_effort": "none"})).status_code == 200


async def test_too_long_prompt_has_its_code():
    error = ContextLengthError("the prompt has 9 tokens", n_prompt_tokens=9, n_ctx=4)
    server = make_server(script=lambda _: [error])
    response = await server.post(CHAT, {"model": "C", "messages": HI, "stream": True})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


async def test_error_in_a_stream_is_an_event_before_the_end():
    server = make_server(script=lambda _: [Delta(text="Hel"), Failed(kind="RunnerDiedError", message="signal 9")])
    *_, last = await stream(server, CHAT, {"model": "C", "messages": HI})
    assert last["error"]["message"] == "signal 9"
    assert last["error"]["type"] == "api_error"


async def test_required_call_is_forced_on_a_model_without_tools():
    answer = '{"name": "add", "arguments": {"a": 1}}'
    server = make_server(script=lambda _: [Delta(text=answer[:10]), Delta(text=answer[10:]), END])
    body = {"model": "C", "messages": HI, "tools": [TOOL], "tool_choice": "required"}
    choice = (await server.post(CHAT, body)).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == ""
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a":1}'}
    request = server.runners.last.requests[0]
    assert (request.tools, request.tool_choice.mode) == ((), "auto")
    assert request.messages[0].role == "system"
    assert "add" in request.messages[0].content
    assert request.constraint.json_schema["properties"]["name"] == {"const": "add"}
    assert server.runners.last.n_open_streams == 0


async def test_tools_with_choice_none_are_not_shown(server):
    body = {"model": "C", "messages": HI, "tools": [TOOL], "tool_choice": "none"}
    assert (await server.post(CHAT, body)).status_code == 200
    assert server.runners.last.requests[0].tools == ()


# --- completions -----------------------------------------------------------------------------------------------------


async def test_completion(server):
    body = (await server.post(COMPLETIONS, {"model": "C", "prompt": "hi"})).json()
    assert body["object"] == "text_completion"
    assert body["choices"] == [{"text": "Hello", "index": 0, "finish_reason": "stop", "logprobs": None}]
    assert body["usage"] == USAGE_OBJECT


async def test_completion_stream(server):
    body = {"model": "C", "prompt": "hi", "stream_options": {"include_usage": True}}
    chunks = await stream(server, COMPLETIONS, body)
    assert [choice["text"] for chunk in chunks for choice in chunk["choices"]] == ["Hel", "lo", ""]
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert (chunks[-1]["choices"], chunks[-1]["usage"]) == ([], USAGE_OBJECT)


async def test_completion_of_several_prompts_and_choices():
    def script(request):
        text = request.messages[-1].content if hasattr(request, "messages") else request.prompt
        for index in range(request.n):
            yield Delta(text=f"{text}{index}", index=index)
            yield 0.001
        for index in range(request.n):
            yield Finished(reason=FinishReason.STOP, usage=USAGE, index=index, last=index == request.n - 1)

    server = make_server(script=script)
    body = {"model": "C", "prompt": ["a", "b"], "n": 2}
    answer = (await server.post(COMPLETIONS, body)).json()
    assert [(c["index"], c["text"]) for c in answer["choices"]] == [(0, "a0"), (1, "a1"), (2, "b0"), (3, "b1")]
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (22, 12)
    chunks = await stream(server, COMPLETIONS, body)
    texts = {0: "", 1: "", 2: "", 3: ""}
    for chunk in chunks:
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["text"]
    assert texts == {0: "a0", 1: "a1", 2: "b0", 3: "b1"}
    assert server.app.state.pool.residents()[0].n_leases == 0


async def test_best_of_is_the_runners_choice(server):
    body = {"model": "C", "prompt": "hi", "n": 2, "best_of": 3}
    await server.post(COMPLETIONS, body)
    await server.post(COMPLETIONS, body | {"best_of": 2})
    asked = [(request.n, request.best_of, request.output.logprobs) for request in server.runners.last.requests]
    assert asked == [(2, 3, False), (2, 0, False)]


async def test_completion_of_token_ids_is_raw(server):
    await server.post(COMPLETIONS, {"model": "C", "prompt": [1, 2, 3], "echo": True})
    request = server.runners.last.requests[0]
    assert (request.prompt, request.echo) == ((1, 2, 3), True)


async def test_completion_logprobs():
    entries = (TokenLogprob(token="He", token_id=1, logprob=-1), TokenLogprob(token="y", token_id=2, logprob=-2))
    server = make_server(script=lambda _: [Delta(text="Hey", logprobs=entries), END])
    body = {"model": "C", "prompt": "x", "logprobs": 0}
    assert (await server.post(COMPLETIONS, body)).json()["choices"][0]["logprobs"] == {
        "tokens": ["He", "y"],
        "token_logprobs": [-1.0, -2.0],
        "top_logprobs": [{}, {}],
        "text_offset": [0, 2],
    }


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"prompt": 5}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[1], 2]}, "prompt"),
        ({"logprobs": 21}, "logprobs"),
        ({"best_of": 1, "n": 2}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
    ],
)
async def test_completion_refusals(server, changes, param):
    response = await server.post(COMPLETIONS, {"model": "C", "prompt": "x", **changes})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_empty_completion_loads(server):
    body = (await server.post(COMPLETIONS, {"model": "C", "prompt": ""})).json()
    assert body["choices"][0]["finish_reason"] == "load"
    assert body["usage"]["total_tokens"] == 0


# --- embeddings and models -------------------------------------------------------------------------------------------


async def test_embeddings_as_numbers_and_base64(server):
    body = {"model": "E", "input": ["a", "b"], "dimensions": 2}
    answer = (await server.post(EMBEDDINGS, body)).json()
    assert [item["embedding"] for item in answer["data"]] == [[0.6, 0.8], [0.6, 0.8]]
    assert answer["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    answer = (await server.post(EMBEDDINGS, {**body, "encoding_format": "base64"})).json()
    assert answer["data"][0]["embedding"] == "mpkZP83MTD8="
    assert struct.unpack("<2f", base64.b64decode(answer["data"][1]["embedding"])) == pytest.approx((0.6, 0.8))


@pytest.mark.parametrize(("value", "inputs"), [([1, 2], ((1, 2),)), ([[1], [2, 3]], ((1,), (2, 3))), ("a", ("a",))])
async def test_embedding_inputs(server, value, inputs):
    assert (await server.post(EMBEDDINGS, {"model": "E", "input": value})).status_code == 200
    assert server.runners.last.requests[0].inputs == inputs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": []}, "invalid input"),
        ({"input": None}, "invalid input"),
        ({"input": [1, "a"]}, "invalid input type"),
        (
            {"encoding_format": "int8"},
            "Invalid value for 'encoding_format' = int8. Supported values: ['float', 'base64'].",
        ),
    ],
)
async def test_embedding_refusals(server, changes, message):
    response = await server.post(EMBEDDINGS, {"model": "E", "input": "a", **changes})
    assert (response.status_code, response.json()["error"]["message"]) == (400, message)


async def test_models(server):
    listing = (await server.client.get("/v1/models")).json()
    assert listing["object"] == "list"
    first = listing["data"][0]
    assert first == {"id": "C:latest", "object": "model", "created": 1_700_000_000, "owned_by": "library"}
    assert (await server.client.get("/v1/models/C")).json()["id"] == "C"
    missing = await server.client.get("/v1/models/nope")
    assert (missing.status_code, missing.json()["error"]["message"]) == (404, "model 'nope:latest' not found")
    redirected = await server.client.get("/v1/models/")
    assert (redirected.status_code, redirected.headers["location"]) == (301, "/v1/models")
    assert (await server.client.head("/v1/models")).status_code == 405


async def test_health(server):
    assert (await server.client.get("/health")).json() == {"status": "ok"}


@pytest.mark.parametrize("raw", [False, True])
async def test_echo_is_in_front_of_every_choice_and_counts_in_offsets(raw):
    entries = [TokenLogprob(token=token, token_id=1, logprob=-0.5) for token in ("Hel", "lo")]

    def script(request):
        echo = request.prompt if raw else ""  # the runner's work where it sees the prompt itself
        return [Delta(text=echo + "Hello", logprobs=tuple(entries), index=index) for index in range(request.n)] + [
            Finished(reason=FinishReason.STOP, usage=USAGE, index=i, last=i == 1) for i in range(2)
        ]

    body = {"model": "C", "prompt": "Say:", "echo": True, "n": 2, "logprobs": 0, "raw": raw}
    choices = (await make_server(script=script).post("/v1/completions", body)).json()["choices"]
    text = (await make_server(script=script).post("/v1/completions", {**body, "stream": True})).text
    chunks = [msgspec.json.decode(line[6:]) for line in text.split("\n\n") if line.startswith("data: {")]
    for index, choice in enumerate(choices):
        streamed = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert choice["text"] == "".join(c["text"] for c in streamed) == "Say:Hello"
        offsets = [offset for c in streamed for offset in (c.get("logprobs") or {}).get("text_offset", [])]
        assert choice["logprobs"]["text_offset"] == offsets == [4, 7]


async def test_thinking_of_a_completion_is_not_lost():
    server = make_server(script=lambda _: [Delta(thinking="hm"), Delta(text="Hi"), END])
    body = {"model": "T", "prompt": "hi"}
    choice = (await server.post("/v1/completions", body)).json()["choices"][0]
    assert (choice["reasoning"], choice["text"]) == ("hm", "Hi")
    assert '"reasoning":"hm"' in (await server.post("/v1/completions", {**body, "stream": True})).text


async def test_streamed_empty_completion_loads_too(server):
    text = (await server.post("/v1/completions", {"model": "C", "prompt": "", "stream": True})).text
    chunk, done = text.removesuffix("\n\n").split("\n\n")
    assert msgspec.json.decode(chunk[6:])["choices"][0]["finish_reason"] == "load"
    assert done == "data: [DONE]"


CONSTRAINTS = {
    "response_format": {"type": "json_object"},
    "guided_json": {"type": "object"},
    "json_schema": {"type": "object"},
    "guided_grammar": 'root ::= "a"',
    "grammar": 'root ::= "a"',
    "guided_choice": ["a", "b"],
}


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(CONSTRAINTS, 2)))
async def test_two_constraints_are_refused_by_name(server, first, second):
    request = {"model": "C", "messages": HI, second: CONSTRAINTS[second], first: CONSTRAINTS[first]}
    response = await server.post(CHAT, request)
    assert response.status_code == 400
    assert response.json()["error"]["message"] == f"{first} and {second} exclude each other"
    completion = {**request, "prompt": "x"}
    assert (await server.post(COMPLETIONS, completion)).status_code == 400


@pytest.mark.parametrize("name", CONSTRAINTS)
async def test_a_constraint_goes_with_an_empty_one(server, name):
    free = {"response_format": {"type": "text"}, "guided_json": None, "guided_choice": [], "grammar": ""}
    response = await server.post(CHAT, {"model": "C", "messages": HI, **free, name: CONSTRAINTS[name]})
    assert response.status_code == 200
    assert server.runners.last.requests[0].constraint != Constraint()


@pytest.mark.parametrize(
    ("path", "field", "more"),
    [
        (CHAT, "n", {"messages": HI}),
        (CHAT, "top_logprobs", {"messages": HI}),
        (CHAT, "max_tokens", {"messages": HI}),
        (COMPLETIONS, "n", {"prompt": "x"}),
        (COMPLETIONS, "best_of", {"prompt": "x"}),
        (COMPLETIONS, "logprobs", {"prompt": "x"}),
        (EMBEDDINGS, "dimensions", {"input": "x"}),
        ("/v1/messages", "max_tokens", {"messages": HI}),
        ("/v1/responses", "top_logprobs", {"input": "x"}),
        ("/api/embed", "dimensions", {"input": "x"}),
        ("/api/chat", "top_logprobs", {"messages": HI}),
        ("/api/chat", "keep_alive", {"messages": HI}),
    ],
)
@pytest.mark.parametrize("number", ["1e400", "-1e400", "9" * 400, "9" * 5000, "1e300", "1.5"])
async def test_no_number_breaks_the_server(server, path, field, more, number):
    text = msgspec.json.encode({"model": "C", **more}).decode()[:-1] + f', "{field}": {number}}}'
    response = await server.post(path, text)
    if response.status_code == 200:  # a long time to keep a model; a fraction of a limit is cut off
        assert (field, number) in {
            ("keep_alive", "1e300"),
            ("keep_alive", "1.5"),
            ("max_tokens", "1.5"),
            ("top_logprobs", "1.5"),
        }, number
    else:
        assert (response.status_code, field in response.text) == (400, True), response.text[:200]
