"""The `anthropic` Python SDK."""

import anthropic
from features import CHAT, QUESTION, TOOLS, URL, check, feature, run

client = anthropic.Anthropic(base_url=URL, api_key="unused", timeout=300, max_retries=0)
HI = [{"role": "user", "content": QUESTION}]
TOOL = [
    {"name": "add", "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}
]


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


@feature("tools", "tools")
def _():
    message = client.messages.create(model=TOOLS, max_tokens=64, messages=HI, tools=TOOL)
    check([block for block in message.content if block.type == "tool_use"])


@feature("tools, streamed", "tools")
def _():
    with client.messages.stream(model=TOOLS, max_tokens=64, messages=HI, tools=TOOL) as stream:
        check([block for block in stream.get_final_message().content if block.type == "tool_use"])


@feature("forced tool call")
def _():
    message = client.messages.create(
        model=CHAT, max_tokens=64, messages=HI, tools=TOOL, tool_choice={"type": "any"}, extra_body={"temperature": 0}
    )
    check(message.content[0].input)


@feature("thinking", "tools")
def _():
    thinking = {"type": "enabled", "budget_tokens": 1024}
    message = client.messages.create(model=TOOLS, max_tokens=2000, messages=HI, thinking=thinking)
    check(message.content[0].type == "thinking")


@feature("count tokens")
def _():
    check(client.messages.count_tokens(model=CHAT, messages=HI).input_tokens)


run()
