"""Keys inside the parts of messages that nothing looks at are reported; what clients send back is not."""

from __future__ import annotations

import msgspec
import pytest
from tests.fakes.images import encoded, png

from donabe.api.anthropic_requests import decode_messages_request
from donabe.api.openai_requests import decode_chat_completion
from donabe.api.responses_requests import decode_responses
from donabe.errors import InvalidRequestError

IMAGE = "data:image/png;base64," + encoded(png())
CACHED = {"cache_control": {"type": "ephemeral"}}


def chat(*parts):
    body = {"model": "C", "messages": [{"role": "user", "content": list(parts)}]}
    return decode_chat_completion(msgspec.json.encode(body)).warnings


def messages(*blocks, **fields):
    body = {"model": "C", "max_tokens": 1, "messages": [{"role": "user", "content": list(blocks)}], **fields}
    return decode_messages_request(msgspec.json.encode(body)).warnings


def responses(*items, **fields):
    return decode_responses(msgspec.json.encode({"model": "C", "input": list(items), **fields})).warnings


def test_parts_of_chat_completions():
    assert chat({"type": "text", "text": "a", "x": 1, "y": None}) == ("unknown field messages.content.x",)
    image = {"type": "image_url", "image_url": {"url": IMAGE, "detail": "low", "size": 1}}
    assert chat(image) == ("unknown field messages.content.image_url.size",)
    audio = {"type": "input_audio", "input_audio": {"data": encoded(b"ID3"), "format": "mp3"}}
    assert chat({"type": "text", "text": "a", **CACHED}, {"type": "image_url", "image_url": IMAGE}, audio) == ()


def test_blocks_of_messages():
    text = {"type": "text", "text": "a", **CACHED}
    source = {"type": "base64", "media_type": "image/png", "data": encoded(png())}
    assert messages(
        {**text, "x": 1},
        {"type": "image", "source": {**source, "y": 1}},
        {"type": "tool_result", "tool_use_id": "t", "content": [{**text, "z": 1}]},
        system=[{**text, "s": 1}],
    ) == (
        "unknown field messages.content.x",
        "unknown field messages.content.source.y",
        "unknown field messages.content.content.z",
        "unknown field system.s",
    )
    assert messages(
        {**text, "citations": None},
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "tool_use", "id": "t", "name": "n", "input": {"any": 1}, **CACHED},
        {"type": "tool_result", "tool_use_id": "t", "content": "a", "is_error": False, **CACHED},
        {"type": "image", "source": source},
        {"type": "document", "title": "t", "source": {"type": "text", "media_type": "text/plain", "data": "a"}},
        {"type": "search_result", "title": "t", "source": "s", "content": [text]},
        system=[text],
    ) == ()  # fmt: skip


def test_what_a_document_asks_for_and_does_not_get_is_reported():
    document = {"type": "document", "source": {"type": "text", "data": "a"}, "citations": {"enabled": True}}
    note = "messages.content.citations has no effect: answers cite nothing"
    assert messages(document) == (note,)
    assert messages({**document, "citations": {"enabled": False}}) == ()
    assert messages({"type": "text", "text": "a", "citations": [{"type": "char_location"}]}) == (note,)
    inside = {"type": "tool_result", "tool_use_id": "t", "content": [document]}
    assert messages(inside) == ("messages.content.content.citations has no effect: answers cite nothing",)


def test_blocks_inside_documents_and_search_results_are_looked_at():
    text = {"type": "text", "text": "a", "x": 1}
    document = {"type": "document", "source": {"type": "content", "content": [text]}, "context": "c", "y": 1}
    assert messages(document, {"type": "search_result", "title": "t", "source": "s", "content": [text]}) == (
        "unknown field messages.content.y",
        "unknown field messages.content.source.content.x",
        "unknown field messages.content.content.x",
    )


def test_items_of_responses():
    part = {"type": "input_text", "text": "a"}
    assert responses(
        {"role": "user", "content": [{**part, "x": 1}, {"type": "input_image", "file_id": "f"}], "y": 1},
        {"type": "function_call_output", "call_id": "c", "output": [{**part, "z": 1}]},
        reasoning={"effort": "low", "summary": "auto", "r": 1},
    ) == (
        "unknown field input.y",
        "unknown field input.content.x",
        "unknown field input.content.file_id",
        "unknown field input.output.z",
        "unknown field reasoning.r",
    )
    output = {"type": "output_text", "text": "a", "annotations": [], "logprobs": []}
    assert responses(
        {"type": "message", "id": "m", "status": "completed", "role": "assistant", "content": [output]},
        {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "a"}], "encrypted_content": "a"},
        {"type": "function_call", "id": "f", "call_id": "c", "name": "n", "arguments": "{}", "status": "completed"},
        {"type": "web_search_call", "id": "w", "action": {}},
    ) == ()  # fmt: skip


@pytest.mark.parametrize("item", [{"type": ["message"]}, {"type": {"a": 1}}, {"type": 5}])
def test_type_of_an_item_that_is_no_string_is_refused(item):
    with pytest.raises(InvalidRequestError, match=r"input\[0\]: an item's type must be a string"):
        responses(item)


@pytest.mark.parametrize("reasoning", ["high", 1, []])
def test_reasoning_that_is_no_object_is_refused(reasoning):
    with pytest.raises(InvalidRequestError, match=r"ResponsesRequest\.reasoning"):
        responses(reasoning=reasoning)


@pytest.mark.parametrize("content", [5, {"a": 1}, ["x"], True])
def test_content_that_is_no_list_of_parts_is_left_to_the_reader(content):
    assert responses({"role": "user", "content": content, "output": content}) == ()


NAMED = {"type": "function", "function": {"name": "f"}}


def completion(**fields):
    body = {"model": "C", "messages": [{"role": "user", "content": "hi"}], "tools": [NAMED], **fields}
    return decode_chat_completion(msgspec.json.encode(body)).warnings


def test_formats_and_choices_of_chat_completions():
    schema = {"name": "n", "description": "d", "strict": True, "schema": {"any": 1}}
    assert completion(response_format={"type": "json_schema", "json_schema": schema}, tool_choice=NAMED) == ()
    assert completion(response_format={"type": "json_schema", "json_schema": {**schema, "x": 1}, "y": 1}) == (
        "unknown field response_format.y",
        "unknown field response_format.json_schema.x",
    )
    assert completion(tool_choice={"type": "function", "x": 1, "function": {"name": "f", "y": 1}}) == (
        "unknown field tool_choice.x",
        "unknown field tool_choice.function.y",
    )


def test_formats_and_choices_of_responses():
    tools, choice = [{"type": "function", "name": "f"}], {"type": "function", "name": "f"}
    form = {"type": "json_schema", "name": "n", "description": "d", "strict": True, "schema": {"any": 1}}
    assert responses({"role": "user", "content": "a"}, tools=tools, tool_choice=choice, text={"format": form}) == ()
    assert responses(
        {"role": "user", "content": "a"},
        tools=tools,
        tool_choice={**choice, "x": 1},
        text={"format": {**form, "y": 1}},
    ) == ("unknown field tool_choice.x", "unknown field text.format.y")


def test_formats_of_messages():
    text, form = {"type": "text", "text": "a"}, {"type": "json_schema", "schema": {"any": 1}}
    assert messages(text, output_config={"format": form}) == messages(text, output_format=form) == ()
    assert messages(text, output_config={"format": {**form, "x": 1}}) == ("unknown field output_config.format.x",)
    assert messages(text, output_format={**form, "x": 1}) == ("unknown field output_format.x",)
