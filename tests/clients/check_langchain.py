"""`langchain-ollama`."""

from features import CHAT, EMBED, QUESTION, TOOLS, URL, check, feature, run
from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM


def chat(model: str = CHAT, **kwargs: object) -> ChatOllama:
    return ChatOllama(model=model, base_url=URL, temperature=0, num_predict=24, **kwargs)


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


@feature("structured output")
def _():
    schema = {
        "title": "x",
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["a"],
    }
    check(isinstance(chat().with_structured_output(schema, method="json_schema").invoke(QUESTION)["a"], int))


@feature("tools", "tools")
def _():
    check(chat(TOOLS).bind_tools([add]).invoke(QUESTION).tool_calls)


@feature("thinking", "tools")
def _():
    check(chat(TOOLS, reasoning=True).invoke(QUESTION).additional_kwargs["reasoning_content"])


@feature("embeddings", "embed")
def _():
    embeddings = OllamaEmbeddings(model=EMBED, base_url=URL)
    check(len(embeddings.embed_documents(["a", "b"])) == 2 and embeddings.embed_query("a"))


run()
