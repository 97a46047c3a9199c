"""Whatever a model writes, in whatever pieces: a streamed answer put together is the whole answer, in every dialect."""

from __future__ import annotations

import asyncio
import json
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.server import make_server
from tests.fakes.settings import FakeSettings

from donabe.types import Delta, Finished, FinishReason, TokenLogprob, ToolCall, Usage

HI = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": SCHEMA}}

TEXT = st.text(max_size=6)
LOGPROB = st.builds(
    TokenLogprob, token=TEXT, token_id=st.integers(0, 9), logprob=st.floats(-9, 0), bytes_=st.binary(max_size=3)
)
CALL = st.builds(
    ToolCall,
    name=st.just("add"),
    id=st.text("abc123", min_size=1, max_size=4).map("call_".__add__),
    arguments=st.dictionaries(TEXT, TEXT, max_size=2).map(json.dumps),
)
DELTA = st.builds(
    Delta,
    text=TEXT,
    thinking=st.one_of(st.just(""), TEXT),
    tool_calls=st.one_of(st.just(()), st.tuples(CALL)),
    logprobs=st.lists(LOGPROB, max_size=2).map(tuple),
)
END = st.builds(
    Finished,
    reason=st.sampled_from([FinishReason.STOP, FinishReason.LENGTH]),
    usage=st.just(Usage(n_prompt_tokens=11, n_cached_tokens=4, n_output_tokens=3, n_thinking_tokens=1)),
)
ANSWER = st.tuples(st.lists(DELTA, max_size=8), END)


def ask(path: str, body: dict[str, Any], answer: tuple[list[Delta], Finished]) -> tuple[Any, str]:
    """(the whole reply, the streamed one's text)."""

    async def both() -> tuple[Any, str]:
        with TemporaryDirectory() as home:
            server = make_server(script=lambda _: [*answer[0], answer[1]], settings=FakeSettings(home=Path(home)))
            whole = await server.post(path, {"model": "T", **body, "stream": False})
            streamed = await server.post(path, {"model": "T", **body, "stream": True})
            assert (whole.status_code, streamed.status_code) == (200, 200), whole.text + streamed.text
            return whole.json(), streamed.content.decode()

    return asyncio.run(both())


def lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.split("\n") if line]


def events(text: str) -> list[Any]:
    found = [block.rpartition("data: ")[2] for block in text.split("\n\n") if block]
    return [json.loads(data) for data in found if data != "[DONE]"]


def drop(value: Any, *names: str) -> Any:
    """The value without members of these names, at any depth."""
    if isinstance(value, dict):
        return {key: drop(item, *names) for key, item in value.items() if key not in names}
    return [drop(item, *names) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
@settings(max_examples=15, deadline=None)
@given(answer=ANSWER)
def test_native(path, answer):
    is_chat = path == "/api/chat"
    body = {"messages": HI, "tools": [TOOL]} if is_chat else {"prompt": "hi"}
    whole, text = ask(path, body, answer)
    *parts, final = lines(text)
    built = drop(final, "message", "response")
    messages = [part["message"] if is_chat else part for part in parts]
    content = "content" if is_chat else "response"
    message = {content: "".join(m[content] for m in messages)}
    for key in ("thinking", "tool_calls"):
        pieces = [m[key] for m in messages if key in m]
        if pieces:
            message[key] = "".join(pieces) if key == "thinking" else list(chain(*pieces))
    if logprobs := list(chain(*(part.get("logprobs", []) for part in parts))):
        built["logprobs"] = logprobs
    built |= {"message": {"role": "assistant", **message}} if is_chat else message
    times = ("created_at", "total_duration", "load_duration")
    assert drop(built, *times) == drop(whole, *times)
    assert message[content] == "".join(delta.text for delta in answer[0])
    assert message.get("thinking", "") == "".join(delta.thinking for delta in answer[0])


@settings(max_examples=15, deadline=None)
@given(answer=ANSWER)
def test_chat_completions(answer):
    body = {"messages": HI, "tools": [TOOL], "logprobs": True, "stream_options": {"include_usage": True}}
    whole, text = ask("/v1/chat/completions", body, answer)
    *chunks, last = events(text)
    assert last["usage"] == whole["usage"]
    [expected] = whole["choices"]
    choices = [chunk["choices"][0] for chunk in chunks]
    message: dict[str, Any] = {"role": choices[0]["delta"]["role"], "content": ""}
    for delta in (choice["delta"] for choice in choices):
        for key in ("content", "reasoning", "reasoning_content", "tool_calls"):
            if delta.get(key):
                message[key] = (message[key] + delta[key]) if message.get(key) else delta[key]
    assert message == expected["message"]
    assert choices[-1]["finish_reason"] == expected["finish_reason"]
    logprobs = list(chain(*(choice["logprobs"]["content"] for choice in choices if choice.get("logprobs"))))
    assert logprobs == expected["logprobs"]["content"]


@settings(max_examples=15, deadline=None)
@given(answer=ANSWER, echo=st.booleans())
def test_completions(answer, echo):
    body = {"prompt": "hi", "logprobs": 1, "echo": echo, "stream_options": {"include_usage": True}}
    whole, text = ask("/v1/completions", body, answer)
    *chunks, last = events(text)
    assert last["usage"] == whole["usage"]
    [expected] = whole["choices"]
    choices = [chunk["choices"][0] for chunk in chunks]
    for key in ("text", "reasoning"):
        assert "".join(choice.get(key, "") for choice in choices) == expected.get(key, "")
    for key, values in expected["logprobs"].items():
        assert list(chain(*(choice["logprobs"][key] for choice in choices if choice.get("logprobs")))) == values
    assert choices[-1]["finish_reason"] == expected["finish_reason"]


@settings(max_examples=15, deadline=None)
@given(answer=ANSWER)
def test_responses(answer):
    tool = {"type": "function", **TOOL["function"]}
    body = {"input": "hi", "tools": [tool], "top_logprobs": 1}
    whole, text = ask("/v1/responses", body, answer)
    found = events(text)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    final = found[-1]["response"]
    varying = ("id", "created_at", "completed_at")
    assert drop(final, *varying) == drop(whole, *varying)
    done = [event["item"] for event in found if event["type"] == "response.output_item.done"]
    assert done == final["output"]
    for index, item in enumerate(final["output"]):  # the deltas of an item are its text
        pieces = [e["delta"] for e in found if "delta" in e and e["output_index"] == index]
        written = {"message": lambda i: i["content"][0]["text"], "reasoning": lambda i: i["summary"][0]["text"]}
        assert "".join(pieces) == written.get(item["type"], lambda i: i["arguments"])(item)


@settings(max_examples=15, deadline=None)
@given(answer=ANSWER)
def test_messages(answer):
    body = {"messages": HI, "max_tokens": 9, "tools": [{"name": "add", "input_schema": SCHEMA}]}
    whole, text = ask("/v1/messages", body, answer)
    content: list[Any] = []
    written: dict[int, str] = {}
    for event in events(text):
        if event["type"] == "content_block_start":
            assert event["index"] == len(content)
            content.append(event["content_block"])
        elif event["type"] == "content_block_delta":
            kind, piece = (value for value in event["delta"].values())
            assert kind.endswith("_delta")
            written[event["index"]] = written.get(event["index"], "") + piece
        elif event["type"] == "message_delta":
            ending = event
    for index, block in enumerate(content):
        key = "input" if block["type"] == "tool_use" else block["type"]
        block[key] = json.loads(written[index]) if key == "input" else written[index]
    assert content == whole["content"]
    assert ending["delta"] == {"stop_reason": whole["stop_reason"], "stop_sequence": whole["stop_sequence"]}
    assert ending["usage"] == whole["usage"]
