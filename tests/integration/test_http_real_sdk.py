"""The `openai` and `anthropic` SDKs against real runners with SmolLM2, which knows neither tools nor thinking."""

from __future__ import annotations

import json

import anthropic
import openai
import pytest
from tests.model_store import SMOLLM2
from tests.real_server import real_server

pytestmark = pytest.mark.models

QUESTION = "What is the capital of France?"
HI = [{"role": "user", "content": QUESTION}]
COLD = {"extra_body": {"temperature": 0}}
GREEDY = {"model": SMOLLM2, "temperature": 0, "max_tokens": 16}
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with real_server(tmp_path_factory.mktemp("home")) as server:
        yield server


@pytest.fixture(scope="module")
def oai(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0, timeout=300) as client:
        yield client


@pytest.fixture(scope="module")
def claude(server):
    with anthropic.Anthropic(base_url=server.url, api_key="unused", max_retries=0, timeout=300) as client:
        yield client


def test_streamed_equals_whole(oai):
    whole = oai.chat.completions.create(messages=HI, **GREEDY)
    stream = oai.chat.completions.create(messages=HI, stream=True, stream_options={"include_usage": True}, **GREEDY)
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert text.strip()
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_second_request_takes_its_prompt_from_the_cache(oai):
    oai.chat.completions.create(messages=HI, **GREEDY)
    usage = oai.chat.completions.create(messages=HI, **GREEDY).usage
    assert usage.prompt_tokens_details.cached_tokens >= usage.prompt_tokens - 2


def test_several_choices_differ(oai):
    answer = oai.chat.completions.create(model=SMOLLM2, messages=HI, n=3, temperature=1.5, max_tokens=12, seed=1)
    texts = [choice.message.content for choice in answer.choices]
    assert len(set(texts)) > 1
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage.completion_tokens > 12


def test_structured_output(oai):
    schema = {"name": "weather", "schema": WEATHER}
    format = {"type": "json_schema", "json_schema": schema}
    answer = oai.chat.completions.create(messages=HI, response_format=format, **GREEDY | {"max_tokens": 60})
    assert json.loads(answer.choices[0].message.content)["city"] in ("Paris", "Rome")


def test_logprobs_and_bias(oai, server):
    answer = oai.chat.completions.create(messages=HI, logprobs=True, top_logprobs=3, **GREEDY)
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens or len(content) == answer.usage.completion_tokens - 1
    assert content[0].token == content[0].top_logprobs[0].token
    [token] = server.post("/api/tokenize", {"model": SMOLLM2, "text": content[0].token, "add_special": False}).json()[
        "tokens"
    ]
    biased = oai.chat.completions.create(messages=HI, logit_bias={str(token): -100}, **GREEDY)
    assert not biased.choices[0].message.content.startswith(content[0].token)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_forced_tool_call(oai, choice):
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}]
    answer = oai.chat.completions.create(
        messages=HI, tools=tools, tool_choice=choice, **GREEDY | {"max_tokens": 80}
    ).choices[0]
    assert answer.finish_reason == "tool_calls"
    [call] = answer.message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")


def test_tools_a_model_can_not_use_are_refused(oai):
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    with pytest.raises(openai.BadRequestError, match="does not support tools"):
        oai.chat.completions.create(messages=HI, tools=tools, **GREEDY)


def test_completions(oai):
    answer = oai.completions.create(
        model=SMOLLM2,
        prompt="1, 2, 3, 4,",
        max_tokens=6,
        temperature=0,
        echo=True,
        logprobs=2,
        extra_body={"raw": True},
    ).choices[0]
    assert answer.text.startswith("1, 2, 3, 4, 5")
    assert len(answer.logprobs.tokens) == len(answer.logprobs.top_logprobs) == 6
    several = oai.completions.create(model=SMOLLM2, prompt=["a", "b"], n=2, max_tokens=2).choices
    assert [choice.index for choice in several] == [0, 1, 2, 3]
    best = oai.completions.create(model=SMOLLM2, prompt="The", best_of=3, n=1, max_tokens=3, temperature=1).choices
    assert len(best) == 1


def test_prompt_beyond_the_context_has_its_code(oai):
    with pytest.raises(openai.BadRequestError) as caught:
        oai.chat.completions.create(messages=[{"role": "user", "content": "word " * 3000}], **GREEDY)
    assert caught.value.code == "context_length_exceeded"


def test_embeddings(oai):
    cat, kitten, law = (
        row.embedding for row in oai.embeddings.create(model=SMOLLM2, input=["a cat", "a kitten", "tax law"]).data
    )
    assert sum(x * x for x in cat) == pytest.approx(1, abs=1e-4)
    assert sum(x * y for x, y in zip(cat, kitten, strict=True)) > sum(x * y for x, y in zip(cat, law, strict=True))


def test_responses_continue(oai):
    first = oai.responses.create(model=SMOLLM2, input="My name is Ada.", max_output_tokens=16, temperature=0)
    second = oai.responses.create(
        model=SMOLLM2, input="What is my name?", previous_response_id=first.id, max_output_tokens=16, temperature=0
    )
    assert second.usage.input_tokens > first.usage.input_tokens + first.usage.output_tokens


def test_anthropic_message_and_stream(claude):
    whole = claude.messages.create(model=SMOLLM2, max_tokens=16, messages=HI, **COLD)
    with claude.messages.stream(model=SMOLLM2, max_tokens=16, messages=HI, **COLD) as stream:
        text = "".join(stream.text_stream)
    assert text == whole.content[0].text
    assert text.strip()
    usage = whole.usage
    counted = claude.messages.count_tokens(model=SMOLLM2, messages=HI).input_tokens
    assert usage.input_tokens + usage.cache_read_input_tokens == counted


def test_anthropic_stop_sequence(claude):
    # What the model says depends on the processor's rounding: it is stopped at a word that it does say.
    text = claude.messages.create(model=SMOLLM2, max_tokens=16, messages=HI, **COLD).content[0].text
    word = text.split()[2]
    message = claude.messages.create(model=SMOLLM2, max_tokens=30, messages=HI, **COLD, stop_sequences=[word])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", word)
    assert message.content[0].text == text[: text.index(word)]


def test_anthropic_forced_tool(claude):
    tools = [{"name": "get_weather", "description": "weather of a city", "input_schema": WEATHER}]
    message = claude.messages.create(
        model=SMOLLM2, max_tokens=80, messages=HI, tools=tools, tool_choice={"type": "any"}, **COLD
    )
    assert message.content[0].input["city"] in ("Paris", "Rome")
    assert message.stop_reason == "tool_use"


def test_growing_conversation_keeps_its_prefix(claude):
    """An agent's second turn finds the first one's prompt and answer in the cache."""
    system = [{"type": "text", "text": "You are a helpful assistant. " * 30, "cache_control": {"type": "ephemeral"}}]
    first = claude.messages.create(model=SMOLLM2, max_tokens=8, messages=HI, system=system, **COLD)
    turns = [*HI, {"role": "assistant", "content": first.content[0].text}, {"role": "user", "content": "And Italy?"}]
    second = claude.messages.create(model=SMOLLM2, max_tokens=8, messages=turns, system=system, **COLD)
    total_first = first.usage.input_tokens + first.usage.cache_read_input_tokens
    assert second.usage.cache_read_input_tokens >= total_first - 4
