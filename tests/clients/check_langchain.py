"""`langchain-ollama`."""

from features import CHAT, EMBED, PARAMETERS, QUESTION, TOOLS, URL, check, check_call, check_object, feature, run
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM


def chat(model: str = CHAT, **kwargs: object) -> ChatOllama:
    return ChatOllama(model=model, base_url=URL, temperature=0, num_predict=64 if model == TOOLS else 24, **kwargs)


@tool
def add(a: int) -> int:
    """Add a number."""
    return a


@feature("chat")
def _():
    check(chat(validate_model_on_init=True).invoke(QUESTION).content)


@feature("chat, streamed")
def _():
    check("".join(chunk.content for chunk in chat().stream(QUESTION)))


@feature("chat, async")
async def _():
    check((await chat().ainvoke(QUESTION)).content)


@feature("generate")
def _():
    check(OllamaLLM(model=CHAT, base_url=URL, num_predict=8).invoke(QUESTION))
    check("".join(OllamaLLM(model=CHAT, base_url=URL, num_predict=8).stream(QUESTION)))


@feature("structured output")
def _():
    schema = {"title": "x", **PARAMETERS}
    check_object(chat().with_structured_output(schema, method="json_schema").invoke(QUESTION))


@feature("tools")
def _():
    model = chat(TOOLS).bind_tools([add])
    message = model.invoke(QUESTION)
    [call] = message.tool_calls
    check_call(call["name"], call["args"])
    check(model.invoke([HumanMessage(QUESTION), message, ToolMessage("4", tool_call_id=call["id"])]).type == "ai")


@feature("tools, streamed")
def _():
    whole = None
    for chunk in chat(TOOLS).bind_tools([add]).stream(QUESTION):
        whole = chunk if whole is None else whole + chunk
    [call] = whole.tool_calls
    check_call(call["name"], call["args"])


@feature("thinking")
def _():
    check(chat(TOOLS, reasoning=True).invoke(QUESTION).additional_kwargs["reasoning_content"])


@feature("embeddings")
def _():
    embeddings = OllamaEmbeddings(model=EMBED, base_url=URL)
    check(len(embeddings.embed_documents(["a", "b"])) == 2 and embeddings.embed_query("a"))


@feature("embeddings, async")
async def _():
    embeddings = OllamaEmbeddings(model=EMBED, base_url=URL)
    check(len(await embeddings.aembed_documents(["a", "b"])) == 2 and await embeddings.aembed_query("a"))


run()
