"""The Responses dialect over scripted runners: whole and streamed, tools, stored conversations."""

from __future__ import annotations

import msgspec
import pytest
from tests.fakes.server import make_server
from tests.fakes.settings import FakeSettings

from donabe.types import Delta, Failed, Finished, FinishReason, TokenLogprob, ToolCall, Usage

PATH = "/v1/responses"
TOOL = {"type": "function", "name": "add", "parameters": {"type": "object"}}
USAGE = Usage(n_prompt_tokens=11, n_cached_tokens=4, n_output_tokens=3, n_thinking_tokens=1)
END = Finished(reason=FinishReason.STOP, usage=USAGE)


def hello(_request):
    return [Delta(text="Hel"), Delta(text="lo"), END]


def everything(_request):
    return [
        Delta(thinking="hmm"),
        Delta(text="Sure"),
        Delta(tool_calls=(ToolCall(name="add", arguments='{"a":1}', id="call_1"),)),
        END,
    ]


@pytest.fixture
def make(tmp_path):
    def make(script=hello, **settings):
        return make_server(script=script, settings=FakeSettings(home=tmp_path, **settings))

    return make


async def stream(server, body) -> list:
    response = await server.post(PATH, {**body, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream"), response.text
    events = []
    for block in response.text.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        event = msgspec.json.decode(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


async def test_whole_response(make):
    answer = (await make().post(PATH, {"model": "C", "input": "hi"})).json()
    assert answer["id"].startswith("resp_")
    assert (answer["object"], answer["status"], answer["error"]) == ("response", "completed", None)
    [message] = answer["output"]
    assert message["content"] == [{"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}]
    assert answer["usage"] == {
        "input_tokens": 11,
        "output_tokens": 3,
        "total_tokens": 14,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens_details": {"reasoning_tokens": 1},
    }
    assert set(answer) >= {
        "created_at", "completed_at", "incomplete_details", "model", "previous_response_id", "instructions", "tools",
        "tool_choice", "truncation", "parallel_tool_calls", "text", "top_p", "presence_penalty", "frequency_penalty",
        "top_logprobs", "temperature", "reasoning", "max_output_tokens", "max_tool_calls", "store", "background",
        "service_tier", "metadata", "safety_identifier", "prompt_cache_key",
    }  # fmt: skip


async def test_streamed_response(make):
    events = await stream(make(), {"model": "C", "input": "hi"})
    assert [event["type"] for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event["delta"] for event in events if "delta" in event] == ["Hel", "lo"]
    final = events[-1]["response"]
    assert final["output"][0]["content"][0]["text"] == "Hello"
    assert final["output"][0] == events[-2]["item"]


async def test_reasoning_text_and_calls_in_order(make):
    body = {"model": "T", "input": "hi", "tools": [TOOL]}
    whole = (await make(everything).post(PATH, body)).json()
    assert [item["type"] for item in whole["output"]] == ["reasoning", "message", "function_call"]
    assert whole["output"][2] | {"id": ""} == {
        "id": "",
        "type": "function_call",
        "status": "completed",
        "call_id": "call_1",
        "name": "add",
        "arguments": '{"a":1}',
    }
    events = await stream(make(everything), body)
    added = [(e["output_index"], e["item"]["type"]) for e in events if e["type"] == "response.output_item.added"]
    assert added == [(0, "reasoning"), (1, "message"), (2, "function_call")]
    [done] = [e for e in events if e["type"] == "response.function_call_arguments.done"]
    assert done["arguments"] == '{"a":1}'
    assert [i["type"] for i in events[-1]["response"]["output"]] == ["reasoning", "message", "function_call"]


def entry(token: str) -> TokenLogprob:
    return TokenLogprob(token=token, token_id=1, logprob=-0.5)


async def test_log_probabilities_of_thinking_open_no_message(make):
    """Those of text that was held back come with it; those of thinking have no place."""
    script = [
        Delta(logprobs=(entry("<th"),)),
        Delta(thinking="hm", logprobs=(entry("hm"),)),
        Delta(thinking="m", logprobs=(entry("m"),)),
        Delta(logprobs=(entry("H"),)),
        Delta(text="Hi", logprobs=(entry("i"),)),
        Delta(logprobs=(entry("<end>"),)),
        END,
    ]
    body = {"model": "T", "input": "hi", "top_logprobs": 1}
    whole = (await make(lambda _: script).post(PATH, body)).json()["output"]
    events = await stream(make(lambda _: script), body)
    for output in (whole, events[-1]["response"]["output"]):
        assert [item["type"] for item in output] == ["reasoning", "message"]
        assert [e["token"] for e in output[1]["content"][0]["logprobs"]] == ["H", "i", "<end>"]


async def test_blocks_in_turn_are_the_same_whole_and_streamed(make):
    call = ToolCall(name="add", arguments="{}", id="call_1")
    script = [Delta(text="a"), Delta(thinking="b"), Delta(text="c"), Delta(tool_calls=(call,)), Delta(text="d"), END]
    body = {"model": "T", "input": "hi", "tools": [TOOL]}
    whole = (await make(lambda _: script).post(PATH, body)).json()["output"]
    streamed = (await stream(make(lambda _: script), body))[-1]["response"]["output"]
    assert [item | {"id": ""} for item in whole] == [item | {"id": ""} for item in streamed]
    assert [item["type"] for item in whole] == ["message", "reasoning", "message", "function_call", "message"]


async def test_length_is_incomplete(make):
    server = make(lambda _: [Delta(text="x"), Finished(reason=FinishReason.LENGTH, usage=USAGE)])
    answer = (await server.post(PATH, {"model": "C", "input": "hi", "max_output_tokens": 1})).json()
    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert answer["output"][0]["status"] == "incomplete"
    last = (await stream(server, {"model": "C", "input": "hi"}))[-1]
    assert (last["type"], last["response"]["output"][0]["status"]) == ("response.incomplete", "incomplete")


async def test_failure_in_a_stream_is_an_event(make):
    server = make(lambda _: [Delta(text="x"), Failed(kind="RunnerDiedError", message="signal 9")])
    last = (await stream(server, {"model": "C", "input": "hi"}))[-1]
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert last["response"]["error"] == {"code": "server_error", "message": "signal 9"}


async def test_conversation_continues_from_a_stored_response(make):
    server = make(everything)
    first = (
        await server.post(PATH, {"model": "T", "input": "one", "instructions": "be brief", "tools": [TOOL]})
    ).json()
    output = {"type": "function_call_output", "call_id": "call_1", "output": "3"}
    body = {"model": "T", "input": [output, {"role": "user", "content": "two"}], "previous_response_id": first["id"]}
    second = (await server.post(PATH, body)).json()
    assert second["previous_response_id"] == first["id"]
    user, assistant, result, again = server.runners.last.requests[1].messages
    assert (user.content, again.content) == ("one", "two")  # the instructions of before do not carry over
    assert (assistant.thinking, assistant.content) == ("hmm", "Sure")
    assert assistant.tool_calls[0].id == "call_1"
    assert (result.role, result.tool_name, result.content) == ("tool", "add", "3")


async def test_stored_response_outlives_the_server_and_can_be_deleted(make):
    first = (await make().post(PATH, {"model": "C", "input": "hi"})).json()
    server = make()
    assert (await server.client.get(f"{PATH}/{first['id']}")).json() == first
    items = (await server.client.get(f"{PATH}/{first['id']}/input_items")).json()
    assert items["data"][0]["content"] == [{"type": "input_text", "text": "hi"}]
    assert (await server.client.delete(f"{PATH}/{first['id']}")).json()["deleted"]
    assert (await server.client.get(f"{PATH}/{first['id']}")).status_code == 404


async def test_input_items_come_in_pages(make):
    server = make()
    items = [{"role": "user", "content": f"{i}"} for i in range(5)]
    id = (await server.post(PATH, {"model": "C", "input": items})).json()["id"]

    async def page(**query) -> dict:
        response = await server.client.get(f"{PATH}/{id}/input_items", params=query)
        assert response.status_code == 200, response.text
        return response.json()

    def texts(page) -> list[str]:
        return [item["content"][0]["text"] for item in page["data"]]

    assert texts(await page()) == ["4", "3", "2", "1", "0"]
    first = await page(order="asc", limit=2)
    assert (texts(first), first["has_more"], first["last_id"]) == (["0", "1"], True, first["data"][1]["id"])
    rest = await page(order="asc", limit=3, after=first["last_id"])
    assert (texts(rest), rest["has_more"]) == (["2", "3", "4"], False)


@pytest.mark.parametrize(
    "query",
    [{"order": "up"}, {"after": "no"}, *({"limit": limit} for limit in ("0", "101", "x", "0000000010", "1" * 5000))],
)
async def test_bad_pages_of_input_items_are_refused(make, query):
    server = make()
    id = (await server.post(PATH, {"model": "C", "input": "hi"})).json()["id"]
    response = await server.client.get(f"{PATH}/{id}/input_items", params=query)
    assert (response.status_code, response.json()["error"]["param"]) == (400, next(iter(query)))


async def test_streamed_response_is_stored_before_its_end_is_seen(make):
    server = make()
    final = (await stream(server, {"model": "C", "input": "hi"}))[-1]["response"]
    assert (await server.client.get(f"{PATH}/{final['id']}")).json() == final


async def test_unstored_response_can_not_be_continued(make):
    server = make()
    first = (await server.post(PATH, {"model": "C", "input": "hi", "store": False})).json()
    response = await server.post(PATH, {"model": "C", "input": "x", "previous_response_id": first["id"]})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "previous_response_id")


async def test_responses_belong_to_their_key(make):
    server = make(api_keys=("one", "two"))
    mine, other = ({"authorization": f"Bearer {key}"} for key in ("one", "two"))
    first = (await server.post(PATH, {"model": "C", "input": "hi"}, headers=mine)).json()
    assert (await server.client.get(f"{PATH}/{first['id']}", headers=mine)).status_code == 200
    assert (await server.client.get(f"{PATH}/{first['id']}", headers=other)).status_code == 404


async def test_input_tokens_count_the_whole_conversation(make):
    server = make()
    first = (await server.post(PATH, {"model": "T", "input": "one"})).json()
    body = {
        "model": "T",
        "input": "two",
        "instructions": "be brief",
        "previous_response_id": first["id"],
        "tools": [TOOL],
    }
    counted = await server.post(f"{PATH}/input_tokens", body)
    assert counted.status_code == 200, counted.text
    prompt = "[system]be brief[user]one[assistant]Hello[user]two"  # a token for every character
    assert counted.json() == {"object": "response.input_tokens", "input_tokens": len(prompt)}


async def test_input_tokens_of_tools_forced_on_a_model_without_them(make):
    """What is counted is what would run: the tools are in the system prompt."""
    server = make()
    body = {"model": "C", "input": "hi", "tools": [TOOL], "tool_choice": "required"}
    counted = (await server.post(f"{PATH}/input_tokens", body)).json()["input_tokens"]
    await server.post(PATH, body)
    told = server.runners.last.requests[0].messages[0].content
    assert "add" in told
    assert counted == len(f"[system]{told}[user]hi")


@pytest.mark.parametrize(
    ("body", "status"),
    [({"model": "C"}, 400), ({"input": "hi"}, 400), ({"model": "nope", "input": "hi"}, 404),
     ({"model": "C", "input": "hi", "tools": [TOOL]}, 400)],
)  # fmt: skip
async def test_what_can_not_run_is_not_counted(make, body, status):
    counted = await make().post(f"{PATH}/input_tokens", body)
    made = await make().post(PATH, body)
    assert (counted.status_code, counted.json()) == (status, made.json())


async def test_cancel_and_streaming_of_a_stored_response_are_refused(make):
    server = make()
    first = (await server.post(PATH, {"model": "C", "input": "hi"})).json()
    refused = await server.client.post(f"{PATH}/{first['id']}/cancel")
    assert (refused.status_code, "background" in refused.json()["error"]["message"]) == (400, True)
    refused = await server.client.get(f"{PATH}/{first['id']}", params={"stream": "true"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "stream")
    assert (await server.client.post(f"{PATH}/resp_nope/cancel")).status_code == 404


async def test_tools_of_other_kinds(make):
    tools = [
        {"type": "web_search"},
        {"type": "namespace", "name": "ns", "tools": [TOOL]},
        {"type": "custom", "name": "patch", "description": "applies a patch"},
    ]
    server = make(lambda _: [Delta(tool_calls=(ToolCall(name="patch", arguments='{"input":"*** p"}', id="c"),)), END])
    response = await server.post(PATH, {"model": "T", "input": "hi", "tools": tools})
    assert "web_search tool is left out" in response.headers["warning"]
    assert [tool.name for tool in server.runners.last.requests[0].tools] == ["ns.add", "patch"]
    [call] = response.json()["output"]
    assert (call["type"], call["input"]) == ("custom_tool_call", "*** p")


async def test_parameters_reach_the_runner(make):
    server = make()
    schema = {"type": "json_schema", "name": "n", "schema": {"type": "object"}}
    body = {"model": "T", "input": "hi", "text": {"format": schema}, "reasoning": {"effort": "low"}, "temperature": 0.2}
    answer = (await server.post(PATH, body)).json()
    assert (answer["text"]["format"], answer["temperature"]) == (schema, 0.2)
    request = server.runners.last.requests[0]
    assert (request.constraint.json_schema, request.think, request.sampling.temperature) == (
        {"type": "object"},
        "low",
        0.2,
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": [{"type": "zzz"}]}, 'input[0]: unknown input item type: "zzz"'),
        ({"input": [{}]}, "input[0]: input item missing required 'type' field"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file"}]}]},
            "input[0]: file inputs are not currently supported",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "q"}]}]},
            "input[0]: content[0]: unknown content type: q",
        ),
        ({"input": 5}, "input must be a string or array"),
        ({"input": None}, "input is required"),
        ({"background": True}, "background is not supported"),
        ({"conversation": "c"}, "conversation is not supported"),
        ({"tools": [{"type": "code_interpreter"}]}, "tools of type 'code_interpreter' are not supported"),
        ({"truncation": "some"}, "truncation must be auto or disabled"),
        ({"max_output_tokens": "many"}, "max_output_tokens must be of type integer"),
        ({"model": None}, "model is required"),
    ],
)
async def test_refusals(make, changes, message):
    response = await make().post(PATH, {"model": "T", "input": "hi", **changes})
    assert (response.status_code, response.json()["error"]["message"]) == (400, message)


async def test_all_reasoning_before_a_text_is_kept(make):
    server = make()
    items = [{"type": "reasoning", "summary": [], "encrypted_content": text} for text in ("one", "two")]
    answer = {"role": "assistant", "content": "a"}
    await server.post("/v1/responses", {"model": "T", "input": [*items, answer, {"role": "user", "content": "b"}]})
    message = server.runners.last.requests[0].messages[0]
    assert (message.role, message.thinking, message.content) == ("assistant", "one\ntwo", "a")
