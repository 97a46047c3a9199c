"""The server over real runner processes with SmolLM2: the native API over plain HTTP and through the `ollama` client,
a killed runner, dropped connections, many streams at once."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import httpx
import ollama
import pytest
from tests.model_store import SMOLLM2
from tests.real_server import real_server

pytestmark = pytest.mark.models

GREEDY = {"temperature": 0, "num_predict": 16}
QUESTION = "What is the capital of France?"
HI = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with real_server(tmp_path_factory.mktemp("home")) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    with ollama.Client(host=server.url, timeout=300) as client:
        yield client


def wait_until(condition, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


def test_load_then_ps(server):
    body = server.post("/api/generate", {"model": SMOLLM2}).json()
    assert body["done_reason"] == "load"
    [entry] = httpx.get(server.url + "/api/ps").json()["models"]
    assert entry["context_length"] == 2048
    assert entry["size"] > 90_000_000


def test_streamed_and_whole_answers_are_equal(server):
    body = {"model": SMOLLM2, "prompt": QUESTION, "options": GREEDY}
    whole = server.post("/api/generate", {**body, "stream": False}).json()
    lines = [json.loads(line) for line in server.post("/api/generate", body).text.splitlines()]
    assert whole["response"].strip()
    assert "".join(line["response"] for line in lines) == whole["response"]
    assert lines[-1]["done_reason"] == whole["done_reason"]
    for key in ("context", "prompt_eval_count", "eval_count", "eval_duration", "total_duration", "load_duration"):
        assert lines[-1][key], key
    assert lines[-1]["context"] == whole["context"]


def test_chat_gives_the_same_text_as_generate(server):
    generated = server.post("/api/generate", {"model": SMOLLM2, "prompt": QUESTION, "options": GREEDY, "stream": False})
    chatted = server.post("/api/chat", {"model": SMOLLM2, "messages": HI, "options": GREEDY, "stream": False})
    assert chatted.json()["message"]["content"] == generated.json()["response"]


def test_context_continues_the_conversation(server):
    first = server.post(
        "/api/generate", {"model": SMOLLM2, "prompt": "My name is Ada.", "options": GREEDY, "stream": False}
    ).json()
    second = server.post(
        "/api/generate",
        {"model": SMOLLM2, "prompt": "Hi", "context": first["context"], "options": GREEDY, "stream": False},
    ).json()
    assert second["prompt_eval_count"] > first["prompt_eval_count"]


def test_length_stop_and_seed(server):
    body = {"model": SMOLLM2, "prompt": "Count:", "stream": False, "raw": True}
    one = server.post("/api/generate", {**body, "options": {"num_predict": 1}}).json()
    assert (one["done_reason"], one["eval_count"]) == ("length", 1)
    stopped = server.post(
        "/api/generate", {**body, "prompt": "1, 2, 3, 4,", "options": {**GREEDY, "stop": ["6"]}}
    ).json()
    assert stopped["done_reason"] == "stop"
    assert "6" not in stopped["response"]
    seeded = {**body, "options": {"seed": 7, "num_predict": 12}}
    assert (
        server.post("/api/generate", seeded).json()["response"]
        == server.post("/api/generate", seeded).json()["response"]
    )


def test_format_json_gives_json(server):
    body = {
        "model": SMOLLM2,
        "messages": [{"role": "user", "content": "Give me a person as JSON."}],
        "format": {
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 10}, "age": {"type": "integer", "maximum": 99}},
            "required": ["name", "age"],
        },
        "options": {"temperature": 0, "num_predict": 64},
        "stream": False,
    }
    person = json.loads(server.post("/api/chat", body).json()["message"]["content"])
    assert set(person) == {"name", "age"}


def test_logprobs(server):
    body = {"model": SMOLLM2, "prompt": QUESTION, "options": {"temperature": 0, "num_predict": 3}, "stream": False}
    answer = server.post("/api/generate", {**body, "logprobs": True, "top_logprobs": 2}).json()
    assert len(answer["logprobs"]) == answer["eval_count"]
    first = answer["logprobs"][0]
    assert first["logprob"] <= 0
    assert bytes(first["bytes"]).decode() == first["token"]
    assert len(first["top_logprobs"]) == 2


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"temperature": "hot"}, 'option "temperature" must be of type float32'),
        ({"top_p": 3}, 'option "top_p" must be between 0 and 1, got 3'),
        ({"num_ctx": -5}, 'option "num_ctx" must be between 0 and 16777216, got -5'),
    ],
)
def test_bad_options_name_the_option(server, options, error):
    response = server.post("/api/generate", {"model": SMOLLM2, "prompt": "x", "options": options})
    assert (response.status_code, response.json()["error"]) == (400, error)


def test_prompt_beyond_the_context(server):
    long = "word " * 3000
    body = {"model": SMOLLM2, "prompt": long, "raw": True, "stream": False, "options": {"num_predict": 1}}
    refused = server.post("/api/generate", {**body, "shift": False})
    assert refused.status_code == 400
    assert refused.json()["error"].startswith("the prompt is longer than the context length")
    cut = server.post("/api/generate", body)
    assert cut.status_code == 200
    assert cut.json()["truncated"]["tokens"] > 0


def test_bad_grammar_is_refused_and_the_model_goes_on(server):
    body = {"model": SMOLLM2, "messages": HI, "format": {"type": "nonsense"}, "options": GREEDY, "stream": False}
    assert server.post("/api/chat", body).status_code == 400
    assert server.post("/api/chat", {**body, "format": None}).status_code == 200


def test_ollama_client_chat_generate_embed(client):
    whole = client.chat(model=SMOLLM2, messages=HI, options=GREEDY).message.content
    streamed = "".join(e.message.content for e in client.chat(model=SMOLLM2, messages=HI, options=GREEDY, stream=True))
    assert streamed == whole
    assert whole.strip()
    assert client.generate(model=SMOLLM2, prompt=QUESTION, options=GREEDY).eval_count > 0
    rows = client.embed(model=SMOLLM2, input=["a cat", "a dog", "tax law"]).embeddings
    assert len(rows) == 3
    assert sum(x * x for x in rows[0]) == pytest.approx(1.0, abs=1e-4)


def test_ollama_client_models(client):
    assert SMOLLM2 in [model.model for model in client.list().models]
    shown = client.show(SMOLLM2)
    assert shown.modelinfo["general.architecture"] == "llama"
    assert SMOLLM2 in [model.model for model in client.ps().models]
    assert list(client.pull(SMOLLM2, stream=True))[-1].status == "success"
    client.copy(SMOLLM2, "smollm2-copy:test")
    client.delete("smollm2-copy:test")
    with pytest.raises(ollama.ResponseError, match="not found"):
        client.show("smollm2-copy:test")


def test_eight_streams_at_once(server):
    answers: dict[int, str] = {}

    def ask(i: int) -> None:
        body = {"model": SMOLLM2, "messages": HI, "options": {**GREEDY, "num_predict": 8 + i}}
        lines = [json.loads(line) for line in server.post("/api/chat", body).text.splitlines()]
        assert lines[-1]["done"]
        answers[i] = "".join(line["message"]["content"] for line in lines)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(answers) == 8
    assert all(answer.strip() for answer in answers.values())


def test_dropped_connection_frees_its_cells(server):
    options = {"num_predict": 1500, "temperature": 0}
    body = {"model": SMOLLM2, "prompt": "Once upon a time", "raw": True, "options": options}
    label = f'{{model="{SMOLLM2}"}}'
    with httpx.stream("POST", server.url + "/api/generate", json=body, timeout=60) as response:
        lines = response.iter_lines()  # kept: the connection ends with its iterator
        next(lines)
        assert server.metrics()[f"donabe_running_requests{label}"] == 1

    def is_free() -> bool:
        metrics = server.metrics()
        held = metrics[f"donabe_kv_cells_used{label}"] - metrics[f"donabe_kv_cells_cached{label}"]
        return metrics[f"donabe_running_requests{label}"] == 0 and held == 0

    wait_until(is_free)


def test_killed_runner_gives_one_error_and_the_next_request_works(server):
    server.post("/api/generate", {"model": SMOLLM2})
    body = {"model": SMOLLM2, "prompt": "Once upon a time", "raw": True, "options": {"num_predict": 1500}}
    lines = []
    with httpx.stream("POST", server.url + "/api/generate", json=body, timeout=60) as response:
        for line in response.iter_lines():
            lines.append(json.loads(line))
            if len(lines) == 3:
                os.kill(server.runner().info.pid, signal.SIGKILL)
    assert response.status_code == 200
    errors = [line for line in lines if "error" in line]
    assert errors == lines[-1:]
    assert "SIGKILL" in errors[0]["error"]
    again = server.post("/api/generate", {"model": SMOLLM2, "prompt": QUESTION, "options": GREEDY, "stream": False})
    assert again.json()["response"].strip()


def test_unload_stops_the_runner(server):
    pid = server.runner().info.pid
    assert server.post("/api/generate", {"model": SMOLLM2, "keep_alive": 0}).json()["done_reason"] == "unload"
    wait_until(lambda: SMOLLM2 not in [m["name"] for m in httpx.get(server.url + "/api/ps").json()["models"]])

    def is_gone() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False

    wait_until(is_gone)


def test_num_ctx_bounds_what_is_embedded(server):
    """Example 57 of the reference."""
    body = {"model": SMOLLM2, "input": "one two three four five six seven", "options": {"num_ctx": 4}}
    refused = server.post("/api/embed", {**body, "truncate": False})
    assert (refused.status_code, refused.json()["error"]) == (400, "the input length exceeds the context length")
    cut = server.post("/api/embed", body).json()
    assert (cut["prompt_eval_count"], len(cut["embeddings"])) == (4, 1)
    assert any(entry["context_length"] == 4 for entry in server.get("/api/ps").json()["models"])
