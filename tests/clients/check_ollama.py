"""The `ollama` Python client."""

import ollama
from features import CHAT, EMBED, QUESTION, TOOLS, URL, check, feature, run

client = ollama.Client(host=URL, timeout=300)
HI = [{"role": "user", "content": QUESTION}]
OPTIONS = {"temperature": 0, "num_predict": 24}


@feature("chat")
def _():
    check(client.chat(model=CHAT, messages=HI, options=OPTIONS).message.content)


@feature("chat, streamed")
def _():
    check("".join(part.message.content for part in client.chat(model=CHAT, messages=HI, options=OPTIONS, stream=True)))


@feature("chat, async")
async def _():
    async with ollama.AsyncClient(host=URL) as other:
        check((await other.chat(model=CHAT, messages=HI, options=OPTIONS)).message.content)


@feature("generate")
def _():
    check(client.generate(model=CHAT, prompt=QUESTION, options=OPTIONS).response)


@feature("generate, streamed")
def _():
    check([part.done for part in client.generate(model=CHAT, prompt="hi", options=OPTIONS, stream=True)][-1])


@feature("structured output")
def _():
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["a"],
    }
    import json

    answer = client.chat(model=CHAT, messages=HI, format=schema, options=OPTIONS)
    check(isinstance(json.loads(answer.message.content)["a"], int), answer)


@feature("log probabilities")
def _():
    check(client.generate(model=CHAT, prompt="hi", options=OPTIONS, logprobs=True, top_logprobs=2).logprobs)


@feature("tools", "tools")
def _():
    def add(a: int) -> int:
        """Add.

        Args:
            a: A number.
        """
        return a

    check(client.chat(model=TOOLS, messages=HI, tools=[add]).message.tool_calls)


@feature("thinking", "tools")
def _():
    check(client.chat(model=TOOLS, messages=HI, think=True).message.thinking)


@feature("embeddings", "embed")
def _():
    check(len(client.embed(model=EMBED, input=["a", "b"]).embeddings) == 2)


@feature("list, show, ps")
def _():
    check(client.list().models and client.show(CHAT).details and client.ps().models is not None)


@feature("copy, delete")
def _():
    client.copy(CHAT, "copied-model")
    client.delete("copied-model")


run()
