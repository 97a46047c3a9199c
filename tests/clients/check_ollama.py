"""The `ollama` Python client."""

import ollama
from features import (
    ABOUT,
    CHAT,
    EMBED,
    PARAMETERS,
    QUESTION,
    TOOLS,
    URL,
    check,
    check_call,
    check_object,
    feature,
    png,
    run,
)

client = ollama.Client(host=URL, timeout=300)
HI = [{"role": "user", "content": QUESTION}]
OPTIONS = {"temperature": 0, "num_predict": 24}


def add(a: int) -> int:
    """Add.

    Args:
        a: A number.
    """
    return a


def is_loaded(model: str) -> bool:
    return any(loaded.model.startswith(f"{model}:") for loaded in client.ps().models)


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
    answer = client.generate(model=CHAT, prompt=QUESTION, options=OPTIONS)
    check(answer.response)
    check(client.generate(model=CHAT, prompt="And?", context=answer.context, options=OPTIONS).response)


@feature("generate, streamed")
def _():
    check([part.done for part in client.generate(model=CHAT, prompt="hi", options=OPTIONS, stream=True)][-1])


@feature("generate, raw")
def _():
    answer = client.generate(model=CHAT, prompt="1, 2, 3, 4,", raw=True, options=OPTIONS)
    check(answer.response and answer.eval_count and not answer.context, answer)


@feature("generate, suffix")
def _():
    model = ABOUT["insert"]
    answer = client.generate(model=model, prompt="def f(", suffix="return 1", options=OPTIONS)
    check(answer.done and answer.eval_count, answer)
    try:
        client.generate(model=CHAT, prompt="def f(", suffix="return 1")
    except ollama.ResponseError as error:
        check("insert" in error.error, error.error)
    else:
        check(False, "a model without a place for the suffix took one")


@feature("structured output")
def _():
    check_object(client.chat(model=CHAT, messages=HI, format=PARAMETERS, options=OPTIONS).message.content)


@feature("log probabilities")
def _():
    check(client.generate(model=CHAT, prompt="hi", options=OPTIONS, logprobs=True, top_logprobs=2).logprobs)


@feature("tools")
def _():
    message = client.chat(model=TOOLS, messages=HI, tools=[add]).message
    [call] = message.tool_calls
    check_call(call.function.name, call.function.arguments)
    result = {"role": "tool", "content": "4", "tool_name": "add"}
    check(client.chat(model=TOOLS, messages=[*HI, message, result], tools=[add]).message.role == "assistant")


@feature("tools, streamed")
def _():
    parts = client.chat(model=TOOLS, messages=HI, tools=[add], stream=True)
    [call] = [call for part in parts for call in part.message.tool_calls or ()]
    check_call(call.function.name, call.function.arguments)


@feature("thinking")
def _():
    message = client.chat(model=TOOLS, messages=HI, think=True).message
    check(message.thinking and "<think>" not in (message.content or ""), message)


@feature("thinking, streamed")
def _():
    parts = list(client.chat(model=TOOLS, messages=HI, think=True, stream=True))
    check("".join(part.message.thinking or "" for part in parts), parts)


@feature("images, refused")
def _():
    try:
        client.chat(model=CHAT, messages=[{**HI[0], "images": [png()]}])
    except ollama.ResponseError as error:
        check(error.status_code == 400 and "image" in error.error, error.error)
    else:
        check(False, "an image was taken")


@feature("embeddings")
def _():
    check(len(client.embed(model=EMBED, input=["a", "b"]).embeddings) == 2)
    check(client.embeddings(model=EMBED, prompt="a").embedding)


@feature("list, show, ps")
def _():
    check(client.list().models and client.show(CHAT).details and client.ps().models is not None)


@feature("keep alive, unload")
def _():
    client.generate(model=CHAT, keep_alive="5m")
    check(is_loaded(CHAT))
    check(client.generate(model=CHAT, keep_alive=0).done_reason == "unload")
    check(not is_loaded(CHAT))


@feature("copy, delete")
def _():
    client.copy(CHAT, "copied-model")
    client.delete("copied-model")


@feature("create, blobs")
def _():
    digest = client.create_blob(ABOUT["file"])
    check(client.create(model="made", files={"made.gguf": digest}, license="none").status == "success")
    check(client.show("made").license == "none")
    statuses = [part.status for part in client.create(model="brief", from_=CHAT, system="Be brief.", stream=True)]
    check(statuses[-1] == "success", statuses)
    check(client.generate(model="brief", prompt=QUESTION, options=OPTIONS).response)
    for name in ("made", "brief"):
        client.delete(name)


@feature("push, pull")
def _():
    name = f"{ABOUT['registry']}/library/ollama-py:latest"
    client.create(model=name, files={"made.gguf": client.create_blob(ABOUT["file"])})
    check([part.status for part in client.push(name, insecure=True, stream=True)][-1] == "success")
    client.delete(name)
    check(client.pull(name, insecure=True).status == "success")
    check([part.status for part in client.pull(name, insecure=True, stream=True)][-1] == "success")
    check(client.embed(model=name, input="a").embeddings)
    client.delete(name)


run()
