"""`litellm`, over the native, the OpenAI and the Anthropic routes."""

import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # read at import; else it asks the network for prices

import litellm
from features import ABOUT, CHAT, EMBED, PARAMETERS, QUESTION, TOOLS, URL, check, check_call, check_object, feature, run

litellm.telemetry = False
HI = [{"role": "user", "content": QUESTION}]
FUNCTION = [{"type": "function", "function": {"name": "add", "parameters": PARAMETERS}}]
THINKING = {"type": "enabled", "budget_tokens": 1024}
OVER_OPENAI = ("openai", "hosted_vllm")


def base(prefix: str) -> str:
    return f"{URL}/v1" if prefix in OVER_OPENAI else URL


def arguments(prefix: str, model: str, **kwargs: object) -> dict:
    values = {"model": f"{prefix}/{model}", "messages": HI, "api_base": base(prefix), "api_key": "unused"}
    return {**values, "max_tokens": 64 if model == TOOLS else 24, "temperature": 0, **kwargs}


def ask(prefix: str, model: str, **kwargs: object):
    return litellm.completion(**arguments(prefix, model, **kwargs))


for prefix in ("ollama", "ollama_chat", "openai", "hosted_vllm", "anthropic"):

    @feature(f"{prefix}/ chat")
    def _(prefix=prefix):
        check(ask(prefix, CHAT).choices[0].message.content)

    @feature(f"{prefix}/ chat, streamed")
    def _(prefix=prefix):
        chunks = ask(prefix, CHAT, stream=True)
        check("".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices))

    @feature(f"{prefix}/ chat, async")
    async def _(prefix=prefix):
        check((await litellm.acompletion(**arguments(prefix, CHAT))).choices[0].message.content)


for prefix in ("ollama_chat", "openai", "hosted_vllm", "anthropic"):

    @feature(f"{prefix}/ tools")
    def _(prefix=prefix):
        [call] = ask(prefix, TOOLS, tools=FUNCTION).choices[0].message.tool_calls
        check_call(call.function.name, call.function.arguments)

    @feature(f"{prefix}/ structured output")
    def _(prefix=prefix):
        schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": PARAMETERS}}
        check_object(ask(prefix, CHAT, response_format=schema, max_tokens=64).choices[0].message.content)


for prefix, wish in {
    "ollama_chat": {"reasoning_effort": "low"},
    "hosted_vllm": {"reasoning_effort": "low"},
    # It knows by name which models can think, and ours is not among them.
    "anthropic": {"thinking": THINKING, "max_tokens": 1100, "temperature": 1, "allowed_openai_params": ["thinking"]},
}.items():

    @feature(f"{prefix}/ thinking")
    def _(prefix=prefix, wish=wish):
        check(ask(prefix, TOOLS, **wish).choices[0].message.reasoning_content)


for prefix in ("ollama", "openai", "hosted_vllm"):
    where = {"model": f"{prefix}/{EMBED}", "api_base": base(prefix), "api_key": "unused"}

    @feature(f"{prefix}/ embeddings")
    def _(where=where):
        check(len(litellm.embedding(input=["a", "b"], **where).data) == 2)

    @feature(f"{prefix}/ embeddings, async")
    async def _(where=where):
        check(len((await litellm.aembedding(input=["a", "b"], **where)).data) == 2)


@feature("hosted_vllm/ rerank")
def _():
    answer = litellm.rerank(
        model=f"hosted_vllm/{ABOUT['rerank']}", query="w1", documents=["w1 w2", "w3"], top_n=1, api_base=URL
    )
    [best] = answer.results
    check(best["index"] in (0, 1) and isinstance(best["relevance_score"], float), answer)


run()
