"""The `openai` Python SDK."""

import json

import openai
from features import CHAT, EMBED, QUESTION, TOOLS, URL, check, feature, run

client = openai.OpenAI(base_url=f"{URL}/v1", api_key="unused", timeout=300, max_retries=0)
HI = [{"role": "user", "content": QUESTION}]
COLD = {"temperature": 0, "max_tokens": 24}
PARAMETERS = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["a"],
}
FUNCTION = [{"type": "function", "function": {"name": "add", "parameters": PARAMETERS}}]


@feature("chat")
def _():
    check(client.chat.completions.create(model=CHAT, messages=HI, **COLD).choices[0].message.content)


@feature("chat, streamed")
def _():
    options = {"include_usage": True}
    chunks = list(client.chat.completions.create(model=CHAT, messages=HI, stream=True, stream_options=options, **COLD))
    check("".join(c.choices[0].delta.content or "" for c in chunks if c.choices) and chunks[-1].usage)


@feature("chat, async")
async def _():
    async with openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="unused") as other:
        check((await other.chat.completions.create(model=CHAT, messages=HI, **COLD)).choices)


@feature("structured output")
def _():
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": PARAMETERS}}
    answer = client.chat.completions.create(model=CHAT, messages=HI, response_format=schema, **COLD)
    check(isinstance(json.loads(answer.choices[0].message.content)["a"], int))


@feature("log probabilities")
def _():
    answer = client.chat.completions.create(model=CHAT, messages=HI, logprobs=True, top_logprobs=2, **COLD)
    check(answer.choices[0].logprobs.content)


@feature("several choices")
def _():
    check(len(client.chat.completions.create(model=CHAT, messages=HI, n=2, max_tokens=4).choices) == 2)


@feature("tools", "tools")
def _():
    check(client.chat.completions.create(model=TOOLS, messages=HI, tools=FUNCTION).choices[0].message.tool_calls)


@feature("tools, streamed", "tools")
def _():
    stream = client.chat.completions.create(model=TOOLS, messages=HI, tools=FUNCTION, stream=True)
    check([call for chunk in stream for call in chunk.choices[0].delta.tool_calls or ()])


@feature("forced tool call")
def _():
    answer = client.chat.completions.create(
        model=CHAT, messages=HI, tools=FUNCTION, tool_choice="required", temperature=0, max_tokens=64
    )
    check(json.loads(answer.choices[0].message.tool_calls[0].function.arguments))


@feature("completions")
def _():
    check(client.completions.create(model=CHAT, prompt="hi", **COLD).choices[0].text)


@feature("responses")
def _():
    first = client.responses.create(model=CHAT, input=QUESTION, temperature=0, max_output_tokens=24)
    check(client.responses.create(model=CHAT, input="And?", previous_response_id=first.id, max_output_tokens=8).id)


@feature("responses, streamed")
def _():
    with client.responses.stream(model=CHAT, input=QUESTION, temperature=0, max_output_tokens=24) as stream:
        check([event.type for event in stream][-1] in ("response.completed", "response.incomplete"))


@feature("responses, counted")
def _():
    first = client.responses.create(model=CHAT, input=QUESTION, temperature=0, max_output_tokens=8)
    count = client.responses.input_tokens.count(model=CHAT, input=QUESTION).input_tokens
    check(count > 0)
    more = client.responses.input_tokens.count(model=CHAT, input="And?", previous_response_id=first.id)
    check(more.input_tokens > count)


@feature("responses, stored")
def _():
    made = client.responses.create(model=CHAT, input=QUESTION, temperature=0, max_output_tokens=8)
    check(client.responses.retrieve(made.id).output_text == made.output_text)
    [item] = client.responses.input_items.list(made.id)
    check(item.content[0].text == QUESTION)
    client.responses.delete(made.id)
    try:
        client.responses.retrieve(made.id)
    except openai.NotFoundError:
        return
    check(False)


@feature("embeddings", "embed")
def _():
    check(len(client.embeddings.create(model=EMBED, input=["a", "b"]).data) == 2)


@feature("list models")
def _():
    check(list(client.models.list()) and client.models.retrieve(CHAT))


run()
