"""Routes of llama.cpp and vLLM clients over scripted runners."""

from __future__ import annotations

import msgspec
import pytest
from tests.fakes.server import make_server
from tests.fakes.settings import FakeSettings

from donabe.types import Delta, Finished, FinishReason, Usage

HI = [{"role": "user", "content": "hi"}]


@pytest.fixture
def server():
    return make_server()


async def test_infill(server):
    body = {"model": "S", "input_prefix": "def f(", "input_suffix": "return 1", "prompt": "a", "n_predict": 5}
    answer = (await server.post("/infill", body | {"cache_prompt": True})).json()
    assert (answer["content"], answer["stop"], answer["tokens_predicted"]) == ("Hello", True, 3)
    request = server.runners.last.requests[0]
    assert (request.prompt, request.suffix, request.output.max_tokens) == ("def f(a", "return 1", 5)


async def test_infill_stream(server):
    body = {"model": "S", "input_prefix": "x", "input_suffix": "y", "stream": True}
    response = await server.post("/infill", body)
    events = [msgspec.json.decode(block[6:]) for block in response.text.strip().split("\n\n")]
    assert [event["content"] for event in events] == ["Hel", "lo", ""]
    assert [event["stop"] for event in events] == [False, False, True]


async def test_infill_needs_a_model_that_can(server):
    response = await server.post("/infill", {"model": "C", "input_prefix": "x", "input_suffix": "y"})
    assert response.status_code == 400
    assert "does not support insert" in response.json()["error"]["message"]


async def test_model_in_use_is_meant_when_none_is_named(server):
    response = await server.post("/tokenize", {"content": "\x01\x02"})
    assert (response.status_code, response.json()["error"]["message"]) == (400, "model is required")
    await server.post("/api/generate", {"model": "C"})
    assert (await server.post("/tokenize", {"content": "\x01\x02"})).json() == {
        "tokens": [1, 2],
        "count": 2,
        "max_model_len": 4096,
    }
    assert (await server.post("/detokenize", {"tokens": [1, 2]})).json()["content"] == "\x01\x02"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {}),
        ("/tokenize", {"messages": []}),
        ("/tokenize", {"messages": HI, "add_special_tokens": True}),
        ("/tokenize", {"messages": HI, "add_generation_prompt": False}),
        ("/tokenize", {"messages": HI, "chat_template": "{{ messages }}"}),
        ("/apply-template", {}),
        ("/apply-template", {"messages": HI, "chat_template": "{{ messages }}"}),
        ("/detokenize", {"tokens": ["a"]}),
        ("/infill", {}),
        ("/infill", {"input_prefix": "x", "temperature": "hot"}),
    ],
)
async def test_refusals(server, path, body):
    await server.post("/api/generate", {"model": "C"})
    response = await server.post(path, body)
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_thinking_of_an_infill_is_not_lost(is_streamed):
    events = [
        Delta(thinking="h"),
        Delta(thinking="m", text="a"),
        Delta(text="b"),
        Finished(reason=FinishReason.STOP, usage=Usage()),
    ]
    server = make_server(script=lambda _: events)
    response = await server.post("/infill", {"model": "S", "input_prefix": "x", "stream": is_streamed})
    blocks = response.text.strip().split("\n\n") if is_streamed else ["data: " + response.text]
    found = [msgspec.json.decode(block[6:]) for block in blocks]
    assert "".join(part.get("reasoning", "") for part in found) == "hm"
    assert "".join(part["content"] for part in found) == "ab"


# --- vectors and classes ---------------------------------------------------------------------------------------------


async def test_embedding_is_a_list_of_rows_for_each_input(server):
    answer = (await server.post("/embedding", {"model": "E", "content": "a"})).json()
    assert answer == [{"index": 0, "embedding": [[0.6, 0.8, 0.0, 0.0]]}]
    request = server.runners.last.requests[-1]
    assert (request.inputs, request.normalize, request.truncate, request.pooling) == (("a",), True, False, "")
    answer = (await server.post("/embeddings", {"model": "E", "input": ["a", [1, 2]], "embd_normalize": -1})).json()
    assert [entry["index"] for entry in answer] == [0, 1]
    request = server.runners.last.requests[-1]
    assert (request.inputs, request.normalize) == (("a", (1, 2)), False)


async def test_embedding_of_pooling_none_has_a_row_for_every_token(server):
    server_rows = (2, 1)
    await server.post("/embedding", {"model": "E", "content": "a"})
    server.runners.last.n_rows_each = server_rows
    answer = (await server.post("/embedding", {"content": ["a b", "c"], "pooling": "none"})).json()
    assert [len(entry["embedding"]) for entry in answer] == list(server_rows)
    request = server.runners.last.requests[-1]
    assert (request.pooling, request.normalize) == ("none", False)  # as llama.cpp's server has it


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"model": "E", "input": "a"}),
        ("/api/embed", {"model": "E", "input": "a"}),
        ("/api/embeddings", {"model": "E", "prompt": "a"}),
    ],
)
async def test_routes_of_one_vector_take_poolings_that_give_one(server, path, body):
    assert (await server.post(path, body | {"pooling": "cls"})).status_code == 200
    assert server.runners.last.requests[-1].pooling == "cls"
    refused = await server.post(path, body | {"pooling": "none"})
    assert refused.status_code == 400
    assert "one vector for each input" in refused.text
    assert "/embedding" in refused.text
    refused = await server.post(path, body | {"pooling": "max"})
    assert (refused.status_code, "pooling must be one of mean, cls, last, not max" in refused.text) == (400, True)


async def test_classify(server):
    body = {"model": "R", "input": ["good", "bad"]}
    answer = (await server.post("/classify", body)).json()
    assert answer["data"] == [{"index": i, "label": "yes", "probs": [0.25, 0.75], "num_classes": 2} for i in range(2)]
    assert (answer["object"], answer["model"], answer["labels"]) == ("list", "R", ["no", "yes"])
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] == 6
    assert answer["id"].startswith("classify-")
    request = server.runners.last.requests[-1]
    assert (request.inputs, request.truncate) == (("good", "bad"), False)
    load = server.runners.loads[-1][1]
    assert (load.embedding, load.pooling) == (True, "rank")
    await server.post("/classify", {"input": [1, 2, 3], "truncate_prompt_tokens": -1})  # the model in use
    request = server.runners.last.requests[-1]
    assert (request.inputs, request.truncate) == (((1, 2, 3),), True)


async def test_classify_needs_a_model_that_can(server):
    response = await server.post("/classify", {"model": "C", "input": "a"})
    assert response.status_code == 400
    assert "does not support classification" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        ("/embedding", "content", None),
        ("/embedding", "content", []),
        ("/embedding", "content", [1.5]),
        ("/embedding", "embd_normalize", 1),
        ("/embedding", "encoding_format", "base64"),
        ("/embedding", "pooling", "rank"),
        ("/embedding", "truncate", "yes"),
        ("/classify", "input", None),
        ("/classify", "input", {"a": 1}),
        ("/classify", "input", [[]]),
        ("/classify", "use_activation", False),
        ("/classify", "truncate_prompt_tokens", 5),
    ],
)
async def test_wrong_fields_of_vectors_and_classes_are_named(server, path, field, value):
    body = {"model": "R", ("content" if path == "/embedding" else "input"): "a"} | {field: value}
    response = await server.post(path, body)
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (400, "invalid_request_error")
    assert field in error["message"] or field == error.get("param")


async def test_pieces_of_tokens(server):
    """Texts where they are texts, bytes where a token is a part of a character."""
    await server.post("/api/generate", {"model": "C"})
    found = (await server.post("/tokenize", {"content": "a\u00ff", "with_pieces": True})).json()
    assert found["tokens"] == [{"id": 97, "piece": "a"}, {"id": 255, "piece": [255]}]
    found = (await server.post("/tokenize", {"prompt": "a\u00ff", "return_token_strs": True})).json()
    assert (found["tokens"], found["token_strs"], found["count"]) == ([97, 255], ["a", "\ufffd"], 2)


async def test_tokens_of_a_conversation(server):
    body = {"model": "C", "messages": HI, "return_token_strs": True}
    found = (await server.post("/tokenize", body)).json()
    assert "".join(found["token_strs"]) == "[user]hi"
    assert (found["count"], found["max_model_len"]) == (len("[user]hi"), 4096)


async def test_template_is_applied(server):
    messages = [{"role": "system", "content": [{"type": "text", "text": "s"}]}, *HI]
    assert (await server.post("/apply-template", {"model": "C", "messages": messages})).json() == {
        "prompt": "[system]s[user]hi"
    }


async def test_tools_of_a_template_reach_the_model(server):
    tool = {"type": "function", "function": {"name": "add", "parameters": {}}}
    assert (await server.post("/apply-template", {"model": "T", "messages": HI, "tools": [tool]})).status_code == 200
    refused = await server.post("/apply-template", {"model": "C", "messages": HI, "tools": [tool]})
    assert (refused.status_code, "does not support tools" in refused.text) == (400, True)


async def test_props(server):
    assert (await server.client.get("/props")).status_code == 400  # several are installed, none is loaded
    found = (await server.client.get("/props", params={"model": "C"})).json()
    assert (found["default_generation_settings"], found["is_sleeping"]) == ({"n_ctx": 8192}, True)
    await server.post("/api/generate", {"model": "C"})
    found = (await server.client.get("/props")).json()
    assert (found["default_generation_settings"], found["total_slots"]) == ({"n_ctx": 4096}, 4)
    assert (found["model_path"], found["chat_template"]) == ("C:latest", "{{ messages }}")
    assert found["modalities"] == {"vision": False, "audio": False}
    assert (await server.client.get("/props", params={"model": "nope"})).status_code == 404


# --- models ----------------------------------------------------------------------------------------------------------


TEXTS = [{"content": "hi"}, {"messages": HI}]


@pytest.mark.parametrize("text", TEXTS)
async def test_tokens_and_their_texts_need_the_model_once(text):
    server = make_server(settings=FakeSettings(keep_alive_s=0))
    response = await server.post("/tokenize", {"model": "C", "with_pieces": True, **text})
    assert (response.status_code, len(server.runners.loads)) == (200, 1)


NOTE = "no room for it on the device"
ONE_ANSWER = [
    *(("/tokenize", {"model": "C", **text}) for text in TEXTS),
    ("/detokenize", {"model": "C", "tokens": [5]}),
    ("/apply-template", {"model": "C", "messages": HI}),
    ("/embedding", {"model": "E", "content": "a"}),
    ("/classify", {"model": "R", "input": "a"}),
    ("/rerank", {"model": "R", "query": "a", "documents": ["b"]}),
    ("/api/rerank", {"model": "R", "query": "a", "documents": ["b"]}),
    ("/api/tokenize", {"model": "C", "text": "a"}),
    ("/api/detokenize", {"model": "C", "tokens": [5]}),
    ("/api/chat", {"model": "C", "messages": HI, "_debug_render_only": True}),
    ("/v1/messages/count_tokens", {"model": "C", "messages": HI}),
    ("/v1/responses/input_tokens", {"model": "C", "input": "hi"}),
]


@pytest.mark.parametrize(("path", "body"), ONE_ANSWER)
async def test_what_a_load_gave_up_is_told_with_every_answer(server, path, body):
    server.runners.info = {"notes": (NOTE,)}
    response = await server.post(path, body)
    assert (response.status_code, NOTE in response.headers.get("warning", "")) == (200, True), response.text


@pytest.mark.parametrize(("path", "body"), [*ONE_ANSWER, ("/infill", {"input_prefix": "x"})])
async def test_a_model_that_is_not_there_is_named_as_the_caller_wrote_it(server, path, body):
    response = await server.post(path, {**body, "model": "Nope:V1"})
    assert (response.status_code, "model 'Nope:V1' not found" in response.text) == (404, True), response.text
