"""The official `openai` and `anthropic` Python SDKs, unmodified, against a live server over scripted runners."""

from __future__ import annotations

import json

import pytest
from tests.fakes.live import running
from tests.fakes.server import make_server
from tests.fakes.settings import FakeSettings

from donabe.types import Delta, Failed, Finished, FinishReason, TokenLogprob, ToolCall, Usage

openai = pytest.importorskip("openai")
anthropic = pytest.importorskip("anthropic")

HI = [{"role": "user", "content": "hi"}]
BREAK = [{"role": "user", "content": "break"}]
USAGE = Usage(n_prompt_tokens=11, n_output_tokens=3, n_thinking_tokens=1)
END = Finished(reason=FinishReason.STOP, usage=USAGE)
PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def script(request):
    messages = getattr(request, "messages", ())
    if getattr(request, "tools", ()):
        return [Delta(thinking="hmm"), Delta(tool_calls=(ToolCall(name="add", arguments='{"a":1}', id="call_1"),)), END]
    if messages and messages[-1].content == "break":
        return [Delta(text="Hel"), Failed(kind="RunnerDiedError", message="signal 9 (SIGKILL)")]
    if request.constraint.json_schema:
        return [Delta(text='{"a": 7}'), END]
    if request.output.logprobs:
        return [Delta(text="Hi", logprobs=(TokenLogprob(token="Hi", token_id=1, logprob=-0.5),)), END]
    return [Delta(text="Hel"), Delta(text="lo"), END]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    settings = FakeSettings(home=tmp_path_factory.mktemp("home"))
    with running(make_server(script=script, settings=settings).app) as url:
        yield url


@pytest.fixture
def oai(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture
def claude(url):
    with anthropic.Anthropic(base_url=url, api_key="unused", max_retries=0) as client:
        yield client


# --- openai ----------------------------------------------------------------------------------------------------------


def test_openai_chat(oai):
    answer = oai.chat.completions.create(model="C", messages=HI, max_tokens=5, temperature=0)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("Hello", "stop")
    assert answer.usage.total_tokens == 14
    assert answer.usage.completion_tokens_details.reasoning_tokens == 1


def test_openai_stream(oai):
    stream = oai.chat.completions.create(model="C", messages=HI, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hello"
    assert chunks[-1].usage.prompt_tokens == 11


def test_openai_tools(oai):
    tools = [{"type": "function", "function": {"name": "add", "parameters": PARAMETERS}}]
    message = oai.chat.completions.create(model="T", messages=HI, tools=tools).choices[0].message
    assert json.loads(message.tool_calls[0].function.arguments) == {"a": 1}
    names = [
        call.function.name
        for chunk in oai.chat.completions.create(model="T", messages=HI, tools=tools, stream=True)
        for call in chunk.choices[0].delta.tool_calls or ()
    ]
    assert names == ["add"]


def test_openai_parsed_output(oai):
    pydantic = pytest.importorskip("pydantic")
    thing = pydantic.create_model("Thing", a=(int, ...))
    answer = oai.chat.completions.parse(model="C", messages=HI, response_format=thing)
    assert answer.choices[0].message.parsed.a == 7


def test_openai_logprobs(oai):
    answer = oai.chat.completions.create(model="C", messages=HI, logprobs=True, top_logprobs=1)
    assert answer.choices[0].logprobs.content[0].token == "Hi"


def test_openai_completions_and_embeddings(oai):
    assert oai.completions.create(model="C", prompt="hi").choices[0].text == "Hello"
    assert "".join(c.choices[0].text for c in oai.completions.create(model="C", prompt="hi", stream=True)) == "Hello"
    rows = oai.embeddings.create(model="E", input=["a", "b"]).data
    assert [row.embedding[:2] for row in rows] == [pytest.approx([0.6, 0.8])] * 2
    rows = oai.embeddings.create(model="E", input="a", encoding_format="float").data
    assert rows[0].embedding[:2] == pytest.approx([0.6, 0.8])


def test_openai_models(oai):
    assert "C:latest" in [model.id for model in oai.models.list()]
    assert oai.models.retrieve("C").id == "C"


def test_openai_errors(oai):
    with pytest.raises(openai.NotFoundError, match="not found"):
        oai.chat.completions.create(model="nope", messages=HI)
    with pytest.raises(openai.BadRequestError) as caught:
        oai.chat.completions.create(model="C", messages=HI, top_p=7)
    assert caught.value.param == "top_p"
    texts = []
    with pytest.raises(openai.APIError, match="SIGKILL"):
        for chunk in oai.chat.completions.create(model="C", messages=BREAK, stream=True):
            texts.append(chunk.choices[0].delta.content)
    assert texts == ["Hel"]


async def test_openai_async(url):
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused") as client:
        stream = await client.chat.completions.create(model="C", messages=HI, stream=True)
        assert "".join([c.choices[0].delta.content or "" async for c in stream]) == "Hello"


def test_openai_responses(oai):
    first = oai.responses.create(model="C", input="hi")
    assert (first.output_text, first.status, first.usage.total_tokens) == ("Hello", "completed", 14)
    second = oai.responses.create(model="C", input="and?", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    assert oai.responses.retrieve(first.id).output_text == "Hello"
    oai.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        oai.responses.retrieve(first.id)


def test_openai_responses_stream(oai):
    tools = [{"type": "function", "name": "add", "parameters": PARAMETERS}]
    with oai.responses.stream(model="T", input="hi", tools=tools) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[-1] == "response.completed"
    assert [item.type for item in final.output] == ["reasoning", "function_call"]
    with oai.responses.stream(model="C", input="hi") as stream:
        assert "".join(event.delta for event in stream if event.type == "response.output_text.delta") == "Hello"


# --- anthropic -------------------------------------------------------------------------------------------------------


def test_anthropic_message(claude):
    message = claude.messages.create(model="C", max_tokens=5, messages=HI, system="be brief")
    assert message.content[0].text == "Hello"
    assert (message.stop_reason, message.usage.input_tokens) == ("end_turn", 11)


def test_anthropic_stream(claude):
    with claude.messages.stream(model="C", max_tokens=5, messages=HI) as stream:
        assert "".join(stream.text_stream) == "Hello"
        assert stream.get_final_message().usage.output_tokens == 3


def test_anthropic_tools_and_thinking(claude):
    tools = [{"name": "add", "description": "adds", "input_schema": PARAMETERS}]
    thinking = {"type": "enabled", "budget_tokens": 1024}
    message = claude.messages.create(model="T", max_tokens=2000, messages=HI, tools=tools, thinking=thinking)
    assert [block.type for block in message.content] == ["thinking", "tool_use"]
    assert message.content[1].input == {"a": 1}
    with claude.messages.stream(model="T", max_tokens=5, messages=HI, tools=tools) as stream:
        final = stream.get_final_message()
    assert (final.content[1].name, final.content[1].input, final.stop_reason) == ("add", {"a": 1}, "tool_use")


def test_anthropic_count_tokens(claude):
    assert claude.messages.count_tokens(model="C", messages=HI).input_tokens == len("[user]hi")


def test_anthropic_errors(claude):
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.create(model="nope", max_tokens=5, messages=HI)
    with pytest.raises(anthropic.BadRequestError, match="temperature"):
        claude.messages.create(model="C", max_tokens=5, messages=HI, extra_body={"temperature": "hot"})
    with (
        pytest.raises(anthropic.APIStatusError, match="SIGKILL"),
        claude.messages.stream(model="C", max_tokens=5, messages=BREAK) as stream,
    ):
        stream.until_done()
