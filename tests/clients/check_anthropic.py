"""The `anthropic` Python SDK."""

from typing import Literal

import anthropic
from features import CHAT, PARAMETERS, QUESTION, TOOLS, URL, check, check_call, check_object, feature, png, run
from pydantic import BaseModel, ConfigDict

client = anthropic.Anthropic(base_url=URL, api_key="unused", timeout=300, max_retries=0)
HI = [{"role": "user", "content": QUESTION}]
TOOL = [{"name": "add", "input_schema": PARAMETERS}]
COLD = {"extra_body": {"temperature": 0}}
THINKING = {"type": "enabled", "budget_tokens": 1024}


class Thing(BaseModel):
    model_config = ConfigDict(extra="forbid")
    a: Literal[1, 2, 3]  # this client leaves the bounds of numbers out of the schema


def calls(message):
    return [block for block in message.content if block.type == "tool_use"]


@feature("chat")
def _():
    check(client.messages.create(model=CHAT, max_tokens=24, messages=HI).content[0].text)


@feature("chat, streamed")
def _():
    with client.messages.stream(model=CHAT, max_tokens=24, messages=HI) as stream:
        check("".join(stream.text_stream) and stream.get_final_message().usage.output_tokens)


@feature("chat, async")
async def _():
    async with anthropic.AsyncAnthropic(base_url=URL, api_key="unused") as other:
        check((await other.messages.create(model=CHAT, max_tokens=24, messages=HI)).content)


@feature("structured output")
def _():
    config = {"format": {"type": "json_schema", "schema": PARAMETERS}}
    message = client.messages.create(model=CHAT, max_tokens=24, messages=HI, output_config=config, **COLD)
    check_object(message.content[0].text)


@feature("structured output, parsed")
def _():
    message = client.messages.parse(model=CHAT, max_tokens=24, messages=HI, output_format=Thing, **COLD)
    check(isinstance(message.parsed_output, Thing), message)


@feature("tools")
def _():
    message = client.messages.create(model=TOOLS, max_tokens=64, messages=HI, tools=TOOL, **COLD)
    [call] = calls(message)
    check_call(call.name, call.input)
    check(message.stop_reason == "tool_use")
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "4"}
    turns = [*HI, {"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    check(client.messages.create(model=TOOLS, max_tokens=8, messages=turns, tools=TOOL, **COLD).stop_reason)


@feature("tools, streamed")
def _():
    with client.messages.stream(model=TOOLS, max_tokens=64, messages=HI, tools=TOOL, **COLD) as stream:
        [call] = calls(stream.get_final_message())
    check_call(call.name, call.input)


@feature("forced tool call")
def _():
    for choice in ({"type": "any"}, {"type": "tool", "name": "add"}):
        message = client.messages.create(model=CHAT, max_tokens=64, messages=HI, tools=TOOL, tool_choice=choice, **COLD)
        [call] = calls(message)
        check_call(call.name, call.input)


@feature("thinking")
def _():
    message = client.messages.create(model=TOOLS, max_tokens=1100, messages=HI, thinking=THINKING)
    check(message.content[0].type == "thinking" and message.content[0].thinking, message)


@feature("thinking, streamed")
def _():
    with client.messages.stream(model=TOOLS, max_tokens=1100, messages=HI, thinking=THINKING) as stream:
        check([event for event in stream if event.type == "thinking"])


@feature("images, refused")
def _():
    source = {"type": "base64", "media_type": "image/png", "data": png()}
    blocks = [{"type": "image", "source": source}, {"type": "text", "text": QUESTION}]
    try:
        client.messages.create(model=CHAT, max_tokens=24, messages=[{"role": "user", "content": blocks}])
    except anthropic.BadRequestError as error:
        check("image" in str(error), error)
    else:
        check(False, "an image was taken")


@feature("count tokens")
def _():
    check(client.messages.count_tokens(model=CHAT, messages=HI).input_tokens)


@feature("list models")
def _():
    check(list(client.models.list()) and client.models.retrieve(CHAT))


run()
