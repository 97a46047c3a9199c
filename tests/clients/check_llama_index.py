"""`llama-index` with its Ollama LLM and embedding."""

from features import CHAT, EMBED, QUESTION, TOOLS, URL, check, feature, run
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.ollama import OllamaEmbedding
from llama_index.llms.ollama import Ollama


def llm(model: str = CHAT) -> Ollama:
    return Ollama(model=model, base_url=URL, request_timeout=300, additional_kwargs={"num_predict": 24})


@feature("complete")
def _():
    check(llm().complete(QUESTION).text)


@feature("chat")
def _():
    check(llm().chat([ChatMessage(role="user", content=QUESTION)]).message.content)


@feature("chat, streamed")
def _():
    check("".join(part.delta or "" for part in llm().stream_chat([ChatMessage(role="user", content=QUESTION)])))


@feature("chat, async")
async def _():
    check((await llm().achat([ChatMessage(role="user", content=QUESTION)])).message.content)


@feature("tools", "tools")
def _():
    def add(a: int) -> int:
        """Add a number."""
        return a

    model = llm(TOOLS)
    answer = model.chat_with_tools([FunctionTool.from_defaults(add)], user_msg=QUESTION)
    check(model.get_tool_calls_from_response(answer))


@feature("embeddings", "embed")
def _():
    embedding = OllamaEmbedding(model_name=EMBED, base_url=URL)
    check(embedding.get_text_embedding("a") and len(embedding.get_text_embedding_batch(["a", "b"])) == 2)


run()
