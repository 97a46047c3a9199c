"""The reference's conformance examples for the native API, over scripted runners: status, shape and literal texts.

Where donabe differs on purpose, the test says so: bad options and formats are 400 instead of 500.
"""

from __future__ import annotations

import json
import re

import pytest
from tests.fakes.images import encoded, png
from tests.fakes.runner import USAGE
from tests.fakes.server import make_server

from donabe.errors import ContextLengthError, RunnerDiedError, RunnerError
from donabe.types import Delta, Failed, Finished, FinishReason, RunnerStatus, TokenLogprob, ToolCall

HI = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
END = Finished(reason=FinishReason.STOP, usage=USAGE)


@pytest.fixture
def server():
    return make_server()


def error_of(response) -> str:
    body = response.json()
    assert set(body) <= {"error", "hint", "prompt_tokens", "context_length"}
    return body["error"]


# --- general ---------------------------------------------------------------------------------------------------------


async def test_banner(server):
    response = await server.client.get("/")
    assert (response.status_code, response.text) == (200, "Ollama is running")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"


async def test_head_of_banner_has_its_length(server):
    response = await server.client.head("/")
    assert response.status_code == 200
    assert response.headers["content-length"] == "17"


async def test_version(server):
    body = (await server.client.get("/api/version")).json()
    assert body["version"] == "0.33.0"
    assert body["donabe"]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/api/version", "HEAD, GET"),
        ("GET", "/api/chat", "POST"),
        ("HEAD", "/api/ps", "GET"),
        ("POST", "/api/delete", "DELETE"),
    ],
)
async def test_wrong_method(server, method, path, allow):
    response = await server.client.request(method, path)
    assert response.status_code == 405
    assert response.headers["allow"] == allow
    assert response.headers["content-type"] == "text/plain"
    assert response.text == ("" if method == "HEAD" else "405 method not allowed")


@pytest.mark.parametrize("path", ["/api/nope", "/API/version", "/v2/x"])
async def test_unknown_path(server, path):
    response = await server.client.get(path)
    assert (response.status_code, response.text) == (404, "404 page not found")
    assert response.headers["content-type"] == "text/plain"


@pytest.mark.parametrize("path", ["/", "/api/version", "/api/tags"])
async def test_head_routes(server, path):
    assert (await server.client.head(path)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "location"),
    [
        ("GET", "/api/version/", 301, "/api/version"),
        ("POST", "/api/chat/", 307, "/api/chat"),
        ("GET", "//api//version", 307, "/api/version"),
        ("GET", "/api/version/?a=1", 301, "/api/version?a=1"),
    ],
)
async def test_unclean_paths_redirect(server, method, path, status, location):
    response = await server.client.request(method, "http://127.0.0.1:11434" + path)
    assert (response.status_code, response.headers["location"]) == (status, location)


async def test_status_says_there_is_no_cloud(server):
    assert (await server.client.get("/api/status")).json() == {"cloud": {"disabled": True, "source": "env"}}


# --- generate: bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b"", 400, "missing request body"),
        (b" \n ", 400, "missing request body"),
        (b"{", 400, "unexpected EOF"),
        (b'{"model":"C","prompt":"h', 400, "unexpected EOF"),
        (b"[]", 400, "json: cannot unmarshal array into Go value of type api.GenerateRequest"),
        (
            {"model": 5},
            400,
            "json: cannot unmarshal number into Go struct field GenerateRequest.model of type string",
        ),
        (
            {"model": "C", "options": []},
            400,
            "json: cannot unmarshal array into Go struct field GenerateRequest.options of type map[string]interface {}",
        ),
        ({"model": "C", "prompt": "hi", "top_logprobs": 21}, 400, "top_logprobs must be between 0 and 20"),
        ({"model": "C", "prompt": "hi", "top_logprobs": -1}, 400, "top_logprobs must be between 0 and 20"),
        ({"model": "nope", "prompt": "x"}, 404, "model 'nope' not found"),
        ({"model": "", "prompt": "x"}, 404, "model '' not found"),
        ({"prompt": "x"}, 404, "model '' not found"),
        ({"model": "a b", "prompt": "x"}, 400, "invalid model name"),
        ({"model": "x:cloud:local"}, 400, 'use either :local or :cloud, not both: "x:cloud:local"'),
        ({"model": "x:cloud", "prompt": "y"}, 403, "ollama cloud is disabled: remote model is unavailable"),
        (
            {"model": "C", "prompt": "hi", "raw": True, "system": "x"},
            400,
            "raw mode does not support template, system, or context",
        ),
        (
            {"model": "C", "prompt": "hi", "suffix": "z"},
            400,
            "registry.ollama.ai/library/C:latest does not support insert",
        ),
        ({"model": "C", "prompt": "hi", "think": True}, 400, '"C" does not support thinking'),
        (
            {"model": "C", "prompt": "hi", "think": "extreme"},
            400,
            'invalid think value: "extreme" (must be "high", "medium", "low", "max", true, or false)',
        ),
        (
            {"model": "C", "prompt": "hi", "think": 1},
            400,
            'think must be a boolean or string ("high", "medium", "low", "max", true, or false)',
        ),
        # 500 in the reference:
        (
            {"model": "C", "prompt": "hi", "format": "xml"},
            400,
            'invalid format: "\\"xml\\""; expected "json" or a valid JSON Schema object',
        ),
        (
            {"model": "C", "prompt": "hi", "options": {"temperature": "hot"}},
            400,
            'option "temperature" must be of type float32',
        ),
        ({"model": "C", "prompt": "hi", "options": {"stop": "x"}}, 400, 'option "stop" must be of type array'),
        (
            {"model": "C", "prompt": "hi", "options": {"stop": [1]}},
            400,
            'option "stop" must be of an array of strings',
        ),
        (
            {"model": "C", "prompt": "hi", "options": {"num_ctx": "big"}},
            400,
            'option "num_ctx" must be of type integer',
        ),
        (
            {"model": "C", "prompt": "hi", "options": {"use_mmap": 1}},
            400,
            'option "use_mmap" must be of type boolean',
        ),
        # only the type is checked by the reference:
        ({"model": "C", "prompt": "hi", "options": {"top_p": 7}}, 400, 'option "top_p" must be between 0 and 1, got 7'),
        ({"model": "C", "prompt": "hi", "keep_alive": "5"}, 400, 'time: missing unit in duration "5"'),
        ({"model": "C", "prompt": "hi", "keep_alive": "abc"}, 400, 'time: invalid duration "abc"'),
        ({"model": "C", "prompt": "hi", "keep_alive": True}, 400, "Unsupported type: 'bool'"),
        ({"model": "C", "prompt": "hi", "images": ["!!!"]}, 400, "illegal base64 data at input byte 0"),
        ({"model": "C", "prompt": "hi", "images": [encoded(png())]}, 400, '"C" does not support images'),
        ({"model": "E", "prompt": "hi"}, 400, '"E" does not support generate'),
    ],
)
async def test_generate_refuses(server, body, status, error):
    response = await server.post("/api/generate", body)
    assert (response.status_code, error_of(response)) == (status, error)
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    assert not server.runners.loads


async def test_syntax_error_is_400(server):
    response = await server.post("/api/generate", b'{"model": nope}')
    assert response.status_code == 400
    assert error_of(response).startswith("invalid character 'n'")


async def test_deep_nesting_is_refused(server):
    response = await server.post("/api/generate", b'{"a":' + b"[" * 100_000)
    assert response.status_code == 400


# --- generate: answers -----------------------------------------------------------------------------------------------


async def test_generate_streams_events_and_one_final(server):
    *events, final = await server.lines("/api/generate", {"model": "C", "prompt": "hi"})
    assert [event["response"] for event in events] == ["Hel", "lo"]
    assert all(list(event) == ["model", "created_at", "response", "done"] for event in events)
    assert list(final)[:5] == ["model", "created_at", "response", "done", "done_reason"]
    assert (final["response"], final["done"], final["done_reason"]) == ("", True, "stop")
    assert final["context"] == [100, 101]
    assert (final["prompt_eval_count"], final["eval_count"]) == (11, 3)
    assert (final["prompt_eval_duration"], final["eval_duration"]) == (12_500_000, 30_250_000)
    assert final["total_duration"] > 0
    assert final["load_duration"] > 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z", final["created_at"])


async def test_generate_unstreamed_is_the_same_text_in_one_object(server):
    response = await server.post("/api/generate", {"model": "C", "prompt": "hi", "stream": False})
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    body = response.json()
    assert (body["response"], body["done"], body["done_reason"]) == ("Hello", True, "stop")
    assert body["eval_count"] == 3


async def test_raw_answer_has_no_context(server):
    response = await server.post("/api/generate", {"model": "C", "prompt": "hi", "raw": True, "stream": False})
    assert "context" not in response.json()
    assert server.runners.last.requests[0].prompt == "hi"


async def test_load(server):
    response = await server.post("/api/generate", {"model": "C"})
    assert response.status_code == 200
    body = response.json()
    created_at = body.pop("created_at")
    assert created_at
    assert body == {"model": "C", "response": "", "done": True, "done_reason": "load"}
    assert len(server.runners.loads) == 1


async def test_unload_empties_ps(server):
    await server.post("/api/generate", {"model": "C"})
    assert len((await server.client.get("/api/ps")).json()["models"]) == 1
    body = (await server.post("/api/generate", {"model": "C", "keep_alive": 0})).json()
    assert body["done_reason"] == "unload"
    assert (await server.client.get("/api/ps")).json() == {"models": []}


async def test_unload_of_an_unknown_model_is_404(server):
    assert (await server.post("/api/generate", {"model": "nope", "keep_alive": 0})).status_code == 404


async def test_model_name_is_echoed_and_matched_in_any_case(server):
    response = await server.post("/api/generate", {"model": "c", "prompt": "hi", "stream": False})
    assert (response.status_code, response.json()["model"]) == (200, "c")


async def test_keys_match_in_any_case_and_null_is_absent(server):
    body = {"PROMPT": "hi", "Model": "C", "stream": False, "options": None, "think": None, "format": None}
    assert (await server.post("/api/generate", body)).status_code == 200


async def test_text_after_the_object_is_ignored(server):
    body = b'{"model":"C","prompt":"hi","stream":false} trailing'
    assert (await server.post("/api/generate", body)).status_code == 200


async def test_content_type_is_ignored(server):
    body = {"model": "C", "prompt": "hi", "stream": False}
    response = await server.post("/api/generate", body, headers={"content-type": "application/x-www-form-urlencoded"})
    assert response.status_code == 200


async def test_format_empty_is_unconstrained(server):
    await server.post("/api/generate", {"model": "C", "prompt": "hi", "format": ""})
    constraint = server.runners.last.requests[0].constraint
    assert not constraint.json_object
    assert constraint.json_schema is None


async def test_fraction_of_an_integer_option_is_cut_off(server):
    body = {"model": "C", "prompt": "hi", "options": {"seed": 1.9}, "stream": False}
    assert (await server.post("/api/generate", body)).status_code == 200
    assert server.runners.last.requests[0].sampling.seed == 1


async def test_unknown_options_and_fields_are_reported_in_a_header(server):
    body = {"model": "C", "prompt": "hi", "bogus": 1, "options": {"nonsense": 1, "numa": True}, "stream": False}
    response = await server.post("/api/generate", body)
    assert response.status_code == 200
    warnings = response.headers.get_list("warning")
    assert '299 donabe "unknown field bogus"' in warnings
    assert '299 donabe "unknown option nonsense"' in warnings
    assert '299 donabe "option numa no longer has an effect"' in warnings


async def test_header_is_safe_against_hostile_field_names(server):
    body = {"model": "C", "prompt": "hi", 'x"\r\nSet-Cookie: a=b': 1, "stream": False}
    response = await server.post("/api/generate", body)
    assert response.status_code == 200
    assert "set-cookie" not in response.headers


async def test_forever_is_beyond_a_hundred_years(server):
    await server.post("/api/generate", {"model": "C", "prompt": "hi", "keep_alive": -1})
    [entry] = (await server.client.get("/api/ps")).json()["models"]
    assert entry["expires_at"] > "2200"


async def test_debug_render_only(server):
    body = (await server.post("/api/generate", {"model": "P", "prompt": "hi", "_debug_render_only": True})).json()
    info = body["_debug_info"]
    assert info["rendered_template"] == "[system]be brief[user]1+1?[assistant]2[user]hi"
    assert len(info["tokens"]) > 5
    assert (body["response"], body["done"]) == ("", False)


async def test_logprobs():
    entry = TokenLogprob(
        token="Hi", token_id=5, logprob=-0.5, bytes_=b"Hi", top=(TokenLogprob(token="Hi", token_id=5, logprob=-0.5),)
    )
    server = make_server(script=lambda _request: [Delta(text="Hi", logprobs=(entry,)), END])
    body = {"model": "C", "prompt": "hi", "logprobs": True, "top_logprobs": 2, "stream": False}
    answer = (await server.post("/api/generate", body)).json()
    assert answer["logprobs"] == [
        {
            "token": "Hi",
            "logprob": -0.5,
            "bytes": [72, 105],
            "top_logprobs": [{"token": "Hi", "logprob": -0.5, "bytes": [72, 105]}],
        }
    ]
    assert server.runners.last.requests[0].output.top_logprobs == 2


async def test_length_is_reported():
    server = make_server(script=lambda _request: [Delta(text="x"), Finished(reason=FinishReason.LENGTH, usage=USAGE)])
    body = {"model": "C", "prompt": "hi", "options": {"num_predict": 1}, "stream": False}
    assert (await server.post("/api/generate", body)).json()["done_reason"] == "length"
    assert server.runners.last.requests[0].output.max_tokens == 1


async def test_suffix_runs_as_fill_in_the_middle(server):
    body = {"model": "S", "prompt": "def f(", "suffix": "return 1", "stream": False}
    assert (await server.post("/api/generate", body)).status_code == 200
    request = server.runners.last.requests[0]
    assert (request.prompt, request.suffix) == ("def f(", "return 1")


async def test_context_of_an_earlier_answer_is_put_in_front(server):
    await server.post("/api/generate", {"model": "C", "prompt": "b", "context": [1, 2]})
    assert server.runners.last.requests[0].prompt == (1, 2, *map(ord, "[user]b"))


async def test_context_outside_the_vocabulary_is_refused(server):
    response = await server.post("/api/generate", {"model": "C", "prompt": "b", "context": [99_999]})
    assert (response.status_code, error_of(response)) == (400, "context holds token ids outside 0..31")
    assert (await server.client.get("/api/ps")).json()["models"][0]["requests"] == 0


# --- errors of the runner --------------------------------------------------------------------------------------------


async def test_error_before_the_first_event_has_its_status():
    error = Failed(kind="ContextLengthError", message="too long", data={"n_prompt_tokens": 9, "n_ctx": 4})
    server = make_server(script=lambda _request: [error])
    response = await server.post("/api/generate", {"model": "C", "prompt": "hi", "shift": False})
    assert response.status_code == 400
    assert error_of(response).startswith("the prompt is longer than the context length currently available")


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat"])
async def test_error_after_the_first_event_is_the_last_line(path):
    failure = Failed(kind="RunnerDiedError", message="the model's process ended: signal 9 (SIGKILL)")
    server = make_server(script=lambda _request: [Delta(text="Hel"), failure])
    lines = await server.lines(path, {"model": "C", "prompt": "hi", "messages": HI})
    assert lines[-1] == {"error": "the model's process ended: signal 9 (SIGKILL)"}
    assert not any(line.get("done") for line in lines)


@pytest.mark.parametrize(
    "failure", [Failed(kind="RunnerDiedError", message="gone"), RunnerDiedError("gone"), ContextLengthError]
)
async def test_unstreamed_failure_has_its_status(failure):
    step = failure if not isinstance(failure, type) else failure("gone", n_prompt_tokens=1, n_ctx=1)
    server = make_server(script=lambda _request: [Delta(text="Hel"), step])
    response = await server.post("/api/generate", {"model": "C", "prompt": "hi", "stream": False})
    assert response.status_code == (400 if isinstance(step, ContextLengthError) else 500)


async def test_stream_without_end_is_an_error_and_not_silence():
    server = make_server(script=lambda _request: [Delta(text="Hel")])
    lines = await server.lines("/api/generate", {"model": "C", "prompt": "hi"})
    assert "without saying why" in lines[-1]["error"]


async def test_crashed_runner_is_replaced_for_the_next_request(server):
    await server.post("/api/generate", {"model": "C", "prompt": "hi"})
    server.runners.last.alive = False
    response = await server.post("/api/generate", {"model": "C", "prompt": "hi", "stream": False})
    assert response.json()["response"] == "Hello"
    assert len(server.runners.loads) == 2


# --- chat ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keep_alive", "reason"), [(None, "load"), (0, "unload")])
async def test_chat_without_messages_loads_or_unloads(server, keep_alive, reason):
    body = (await server.post("/api/chat", {"model": "C", "messages": [], "keep_alive": keep_alive})).json()
    del body["created_at"]
    assert body == {
        "model": "C",
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": reason,
    }


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"messages": HI}, "model is required"),
        ({"model": "C", "messages": HI, "tools": [TOOL]}, "registry.ollama.ai/library/C:latest does not support tools"),
        (
            {"model": "C", "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
            "json: cannot unmarshal array into Go struct field ChatRequest.messages.content of type string",
        ),
        ({"model": "E", "messages": HI}, '"E" does not support chat'),
        (
            {"model": "T", "messages": HI, "tools": "x"},
            "json: cannot unmarshal string into Go struct field ChatRequest.tools of type api.Tools",
        ),
        (
            {"model": "C", "messages": [{"role": "user", "content": "x", "images": [encoded(png())]}]},
            '"C" does not support images',
        ),
    ],
)
async def test_chat_refuses(server, body, error):
    response = await server.post("/api/chat", body)
    assert (response.status_code, error_of(response)) == (400, error)


async def test_chat_refuses_text_as_tool_arguments(server):
    call = {"function": {"name": "f", "arguments": "{}"}}
    response = await server.post("/api/chat", {"model": "C", "messages": [{"role": "assistant", "tool_calls": [call]}]})
    assert response.status_code == 400


async def test_chat_streams(server):
    messages = [{"role": "User", "content": "hi"}]
    *events, final = await server.lines("/api/chat", {"model": "C", "messages": messages})
    assert [event["message"] for event in events] == [
        {"role": "assistant", "content": "Hel"},
        {"role": "assistant", "content": "lo"},
    ]
    assert final["message"] == {"role": "assistant", "content": ""}
    assert (final["done"], final["done_reason"], final["eval_count"]) == (True, "stop", 3)
    assert "context" not in final
    assert server.runners.last.requests[0].messages[0].role == "user"


def tool_script(_request):
    calls = (ToolCall(name="get_weather", arguments='{"city":"Paris"}'), ToolCall(name="get_time", id="call_x"))
    return [Delta(thinking="hmm"), Delta(text="Sure."), Delta(tool_calls=calls), END]


async def test_tool_calls_stream_whole_with_ids_and_indices():
    server = make_server(script=tool_script)
    thinking, text, called, final = await server.lines("/api/chat", {"model": "T", "messages": HI, "tools": [TOOL]})
    assert thinking["message"] == {"role": "assistant", "content": "", "thinking": "hmm"}
    assert text["message"]["content"] == "Sure."
    first, second = called["message"]["tool_calls"]
    assert re.fullmatch(r"call_[a-z0-9]{8}", first["id"])
    assert first["function"] == {"index": 0, "name": "get_weather", "arguments": {"city": "Paris"}}
    assert second == {"id": "call_x", "function": {"index": 1, "name": "get_time", "arguments": {}}}
    assert final["done_reason"] == "stop"


async def test_tool_calls_unstreamed():
    server = make_server(script=tool_script)
    body = {"model": "T", "messages": HI, "tools": [TOOL], "stream": False}
    message = (await server.post("/api/chat", body)).json()["message"]
    assert (message["role"], message["content"], message["thinking"]) == ("assistant", "Sure.", "hmm")
    assert [call["function"]["index"] for call in message["tool_calls"]] == [0, 1]


@pytest.mark.parametrize(
    ("model", "think", "told"), [("T", None, True), ("T", False, False), ("T", "high", "high"), ("C", False, False)]
)
async def test_thinking_is_on_by_default_where_the_model_can(server, model, think, told):
    await server.post("/api/chat", {"model": model, "messages": HI, "think": think})
    assert server.runners.last.requests[0].think == told


async def test_stored_system_messages_and_parameters_are_used(server):
    await server.post("/api/chat", {"model": "P", "messages": HI, "options": {"temperature": 0.1}})
    request = server.runners.last.requests[0]
    assert [m.content for m in request.messages] == ["be brief", "1+1?", "2", "hi"]
    assert (request.sampling.temperature, request.output.stop) == (0.1, ("<end>",))


async def test_system_message_of_the_request_replaces_the_stored_one(server):
    messages = [{"role": "system", "content": "be long"}, *HI]
    await server.post("/api/chat", {"model": "P", "messages": messages})
    assert "be brief" not in [m.content for m in server.runners.last.requests[0].messages]


# --- embeddings ------------------------------------------------------------------------------------------------------


async def test_embed_one_text(server):
    body = (await server.post("/api/embed", {"model": "E", "input": "a"})).json()
    assert body["embeddings"] == [[0.6, 0.8, 0, 0]]
    assert (body["model"], body["prompt_eval_count"]) == ("E", 2)
    assert server.runners.loads[0][1].embedding


async def test_embed_list_with_dimensions(server):
    body = (await server.post("/api/embed", {"model": "E", "input": ["a", "b"], "dimensions": 2})).json()
    assert body["embeddings"] == [[0.6, 0.8], [0.6, 0.8]]


@pytest.mark.parametrize("extra", [{}, {"input": ""}, {"input": []}])
async def test_embed_nothing_loads(server, extra):
    response = await server.post("/api/embed", {"model": "E", **extra})
    assert response.json() == {"model": "E", "embeddings": []}
    assert len(server.runners.loads) == 1


@pytest.mark.parametrize("value", [[1], 5, {}, True])
async def test_embed_refuses_other_inputs(server, value):
    response = await server.post("/api/embed", {"model": "E", "input": value})
    assert (response.status_code, error_of(response)) == (400, "invalid input type")


async def test_embed_of_unknown_model(server):
    response = await server.post("/api/embed", {"model": "nope", "input": "x"})
    assert (response.status_code, error_of(response)) == (404, 'model "nope" not found, try pulling it first')


async def test_embed_too_long(server):
    await server.post("/api/embed", {"model": "E", "input": "x"})
    server.runners.last.embed_error = ContextLengthError("x", n_prompt_tokens=9, n_ctx=4)
    response = await server.post("/api/embed", {"model": "E", "input": "xxxx", "truncate": False})
    assert (response.status_code, error_of(response)) == (400, "the input length exceeds the context length")


async def test_embed_with_nan_is_refused(server):
    await server.post("/api/embed", {"model": "E", "input": "x"})
    server.runners.last.embedding = (float("nan"), 1.0)
    response = await server.post("/api/embed", {"model": "E", "input": "x"})
    assert (response.status_code, error_of(response)) == (400, "embedding contains NaN or Inf values")


async def test_older_embeddings(server):
    body = (await server.post("/api/embeddings", {"model": "E", "prompt": "a"})).json()
    assert body["embedding"][0] == 0.6000000238418579
    assert (await server.post("/api/embeddings", {"model": "E"})).json() == {"embedding": []}
    response = await server.post("/api/embeddings", {"model": ""})
    assert (response.status_code, error_of(response)) == (400, "model is required")


# --- models ----------------------------------------------------------------------------------------------------------


async def test_tags(server):
    models = (await server.client.get("/api/tags")).json()["models"]
    assert [model["name"].partition(":")[0] for model in models] == list("CTESRP")
    first = models[0]
    assert first["name"] == first["model"]
    assert re.fullmatch("[0-9a-f]{64}", first["digest"])
    assert first["size"] == 896
    assert first["details"]["families"] == ["llama"]
    assert first["capabilities"] == ["completion"]


async def test_tags_of_an_empty_store():
    server = make_server()
    server.store.specs.clear()
    assert (await server.client.get("/api/tags")).json() == {"models": []}


async def test_show(server):
    body = (await server.post("/api/show", {"model": "P"})).json()
    assert body["model_info"]["general.architecture"] == "llama"
    assert body["model_info"]["tokenizer.ggml.tokens"] is None
    assert "general.name" not in body["model_info"]
    assert body["template"] == "{{ messages }}"
    assert body["system"] == "be brief"
    assert 'stop                           "<end>"' in body["parameters"].splitlines()
    assert body["messages"][0] == {"role": "user", "content": "1+1?"}
    assert body["tensors"] == [{"name": "token_embd.weight", "type": "F32", "shape": [4, 1]}]
    assert "completion" in body["capabilities"]
    assert "FROM /models/P:latest.gguf" in body["modelfile"]


async def test_show_verbose_has_arrays(server):
    body = (await server.post("/api/show", {"model": "C", "verbose": True})).json()
    assert body["model_info"]["tokenizer.ggml.tokens"] == ["a", "b"]


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [({}, 400, "model is required"), ({"model": "nope"}, 404, "model 'nope:latest' not found")],
)
async def test_show_refuses(server, body, status, error):
    response = await server.post("/api/show", body)
    assert (response.status_code, error_of(response)) == (status, error)


async def test_show_with_the_older_key(server):
    assert (await server.post("/api/show", {"name": "C:LATEST"})).status_code == 200


async def test_copy_then_delete(server):
    response = await server.post("/api/copy", {"source": "C", "destination": "C2"})
    assert (response.status_code, response.content) == (200, b"")
    delete = json.dumps({"model": "C2"})
    response = await server.client.request("DELETE", "/api/delete", content=delete)
    assert (response.status_code, response.content) == (200, b"")
    response = await server.client.request("DELETE", "/api/delete", content=delete)
    assert (response.status_code, error_of(response)) == (404, "model 'C2' not found")


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ({"source": "nope", "destination": "x"}, 404, 'model "nope" not found'),
        ({"source": "", "destination": "x"}, 400, 'source "" is invalid'),
        ({"source": "C", "destination": "a b"}, 400, 'destination "a b" is invalid'),
    ],
)
async def test_copy_refuses(server, body, status, error):
    response = await server.post("/api/copy", body)
    assert (response.status_code, error_of(response)) == (status, error)


@pytest.mark.parametrize(("body", "error"), [({"name": "a b"}, 'name "a b" is invalid'), ({}, "model is required")])
async def test_delete_refuses(server, body, error):
    response = await server.client.request("DELETE", "/api/delete", content=json.dumps(body))
    assert (response.status_code, error_of(response)) == (400, error)


async def test_ps(server):
    assert (await server.client.get("/api/ps")).json() == {"models": []}
    await server.post("/api/generate", {"model": "C"})
    [entry] = (await server.client.get("/api/ps")).json()["models"]
    assert (entry["name"], entry["size_vram"], entry["context_length"]) == ("C:latest", 0, 4096)
    assert entry["expires_at"]
    assert "context_length" not in entry["details"]
    assert entry["caches"]["kv_cells"] == 4096
    assert (entry["running"], entry["waiting"], entry["requests"]) == (0, 0, 0)
    assert (entry["layers"], entry["gpu_layers"], entry["device_bytes"]) == (0, 0, {})


async def test_unused_gpu_is_told_with_every_answer(server):
    """`donabe run` shows it, wherever its server logs to."""
    note = "running on the CPU: pip install 'donabe[cuda]' to use the NVIDIA GPU"
    server.runners.info = {"notes": (note,)}
    for _ in range(2):
        response = await server.post("/api/generate", {"model": "C", "prompt": "hi", "stream": False})
        assert response.headers["warning"] == f'299 donabe "{note}"'


async def test_ps_has_the_bytes_of_every_cache(server):
    server.runners.info = {
        "n_layers": 31,
        "n_gpu_layers": 20,
        "devices": ("CUDA0",),
        "device_bytes": {"CPU": 300, "CUDA0": 700},
        "cache_bytes": {"attention": 4096 * 64, "window": 11, "draft": 13},
    }
    await server.post("/api/generate", {"model": "C"})
    runner = server.runners.last

    async def status():
        return RunnerStatus(
            n_cells=4096,
            n_cells_used=10,
            n_cells_cached=4,
            kv_bytes_per_cell=64,
            cache_ram_bytes=17,
            cache_disk_bytes=19,
        )

    runner.status = status
    [entry] = (await server.client.get("/api/ps")).json()["models"]
    assert (entry["layers"], entry["gpu_layers"]) == (31, 20)
    assert (entry["devices"], entry["device_bytes"]) == (["CUDA0"], {"CPU": 300, "CUDA0": 700})
    assert entry["caches"] == {
        "kv_cells": 4096,
        "kv_cells_used": 10,
        "kv_cells_cached": 4,
        "kv_bytes": 4096 * 64,
        "kv_used_bytes": 640,
        "window_bytes": 11,
        "state_bytes": 0,
        "draft_bytes": 13,
        "ram_bytes": 17,
        "disk_bytes": 19,
    }

    async def busy():
        raise RunnerError("too busy")

    runner.status = busy  # what was reserved is known all the same
    [entry] = (await server.client.get("/api/ps")).json()["models"]
    assert entry["caches"] == {"kv_bytes": 4096 * 64, "window_bytes": 11, "state_bytes": 0, "draft_bytes": 13}


async def test_pull(server):
    lines = await server.lines("/api/pull", {"model": "tiny"})
    assert lines[0] == {"status": "pulling manifest"}
    assert lines[1] == {"status": "pulling abababababab", "digest": "sha256:" + "ab" * 32, "total": 10}
    assert lines[-1] == {"status": "success"}
    response = await server.post("/api/pull", {"model": "tiny", "stream": False})
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"status": "success"}


async def test_pull_of_an_unknown_model_fails_inside_the_stream(server):
    lines = await server.lines("/api/pull", {"model": "nope"})
    assert lines == [{"status": "pulling manifest"}, {"error": "pull model manifest: file does not exist"}]
    response = await server.post("/api/pull", {"model": "nope", "stream": False})
    assert response.status_code == 500


@pytest.mark.parametrize("name", ["", "a b"])
@pytest.mark.parametrize("stream", [True, False])
async def test_pull_refuses_bad_names(server, name, stream):
    response = await server.post("/api/pull", {"model": name, "stream": stream})
    assert (response.status_code, error_of(response)) == (400, "invalid model name")


@pytest.mark.parametrize("path", ["/api/pull", "/api/push"])
@pytest.mark.parametrize("rate", [-1, 1.5, "5M", True, 2**63])
async def test_transfers_refuse_bad_limits(server, path, rate):
    response = await server.post(path, {"model": "tiny", "limit_rate": rate})
    assert response.status_code == 400
    assert "limit_rate" in error_of(response)


async def test_pull_passes_its_limit_on(server):
    await server.post("/api/pull", {"model": "tiny", "limit_rate": 5_000_000})
    await server.post("/api/pull", {"model": "tiny"})
    assert server.pull.limits == [5_000_000, 0]


async def test_cloud_only_routes_say_so(server):
    response = await server.post("/api/experimental/web_search", b"")
    assert (response.status_code, error_of(response)) == (400, "missing request body")
    response = await server.post("/api/experimental/web_search", {"query": "x"})
    assert (response.status_code, error_of(response)) == (
        403,
        "ollama cloud is disabled: web search is unavailable",
    )


# --- beyond the reference --------------------------------------------------------------------------------------------


async def test_tokenize_and_back(server):
    body = (await server.post("/api/tokenize", {"model": "C", "text": "\x05\x06"})).json()
    assert body == {"model": "C", "tokens": [5, 6], "count": 2}
    body = (await server.post("/api/detokenize", {"model": "C", "tokens": [5, 6]})).json()
    assert body["text"] == "\x05\x06"


async def test_rerank_needs_a_model_that_can(server):
    response = await server.post("/api/rerank", {"model": "C", "query": "q", "documents": ["a"]})
    assert (response.status_code, error_of(response)) == (
        400,
        "registry.ollama.ai/library/C:latest does not support rerank",
    )
