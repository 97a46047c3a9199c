"""The official `ollama` Python client, unmodified, against a live server over scripted runners."""

from __future__ import annotations

import ollama
import pytest
from tests.fakes.live import running
from tests.fakes.runner import USAGE, hello
from tests.fakes.server import make_server

from donabe.types import Delta, Failed, Finished, FinishReason, ToolCall

END = Finished(reason=FinishReason.STOP, usage=USAGE)
HI = [{"role": "user", "content": "hi"}]


def script(request):
    messages = getattr(request, "messages", ())
    if getattr(request, "tools", ()):
        return [Delta(thinking="hmm"), Delta(tool_calls=(ToolCall(name="add", arguments='{"a":1,"b":2}'),)), END]
    if messages and messages[-1].content == "break":
        return [Delta(text="Hel"), Failed(kind="RunnerDiedError", message="signal 9 (SIGKILL)")]
    return hello(request)


@pytest.fixture(scope="module")
def server():
    fake = make_server(script=script)
    with running(fake.app) as url:
        fake.url = url
        yield fake


@pytest.fixture
def client(server):
    with ollama.Client(host=server.url) as client:
        yield client


def test_generate(client):
    answer = client.generate(model="C", prompt="hi")
    assert (answer.response, answer.done_reason, answer.eval_count) == ("Hello", "stop", 3)
    assert list(answer.context) == [100, 101]


def test_generate_stream(client):
    events = list(client.generate(model="C", prompt="hi", stream=True))
    assert "".join(event.response for event in events) == "Hello"
    assert [event.done for event in events] == [False, False, True]


def test_chat(client):
    answer = client.chat(model="C", messages=HI, options={"temperature": 0, "num_predict": 5}, keep_alive="1m")
    assert answer.message.content == "Hello"
    assert answer.total_duration > 0


def test_chat_stream(client):
    assert "".join(event.message.content for event in client.chat(model="C", messages=HI, stream=True)) == "Hello"


def test_tools_and_thinking(client):
    def add(a: int, b: int) -> int:
        """Add two numbers.

        Args:
            a: One.
            b: Other.
        """
        return a + b

    message = client.chat(model="T", messages=HI, tools=[add], think=True).message
    assert message.thinking == "hmm"
    assert message.tool_calls[0].function.name == "add"
    assert message.tool_calls[0].function.arguments == {"a": 1, "b": 2}


async def test_async_client(server):
    async with ollama.AsyncClient(host=server.url) as client:
        events = [event async for event in await client.chat(model="C", messages=HI, stream=True)]
    assert "".join(event.message.content for event in events) == "Hello"


def test_embed(client):
    answer = client.embed(model="E", input=["a", "b"])
    assert [list(row) for row in answer.embeddings] == [[0.6, 0.8, 0, 0]] * 2
    assert list(client.embeddings(model="E", prompt="a").embedding)[:2] == pytest.approx([0.6, 0.8])


def test_list_show_ps(client):
    assert {model.model for model in client.list().models} >= {"C:latest", "T:latest"}
    shown = client.show("P")
    assert shown.details.family == "llama"
    assert shown.modelinfo["general.architecture"] == "llama"
    assert "completion" in shown.capabilities
    client.generate(model="C")
    assert "C:latest" in [model.model for model in client.ps().models]


def test_pull_copy_delete(client):
    assert client.pull("tiny").status == "success"
    statuses = [progress.status for progress in client.pull("tiny", stream=True)]
    assert statuses[0] == "pulling manifest"
    assert statuses[-1] == "success"
    assert client.copy("C", "gone").status == "success"
    assert client.delete("gone").status == "success"


def test_errors_are_response_errors(client):
    with pytest.raises(ollama.ResponseError, match="model 'nope' not found") as caught:
        client.chat(model="nope", messages=HI)
    assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="file does not exist"):
        list(client.pull("nope", stream=True))


def test_error_in_a_stream_reaches_the_client(client):
    texts = []
    with pytest.raises(ollama.ResponseError, match="SIGKILL"):
        for event in client.chat(model="C", messages=[{"role": "user", "content": "break"}], stream=True):
            texts.append(event.message.content)
    assert texts == ["Hel"]
