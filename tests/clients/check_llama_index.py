"""`llama-index` with its Ollama LLM and embedding."""

from features import CHAT, EMBED, QUESTION, TOOLS, URL, check, check_call, feature, run
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.ollama import OllamaEmbedding
from llama_index.llms.ollama import Ollama
from pydantic import BaseModel, ConfigDict, Field

HI = [ChatMessage(role="user", content=QUESTION)]


class Thing(BaseModel):
    """A thing."""

    model_config = ConfigDict(extra="forbid")
    a: int = Field(ge=0, le=99)


def add(a: int) -> int:
    """Add a number."""
    return a


def llm(model: str = CHAT, **kwargs: object) -> Ollama:
    options = {"num_predict": 64 if model == TOOLS else 24}
    return Ollama(
        model=model,
        base_url=URL,
        request_timeout=300,
        temperature=0,
        context_window=2048,  # what the server has loaded; another size would load the model anew
        additional_kwargs=options,
        **kwargs,
    )


@feature("complete")
def _():
    check(llm().complete(QUESTION).text)
    check("".join(part.delta or "" for part in llm().stream_complete(QUESTION)))


@feature("chat")
def _():
    check(llm().chat(HI).message.content)


@feature("chat, streamed")
def _():
    check("".join(part.delta or "" for part in llm().stream_chat(HI)))


@feature("chat, async")
async def _():
    check((await llm().achat(HI)).message.content)


@feature("structured output")
def _():
    check(isinstance(llm().structured_predict(Thing, PromptTemplate(QUESTION)), Thing))


@feature("tools")
def _():
    model = llm(TOOLS)
    answer = model.chat_with_tools([FunctionTool.from_defaults(add)], user_msg=QUESTION)
    [call] = model.get_tool_calls_from_response(answer)
    check_call(call.tool_name, call.tool_kwargs)


@feature("tools, streamed")
def _():
    model = llm(TOOLS)
    *_, last = model.stream_chat_with_tools([FunctionTool.from_defaults(add)], user_msg=QUESTION)
    [call] = model.get_tool_calls_from_response(last)
    check_call(call.tool_name, call.tool_kwargs)


@feature("thinking")
def _():
    blocks = llm(TOOLS, thinking=True).chat(HI).message.blocks
    check([block for block in blocks if block.block_type == "thinking" and block.content], blocks)


@feature("embeddings")
def _():
    embedding = OllamaEmbedding(model_name=EMBED, base_url=URL)
    check(embedding.get_text_embedding("a") and len(embedding.get_text_embedding_batch(["a", "b"])) == 2)


@feature("embeddings, async")
async def _():
    embedding = OllamaEmbedding(model_name=EMBED, base_url=URL)
    check(await embedding.aget_query_embedding("a"))
    check(len(await embedding.aget_text_embedding_batch(["a", "b"])) == 2)


run()
