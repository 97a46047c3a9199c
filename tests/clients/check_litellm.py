"""`litellm`, over the native, the OpenAI and the Anthropic routes."""

import litellm
from features import CHAT, EMBED, QUESTION, TOOLS, URL, check, feature, run

litellm.telemetry = False
HI = [{"role": "user", "content": QUESTION}]
FUNCTION = {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}


def ask(model: str, **kwargs: object):
    base = f"{URL}/v1" if model.startswith(("openai/", "hosted_vllm/")) else URL
    return litellm.completion(model=model, messages=HI, api_base=base, api_key="unused", max_tokens=24, **kwargs)


for prefix in ("ollama", "ollama_chat", "openai", "hosted_vllm", "anthropic"):

    @feature(f"{prefix}/ chat")
    def _(prefix=prefix):
        check(ask(f"{prefix}/{CHAT}").choices[0].message.content)

    @feature(f"{prefix}/ chat, streamed")
    def _(prefix=prefix):
        chunks = ask(f"{prefix}/{CHAT}", stream=True)
        check("".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices))


for prefix in ("ollama_chat", "openai", "anthropic"):

    @feature(f"{prefix}/ tools", "tools")
    def _(prefix=prefix):
        answer = ask(f"{prefix}/{TOOLS}", tools=[{"type": "function", "function": FUNCTION}])
        check(answer.choices[0].message.tool_calls)


@feature("ollama/ embeddings", "embed")
def _():
    check(len(litellm.embedding(model=f"ollama/{EMBED}", input=["a", "b"], api_base=URL).data) == 2)


@feature("openai/ embeddings", "embed")
def _():
    answer = litellm.embedding(model=f"openai/{EMBED}", input=["a"], api_base=f"{URL}/v1", api_key="unused")
    check(answer.data)


run()
