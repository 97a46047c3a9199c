"""The Anthropic dialect over scripted runners: transcripts, block conversion, refusals."""

from __future__ import annotations

import typing

import msgspec
import pytest
from anthropic.types.content_block_param import ContentBlockParam
from tests.fakes.images import encoded, png
from tests.fakes.runner import make_spec
from tests.fakes.server import make_server

from donabe.types import Delta, Failed, Finished, FinishReason, ToolCall, Usage

PATH = "/v1/messages"
HI = [{"role": "user", "content": "hi"}]
TOOL = {"name": "add", "description": "adds", "input_schema": {"type": "object"}}
USAGE = Usage(n_prompt_tokens=11, n_cached_tokens=4, n_output_tokens=3)
END = Finished(reason=FinishReason.STOP, usage=USAGE)
USAGE_OBJECT = {
    "input_tokens": 7,
    "output_tokens": 3,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 4,
}


def hello(_request):
    return [Delta(text="Hel"), Delta(text="lo"), END]


@pytest.fixture
def server():
    return make_server(script=hello)


def body(**changes):
    return {"model": "C", "max_tokens": 5, "messages": HI, **changes}


async def stream(server, **changes) -> list:
    response = await server.post(PATH, body(stream=True, **changes))
    assert response.headers["content-type"].startswith("text/event-stream"), response.text
    assert response.headers["cache-control"] == "no-cache"
    events = []
    for block in response.text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        event = msgspec.json.decode(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


async def test_whole_message(server):
    answer = (await server.post(PATH, body())).json()
    assert answer.pop("id").startswith("msg_")
    assert answer == {
        "type": "message",
        "role": "assistant",
        "model": "C",
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": USAGE_OBJECT,
    }
    assert server.runners.last.requests[0].output.max_tokens == 5


async def test_streamed_message(server):
    events = await stream(server)
    assert [event["type"] for event in events] == [
        "message_start",
        "content_block_start",
        "ping",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0]["message"]["content"] == []
    assert events[0]["message"]["usage"]["input_tokens"] >= 1
    assert events[1] == {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    assert [event["delta"] for event in events[3:5]] == [
        {"type": "text_delta", "text": "Hel"},
        {"type": "text_delta", "text": "lo"},
    ]
    assert events[6]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert events[6]["usage"] == USAGE_OBJECT


def thinking_and_calls(_request):
    return [
        Delta(thinking="hm"),
        Delta(thinking="m"),
        Delta(text="Sure"),
        Delta(tool_calls=(ToolCall(name="add", arguments='{"a":1}', id="t1"), ToolCall(name="add", id="t2"))),
        END,
    ]


async def test_blocks_stream_in_order():
    server = make_server(script=thinking_and_calls)
    events = await stream(server, model="T", tools=[TOOL])
    starts = [event["content_block"] for event in events if event["type"] == "content_block_start"]
    assert [start["type"] for start in starts] == ["thinking", "text", "tool_use", "tool_use"]
    assert starts[2] == {"type": "tool_use", "id": "t1", "name": "add", "input": {}}
    assert [event["index"] for event in events if event["type"] == "content_block_start"] == [0, 1, 2, 3]
    assert [event["index"] for event in events if event["type"] == "content_block_stop"] == [0, 1, 2, 3]
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert [d["thinking"] for d in deltas if d["type"] == "thinking_delta"] == ["hm", "m"]
    assert [d["partial_json"] for d in deltas if d["type"] == "input_json_delta"] == ['{"a":1}', "{}"]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


async def test_blocks_of_a_whole_message():
    server = make_server(script=thinking_and_calls)
    answer = (await server.post(PATH, body(model="T", tools=[TOOL]))).json()
    assert answer["content"] == [
        {"type": "thinking", "thinking": "hmm", "signature": ""},
        {"type": "text", "text": "Sure"},
        {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 1}},
        {"type": "tool_use", "id": "t2", "name": "add", "input": {}},
    ]
    assert answer["stop_reason"] == "tool_use"


@pytest.mark.parametrize(
    ("finished", "reason", "sequence"),
    [
        (Finished(reason=FinishReason.LENGTH, usage=USAGE), "max_tokens", None),
        (Finished(reason=FinishReason.STOP, usage=USAGE, stop_sequence="END"), "stop_sequence", "END"),
        (Finished(reason=FinishReason.STOP, usage=USAGE, stop_sequence="<|im_end|>"), "end_turn", None),
    ],
)
async def test_stop_reasons(finished, reason, sequence):
    server = make_server(script=lambda _: [Delta(text="x"), finished])
    answer = (await server.post(PATH, body(stop_sequences=["END"]))).json()
    assert (answer["stop_reason"], answer["stop_sequence"]) == (reason, sequence)
    assert (await stream(server, stop_sequences=["END"]))[-2]["delta"]["stop_reason"] == reason


async def test_error_in_a_stream_is_an_event():
    server = make_server(script=lambda _: [Delta(text="Hel"), Failed(kind="RunnerDiedError", message="signal 9")])
    last = (await stream(server))[-1]
    assert (last["type"], last["error"]) == ("error", {"type": "api_error", "message": "signal 9"})


async def test_conversation_is_converted(server):
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": "calling"},
                {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "and then?"},
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "3"}]},
            ],
        },
    ]
    system = [
        {"type": "text", "text": "x-anthropic-billing-header: cc=1; cch=abc;"},
        {"type": "text", "text": "be brief"},
    ]
    await server.post(PATH, body(model="T", messages=messages, system=system))
    found = server.runners.last.requests[0].messages
    assert [message.role for message in found] == ["system", "user", "assistant", "tool", "user"]
    assert found[0].content == "be brief"
    assert (found[2].thinking, found[2].content) == ("hm", "calling")
    assert found[2].tool_calls[0].arguments == '{"a":1}'
    assert (found[3].content, found[3].tool_name, found[3].tool_call_id) == ("3", "add", "t1")
    assert found[4].content == "and then?"


async def test_system_messages_stay_where_they_are(server):
    messages = [*HI, {"role": "system", "content": "reminder"}, *HI]
    await server.post(PATH, body(messages=messages))
    assert [m.role for m in server.runners.last.requests[0].messages] == ["user", "system", "user"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 1000}}, True),
        ({"thinking": {"type": "disabled"}}, False),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, "low"),
        ({}, True),
    ],
)
async def test_thinking(server, changes, told):
    await server.post(PATH, body(model="T", **changes))
    assert server.runners.last.requests[0].think == told


async def test_thinking_on_a_model_that_can_not_is_left_out_and_reported(server):
    response = await server.post(PATH, body(thinking={"type": "enabled", "budget_tokens": 1000}))
    assert response.status_code == 200
    assert "thinking is left out" in response.headers["warning"]


@pytest.mark.parametrize(
    ("choice", "mode", "name"),
    [
        ({"type": "auto"}, "auto", ""),
        ({"type": "any"}, "required", ""),
        ({"type": "tool", "name": "add"}, "required", "add"),
        ({"type": "none"}, "none", ""),
    ],
)
async def test_tool_choice(server, choice, mode, name):
    await server.post(PATH, body(model="T", tools=[TOOL], tool_choice=choice))
    found = server.runners.last.requests[0].tool_choice
    assert (found.mode, found.name) == (mode, name)


async def test_output_format(server):
    schema = {"type": "object"}
    await server.post(PATH, body(output_config={"format": {"type": "json_schema", "schema": schema}}))
    assert server.runners.last.requests[0].constraint.json_schema == schema


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "model is required"),
        ({"max_tokens": None}, "max_tokens is required and must be positive"),
        ({"max_tokens": 0}, "max_tokens is required and must be positive"),
        ({"messages": []}, "messages is required"),
        ({"messages": [{"role": "user"}]}, "unexpected end of JSON input"),
        (
            {"messages": [{"role": "user", "content": 5}]},
            "json: cannot unmarshal number into Go struct field MessagesRequest.messages of type"
            " []anthropic.ContentBlock",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "x"}}]}]},
            "invalid image source type: url. Only base64 images are supported.",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "name": "f"}]}]},
            "tool_use block missing required 'id' field",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "document", "title": 3, "source": {}}]}]},
            "document block needs a string as its 'title', got number",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "search_result", "source": False, "content": []}]}]},
            "search_result block needs a string as its 'source', got bool",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "text block missing required 'text' field"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, None),
        ({"tool_choice": {"type": "any"}}, "tool_choice any needs tools"),
        ({"tools": [TOOL]}, "registry.ollama.ai/library/C:latest does not support tools"),
        ({"temperature": "hot"}, "temperature must be of type float32"),
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers and container are not supported"),
    ],
)
async def test_refusals(server, changes, message):
    response = await server.post(PATH, body(**changes))
    answer = response.json()
    assert (response.status_code, answer["type"], answer["error"]["type"]) == (400, "error", "invalid_request_error")
    if message is not None:
        assert answer["error"]["message"] == message
    assert answer["request_id"] == response.headers["request-id"]


async def test_unknown_model(server):
    response = await server.post(PATH, body(model="nope"))
    assert (response.status_code, response.json()["error"]["type"]) == (404, "not_found_error")


async def test_count_tokens(server):
    request = {"model": "C", "messages": HI, "system": "s"}
    response = await server.post(PATH + "/count_tokens", request)
    assert response.json() == {"input_tokens": len("[system]s[user]hi")}


async def test_forced_tool_on_a_model_without_tools():
    answer = '{"name": "add", "arguments": {"a": 2}}'
    server = make_server(script=lambda _: [Delta(text=answer), END])
    reply = (await server.post(PATH, body(tools=[TOOL], tool_choice={"type": "tool", "name": "add"}))).json()
    assert reply["content"][0]["input"] == {"a": 2}
    assert reply["stop_reason"] == "tool_use"


@pytest.mark.parametrize("kind", ["tool_use", "tool_result", "thinking"])
async def test_blocks_that_no_result_holds_are_refused(server, kind):
    inner = {"type": kind, "id": "b", "name": "add", "tool_use_id": "b", "thinking": "hm"}
    result = {"type": "tool_result", "tool_use_id": "a", "content": [inner]}
    response = await server.post(PATH, body(messages=[{"role": "user", "content": [result]}]))
    assert response.status_code == 400
    assert kind in response.json()["error"]["message"]


@pytest.mark.parametrize("depth", range(200, 500, 50))
async def test_nesting_of_any_depth_is_no_error_of_the_server(server, depth):
    opening = b'{"type":"search_result","content":['
    content = opening * depth + b'{"type":"text","text":"a"}' + b"]}" * depth
    request = b'{"model":"C","max_tokens":5,"messages":[{"role":"user","content":[' + content + b"]}]}"
    response = await server.client.post(PATH, content=request)
    assert response.status_code == 400  # a search result holds texts only


async def test_all_thinking_of_a_message_is_kept(server):
    blocks = [
        {"type": "thinking", "thinking": "one", "signature": ""},
        {"type": "text", "text": "a"},
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "thinking", "thinking": "two", "signature": ""},
    ]
    await server.post(PATH, body(model="T", messages=[*HI, {"role": "assistant", "content": blocks}, *HI]))
    message = server.runners.last.requests[0].messages[1]
    assert (message.thinking, message.content) == ("one\ntwo", "a")


@pytest.mark.parametrize("in_blocks", [False, True])
@pytest.mark.parametrize(
    ("system", "told"),
    [
        ("x-anthropic-billing-header: cc=1; cch=abc;\nbe brief\nbe kind", ["be brief\nbe kind", "hi"]),
        ("x-anthropic-billing-header: cc=1; cch=abc;", ["hi"]),
        ("say x-anthropic-billing-header: cc=1", ["say x-anthropic-billing-header: cc=1", "hi"]),
    ],
)
async def test_attribution_line_of_the_system_prompt_is_left_out(server, system, told, in_blocks):
    await server.post(PATH, body(system=[{"type": "text", "text": system}] if in_blocks else system))
    assert [message.content for message in server.runners.last.requests[0].messages] == told


async def test_two_output_formats_that_differ_are_refused(server):
    formats = [{"type": "json_schema", "schema": {"type": kind}} for kind in ("object", "array")]
    response = await server.post(PATH, body(output_config={"format": formats[0]}, output_format=formats[1]))
    assert response.status_code == 400
    assert "output_config.format and output_format" in response.json()["error"]["message"]
    same = body(output_config={"format": formats[0]}, output_format=formats[0])
    assert (await server.post(PATH, same)).status_code == 200


PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": encoded(png())}}
TEXT = {"type": "text", "text": "a"}
NOTE = {"type": "text", "data": "a"}
CALL_ID = {"tool_use_id": "t1"}
# Of every type of block there is: a sample, and what is read of it (None: refused by name).
BLOCKS = {
    "text": (TEXT, "a"),
    "image": (PNG, ""),
    "document": (
        {"type": "document", "title": "T", "context": "C", "source": {"type": "text", "data": "a"}},
        "T\nC\na",
    ),
    "search_result": ({"type": "search_result", "title": "T", "source": "S", "content": [TEXT, TEXT]}, "T\nS\naa"),
    "thinking": ({"type": "thinking", "thinking": "hm", "signature": ""}, ""),
    "redacted_thinking": ({"type": "redacted_thinking", "data": "x"}, ""),
    "tool_use": ({"type": "tool_use", "id": "t1", "name": "add", "input": {}}, ""),
    "tool_result": ({"type": "tool_result", **CALL_ID, "content": [TEXT]}, "a"),
    "server_tool_use": ({"type": "server_tool_use", "id": "t1", "name": "web_search", "input": {}}, ""),
    "container_upload": ({"type": "container_upload", "file_id": "f"}, None),
    **{
        f"{name}_tool_result": ({"type": f"{name}_tool_result", **CALL_ID, "content": {"b": [1]}}, '{"b":[1]}')
        for name in (
            *("web_search", "web_fetch", "code_execution", "bash_code_execution", "text_editor_code_execution"),
            "tool_search",
        )
    },
}


def test_every_type_of_block_of_the_client_has_a_sample():
    hints = [typing.get_type_hints(kind)["type"] for kind in typing.get_args(ContentBlockParam)]
    assert {typing.get_args(hint)[0] for hint in hints} == set(BLOCKS)


@pytest.mark.parametrize("kind", BLOCKS)
async def test_every_type_of_block_is_read_or_refused_by_name(kind):
    block, text = BLOCKS[kind]
    vision = make_spec("V:latest", capabilities=("completion", "tools", "thinking", "vision"))
    server = make_server(vision, script=hello)
    role = "assistant" if "use" in kind or "thinking" in kind else "user"
    response = await server.post(PATH, body(model="V", messages=[*HI, {"role": role, "content": [block]}, *HI]))
    if text is None:
        assert (response.status_code, kind in response.json()["error"]["message"]) == (400, True)
        return
    assert response.status_code == 200, response.text
    found = [m for m in server.runners.last.requests[0].messages if m.content != "hi"]
    assert "".join(message.content for message in found) == text
    assert [image for message in found for image in message.images] == ([png()] if kind == "image" else [])
    assert "warning" not in response.headers or kind == "redacted_thinking"


async def test_documents_stand_apart_from_the_text_around_them():
    vision = make_spec("V:latest", capabilities=("completion", "vision"))
    server = make_server(vision, script=hello)
    blocks = [
        {"type": "text", "text": "read"},
        {"type": "document", "title": "T", "source": {"type": "content", "content": [TEXT, PNG, TEXT]}},
        {"type": "document", "source": {"type": "content", "content": "plain"}},
        {"type": "text", "text": "and "},
        {"type": "text", "text": "answer"},
    ]
    await server.post(PATH, body(model="V", messages=[{"role": "user", "content": blocks}]))
    [message] = server.runners.last.requests[0].messages
    assert (message.content, message.images) == ("read\n\nT\naa\n\nplain\n\nand answer", (png(),))


async def test_result_of_a_tool_may_hold_all_that_results_hold(server):
    content = [
        TEXT,
        {"type": "search_result", "title": "T", "source": "S", "content": [TEXT]},
        {"type": "document", "source": {"type": "content", "content": [TEXT]}},
        {"type": "tool_reference", "tool_name": "add"},
    ]
    messages = [{"role": "user", "content": [{"type": "tool_result", **CALL_ID, "content": content}]}]
    assert (await server.post(PATH, body(messages=messages))).status_code == 200
    assert server.runners.last.requests[0].messages[0].content == "a\n\nT\nS\na\n\na\n\nadd"


@pytest.mark.parametrize(
    ("block", "field"),
    [
        ({"type": "document", "source": {"type": "url", "url": "https://x"}}, "text or content source"),
        ({"type": "document", "source": {"type": "text"}}, "text or content source"),
        ({"type": "document", "source": {"type": "content", "content": [BLOCKS["tool_result"][0]]}}, "'tool_result'"),
        ({"type": "document", "title": 5, "source": {"type": "text", "data": "a"}}, "'title'"),
        ({"type": "search_result", "title": "T", "source": "S", "content": [PNG]}, "'image'"),
        ({"type": "search_result", "title": "T", "source": "S"}, "unexpected end"),
        ({"type": "text"}, "'text'"),
        ({"type": "tool_result", **CALL_ID, "content": 5}, "a string or a list"),
        ({"type": "tool_result", **CALL_ID, "content": [{"type": "tool_reference"}]}, "'tool_name'"),
    ],
)
async def test_malformed_blocks_are_refused(server, block, field):
    response = await server.post(PATH, body(messages=[{"role": "user", "content": [block]}]))
    assert (response.status_code, field in response.json()["error"]["message"]) == (400, True), response.text


async def test_one_ping_follows_the_start_of_the_first_block():
    server = make_server(script=thinking_and_calls)
    names = [event["type"] for event in await stream(server, model="T", tools=[TOOL])]
    assert names[:3] == ["message_start", "content_block_start", "ping"]
    assert names.count("ping") == 1
