"""The `openai` Python SDK."""

import openai
from features import CHAT, EMBED, PARAMETERS, QUESTION, TOOLS, URL, check, check_call, check_object, feature, png, run
from pydantic import BaseModel, ConfigDict, Field

client = openai.OpenAI(base_url=f"{URL}/v1", api_key="unused", timeout=300, max_retries=0)
HI = [{"role": "user", "content": QUESTION}]
COLD = {"temperature": 0, "max_tokens": 24}
FUNCTION = [{"type": "function", "function": {"name": "add", "parameters": PARAMETERS}}]
FLAT_FUNCTION = [{"type": "function", "name": "add", "parameters": PARAMETERS}]


class Thing(BaseModel):
    model_config = ConfigDict(extra="forbid")
    a: int = Field(ge=0, le=99)


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
    check_object(answer.choices[0].message.content)


@feature("structured output, parsed")
def _():
    answer = client.chat.completions.parse(model=CHAT, messages=HI, response_format=Thing, **COLD)
    check(isinstance(answer.choices[0].message.parsed, Thing))


@feature("log probabilities")
def _():
    answer = client.chat.completions.create(model=CHAT, messages=HI, logprobs=True, top_logprobs=2, **COLD)
    check(answer.choices[0].logprobs.content)


@feature("logit bias")
def _():
    answer = client.chat.completions.create(
        model=CHAT, messages=HI, logit_bias={"20": 100}, logprobs=True, temperature=0, max_tokens=2
    )
    first, second = answer.choices[0].logprobs.content
    check(first.token == second.token, answer)  # nothing else is likely any more


@feature("several choices")
def _():
    check(len(client.chat.completions.create(model=CHAT, messages=HI, n=2, max_tokens=4).choices) == 2)


@feature("tools")
def _():
    message = client.chat.completions.create(model=TOOLS, messages=HI, tools=FUNCTION).choices[0].message
    [call] = message.tool_calls
    check_call(call.function.name, call.function.arguments)
    result = {"role": "tool", "tool_call_id": call.id, "content": "4"}
    check(client.chat.completions.create(model=TOOLS, messages=[*HI, message, result], tools=FUNCTION).choices)


@feature("tools, streamed")
def _():
    stream = client.chat.completions.create(model=TOOLS, messages=HI, tools=FUNCTION, stream=True)
    calls = [call.function for chunk in stream for call in chunk.choices[0].delta.tool_calls or ()]
    check_call("".join(c.name or "" for c in calls), "".join(c.arguments or "" for c in calls))


@feature("forced tool call")
def _():
    for choice in ("required", {"type": "function", "function": {"name": "add"}}):
        answer = client.chat.completions.create(
            model=CHAT, messages=HI, tools=FUNCTION, tool_choice=choice, temperature=0, max_tokens=64
        )
        [call] = answer.choices[0].message.tool_calls
        check_call(call.function.name, call.function.arguments)


@feature("thinking")
def _():
    answer = client.chat.completions.create(model=TOOLS, messages=HI, reasoning_effort="low", max_tokens=64)
    check(answer.choices[0].message.reasoning, answer)


@feature("images, refused")
def _():
    parts = [
        {"type": "text", "text": QUESTION},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{png()}"}},
    ]
    try:
        client.chat.completions.create(model=CHAT, messages=[{"role": "user", "content": parts}])
    except openai.BadRequestError as error:
        check("image" in str(error), error)
    else:
        check(False, "an image was taken")


@feature("completions")
def _():
    check(client.completions.create(model=CHAT, prompt="hi", **COLD).choices[0].text)
    check("".join(c.choices[0].text for c in client.completions.create(model=CHAT, prompt="hi", stream=True, **COLD)))


@feature("responses")
def _():
    first = client.responses.create(model=CHAT, input=QUESTION, temperature=0, max_output_tokens=24)
    check(client.responses.create(model=CHAT, input="And?", previous_response_id=first.id, max_output_tokens=8).id)


@feature("responses, streamed")
def _():
    with client.responses.stream(model=CHAT, input=QUESTION, temperature=0, max_output_tokens=24) as stream:
        check([event.type for event in stream][-1] in ("response.completed", "response.incomplete"))


@feature("responses, parsed")
def _():
    answer = client.responses.parse(model=CHAT, input=QUESTION, text_format=Thing, temperature=0, max_output_tokens=24)
    check(isinstance(answer.output_parsed, Thing), answer)


@feature("responses, tools")
def _():
    first = client.responses.create(model=TOOLS, input=QUESTION, tools=FLAT_FUNCTION)
    [call] = [item for item in first.output if item.type == "function_call"]
    check_call(call.name, call.arguments)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "4"}
    check(
        client.responses.create(model=TOOLS, input=[result], previous_response_id=first.id, tools=FLAT_FUNCTION).output
    )
    with client.responses.stream(model=TOOLS, input=QUESTION, tools=FLAT_FUNCTION) as stream:
        check([event for event in stream if event.type == "response.function_call_arguments.done"])


@feature("responses, thinking")
def _():
    answer = client.responses.create(
        model=TOOLS, input=QUESTION, reasoning={"effort": "low", "summary": "auto"}, max_output_tokens=64
    )
    check(any(item.type == "reasoning" and item.summary for item in answer.output), answer)


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


@feature("embeddings")
def _():
    check(len(client.embeddings.create(model=EMBED, input=["a", "b"]).data) == 2)


@feature("list models")
def _():
    check(list(client.models.list()) and client.models.retrieve(CHAT))


run()
