"""Cases of the inference routes: native, OpenAI and Anthropic."""

from __future__ import annotations

import base64
import math
import re
from typing import Any

from tests.fakes.images import encoded, png
from tests.integration.conformance.expectations import ABSENT, HI, Case

NATIVE, PLAIN = "application/json; charset=utf-8", "application/json"
NDJSON, SSE = "application/x-ndjson", "text/event-stream"
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}
FLAT_TOOL = {"type": "function", "name": "get_weather", "parameters": WEATHER}
CLAUDE_TOOL = {"name": "get_weather", "input_schema": WEATHER}
ONCE = {"stream": False}
PNG = encoded(png())
STATUS_400 = "A bad option or format is a 400; the reference answers 500."
FEW = {"options": {"num_predict": 8, "temperature": 0}}


def generate(id: str, status: int = 200, *, error: Any = None, real: bool = False, differs: str = "",
             expect: Any = None, type: str = "", lines: Any = None, **body: Any) -> Case:  # fmt: skip
    return Case(id, "POST /api/generate", {"model": "C", "prompt": "hi", **body}, status, expect or {}, error,
                type=type, real=real, differs=differs, lines=lines)  # fmt: skip


def chat(id: str, status: int = 200, *, error: Any = None, real: bool = False, differs: str = "", expect: Any = None,
         type: str = "", lines: Any = None, **body: Any) -> Case:  # fmt: skip
    return Case(id, "POST /api/chat", {"model": "C", "messages": HI, **body}, status, expect or {}, error,
                type=type, real=real, differs=differs, lines=lines)  # fmt: skip


def _is_generate_stream(lines: list[Any]) -> bool:
    *parts, last = lines
    timed = ("total_duration", "load_duration", "prompt_eval_count", "eval_count", "eval_duration")
    return (
        all(part["done"] is False and "total_duration" not in part for part in parts)
        and last["done"] is True
        and all(isinstance(last[name], int) for name in timed)
        and all(isinstance(token, int) for token in last["context"])
    )


def _is_chat_stream(lines: list[Any]) -> bool:
    return (
        all(line["message"]["role"] == "assistant" for line in lines)
        and [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
        and lines[-1]["message"]["content"] == ""
    )


def _thinks_first(lines: list[Any]) -> bool:
    kinds = ["thinking" if line["message"].get("thinking") else "content" for line in lines]
    return kinds[0] == "thinking" and kinds == sorted(kinds, reverse=True)


def _has_length_1(row: Any) -> bool:
    return math.isclose(sum(x * x for x in row), 1, abs_tol=1e-5)


_OPTION = 'option "{}" must be of {}'
GENERATE = [
    generate("16", prompt="", real=True, expect={"response": "", "done": True, "done_reason": "load",
             "total_duration": ABSENT}),
    generate("18", **FEW, real=True, type=NDJSON, lines=_is_generate_stream),
    generate("19", **ONCE, **FEW, real=True, type=NATIVE, expect={"response": lambda text: len(text) > 0}),
    generate("20", **ONCE, **FEW, raw=True, real=True, expect={"context": ABSENT}),
    generate("21", **ONCE, options={"num_predict": 1}, real=True, expect={"done_reason": "length", "eval_count": 1}),
    generate("22", 400, raw=True, system="x", error="raw mode does not support template, system, or context"),
    generate("23", 400, suffix="z", error="registry.ollama.ai/library/C:latest does not support insert"),
    generate("23", model="S", suffix="z"),
    generate("24", 400, think=True, error='"C" does not support thinking'),
    generate("24", think=False, **FEW, real=True),
    generate("25", 400, think="extreme", error='invalid think value: "extreme" (must be "high", "medium", "low",'
             ' "max", true, or false)'),
    generate("4.2", 400, think=1, error='think must be a boolean or string ("high", "medium", "low", "max", true,'
             " or false)"),
    generate("26", 400, format="xml", differs=STATUS_400,
             error='invalid format: "\\"xml\\""; expected "json" or a valid JSON Schema object'),
    generate("27", **ONCE, **FEW, format="", real=True),
    generate("28", 400, top_logprobs=21, error="top_logprobs must be between 0 and 20"),
    generate("29", **ONCE, **FEW, logprobs=True, top_logprobs=2, real=True, expect={
        "logprobs.0.token": str, "logprobs.0.logprob": float, "logprobs.0.bytes": list,
        "logprobs.0.top_logprobs": lambda top: len(top) <= 2}),
    generate("30", 400, options={"temperature": "hot"}, error=_OPTION.format("temperature", "type float32"),
             differs=STATUS_400),
    generate("31", 400, options={"stop": "x"}, error=_OPTION.format("stop", "type array"), differs=STATUS_400),
    generate("5", 400, options={"stop": [1]}, error=_OPTION.format("stop", "an array of strings"), differs=STATUS_400),
    generate("5", 400, options={"num_ctx": "x"}, error=_OPTION.format("num_ctx", "type integer"), differs=STATUS_400),
    generate("5", 400, options={"use_mmap": 1}, error=_OPTION.format("use_mmap", "type boolean"), differs=STATUS_400),
    generate("5", 400, options={"top_p": 7}, error='option "top_p" must be between 0 and 1, got 7',
             differs="Values out of range are refused; the reference checks types only."),
    generate("31", **ONCE, options={"bogus": 1}),
    generate("32", **ONCE, options={"seed": 1.9, "num_predict": 2}, real=True),
    generate("32", **ONCE, options=None),
    generate("32", 400, options=[], error="json: cannot unmarshal array into Go struct field GenerateRequest.options of"
             " type map[string]interface {}"),
    generate("33", 400, keep_alive="5", error='time: missing unit in duration "5"'),
    generate("33", 400, keep_alive=True, error="Unsupported type: 'bool'"),
    generate("4.1", 400, keep_alive="abc", error='time: invalid duration "abc"'),
    generate("4.1", 400, keep_alive=[], error="Unsupported type: '[]interface {}'"),
    generate("4.1", 400, keep_alive={}, error="Unsupported type: 'map[string]interface {}'"),
    generate("4.1", **ONCE, keep_alive="1h30m"),
    generate("34", **ONCE, keep_alive=-1),
    generate("35", 400, images=["!!!"], error="illegal base64 data at input byte 0"),
    generate("4.4", 400, images=[PNG], error='"C" does not support images',
             differs="An image for a model that can't see is refused; the reference leaves it to the runner."),
    generate("37", **ONCE, **FEW, model="c", expect={"model": "c"}),
    generate("38", _debug_render_only=True, real=True, expect={"response": "", "done": False,
             "_debug_info.rendered_template": re.compile(".*hi.*", re.DOTALL)}),
    generate("39", 400, model="E", error='"E" does not support generate'),
    generate("52", prompt="fail", model="C", raw=True, lines=lambda lines: set(lines[-1]) <= {"error", "hint"}
             and not any(line.get("done") for line in lines)),
    generate("52", 500, prompt="fail", raw=True, **ONCE),
    Case("40", "POST /api/generate", {"PROMPT": "hi", "Model": "C", "stream": False}),
]  # fmt: skip

CHAT = [
    chat("41", messages=[], real=True, expect={"message": {"role": "assistant", "content": ""}, "done_reason": "load"}),
    chat("42", 400, model=None, error="model is required"),
    chat("43", messages=[{"role": "User", "content": "hi"}], **FEW, real=True, type=NDJSON, lines=_is_chat_stream),
    chat("44", 400, tools=[TOOL], error="registry.ollama.ai/library/C:latest does not support tools"),
    chat("45", model="T", tools=[TOOL], **ONCE, expect={
        "message.tool_calls.0.function.arguments": {"city": "Paris"}, "message.tool_calls.0.function.index": 0,
        "message.tool_calls.0.id": str, "done_reason": "stop"}),
    chat("46", model="T", lines=_thinks_first),
    chat("47", model="T", think="max", format={"type": "object"}, **ONCE),
    chat("48", 400, messages=[{"role": "user", "content": [{"type": "text", "text": "x"}]}],
         error="json: cannot unmarshal array into Go struct field ChatRequest.messages.content of type string"),
    chat("49", 400, messages=[{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}]),
    chat("4.6", 400, tools="x", error="json: cannot unmarshal string into Go struct field ChatRequest.tools of type"
         " api.Tools"),
    chat("50", 400, model="E", error='"E" does not support chat'),
    chat("51", messages=[{"role": "user", "content": "word " * 60}, *HI], real=True,
         **ONCE, options={"num_ctx": 64, "num_predict": 2}, expect={"done": True}),
    chat("52", 500, messages=[{"role": "user", "content": "fail"}], **ONCE),
]  # fmt: skip

EMBED = [
    Case("53", "POST /api/embed", {"model": "E", "input": "a"}, real=True, expect={
        "embeddings": lambda rows: len(rows) == 1 and _has_length_1(rows[0]), "prompt_eval_count": lambda n: n >= 1}),
    Case("54", "POST /api/embed", {"model": "E", "input": ["a", "b"], "dimensions": 2}, real=True, expect={
        "embeddings": lambda rows: [len(row) for row in rows] == [2, 2] and all(map(_has_length_1, rows))}),
    Case("6.3", "POST /api/embed", {"model": "E", "input": "a", "dimensions": -1}, 400,
         error="dimensions must be between 0 and 65536, got -1",
         differs="The reference ignores dimensions it can't give."),
    *(Case("55", "POST /api/embed", {"model": "E", **more}, real=True, expect={"embeddings": []})
      for more in ({}, {"input": ""}, {"input": []})),
    *(Case("56", "POST /api/embed", {"model": "E", "input": value}, 400, error="invalid input type")
      for value in ([1], 5, {})),
    Case("57", "POST /api/embed", {"model": "E", "input": "word " * 4000, "truncate": False}, 200),
    Case("59", "POST /api/embeddings", {"model": "E", "prompt": "a"}, real=True, expect={"embedding.0": float}),
    Case("59", "POST /api/embeddings", {"model": "E"}, expect={"embedding": []}),
    Case("86", "POST /v1/embeddings", {"model": "E", "input": ["a", "b"], "encoding_format": "base64",
         "dimensions": 2}, real=True, expect={
             "data": lambda rows: [len(base64.b64decode(row["embedding"])) for row in rows] == [8, 8]}),
    Case("87", "POST /v1/embeddings", {"model": "E", "input": []}, 400, error="invalid input"),
    Case("87", "POST /v1/embeddings", {"model": "E", "input": "a", "encoding_format": "int8"}, 400,
         error="Invalid value for 'encoding_format' = int8. Supported values: ['float', 'base64']."),
    Case("9.4", "POST /v1/embeddings", {"model": "E", "input": [1, 2]}, 200, real=True,
         differs="Token ids are embedded, as OpenAI does; the reference refuses them."),
]  # fmt: skip


def openai(id: str, status: int = 200, *, error: Any = None, real: bool = False, differs: str = "", expect: Any = None,
           type: str = "", lines: Any = None, **body: Any) -> Case:  # fmt: skip
    return Case(id, "POST /v1/chat/completions", {"model": "C", "messages": HI, "max_tokens": 8, **body}, status,
                expect or {}, error, type=type, real=real, differs=differs, lines=lines)  # fmt: skip


def _is_chunk_stream(chunks: list[Any]) -> bool:
    first, *_, finish, usage = chunks
    return (
        first["choices"][0]["delta"]["role"] == "assistant"
        and finish["choices"][0]["delta"] == {}
        and finish["choices"][0]["finish_reason"] in ("stop", "length")
        and usage["choices"] == []
        and usage["usage"]["total_tokens"] > 0
        and len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1
    )


def part(value: Any) -> list[Any]:
    return [{"role": "user", "content": [value]}]


OPENAI = [
    openai("76", 400, messages=[], type=NATIVE, expect={"error": {"message": "[] is too short - 'messages'",
           "type": "invalid_request_error", "param": "messages", "code": None}},
           differs="Errors name the parameter in `param`; in the reference it is always null."),
    openai("77", 404, model="nope", expect={"error.type": "not_found_error"}, error="model 'nope' not found"),
    openai("77", 400, model=None, error="model is required"),
    openai("78", real=True, type=PLAIN, expect={
        "object": "chat.completion", "system_fingerprint": "fp_ollama", "id": re.compile("chatcmpl-.+"),
        "choices": lambda choices: len(choices) == 1, "choices.0.finish_reason": re.compile("stop|length"),
        "usage": lambda usage: usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]}),
    openai("79", stream=True, stream_options={"include_usage": True}, real=True, type=SSE, lines=_is_chunk_stream),
    openai("80", model="T", tools=[TOOL], stream=True, lines=lambda chunks: any(
        call["function"]["arguments"] == '{"city":"Paris"}' for chunk in chunks
        for call in chunk["choices"][0]["delta"].get("tool_calls", []))
        and chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"),
    openai("80", model="T", tools=[TOOL], expect={"choices.0.message.content": "",
           "choices.0.finish_reason": "tool_calls"}),
    openai("81", 400, reasoning_effort="bogus", error='invalid reasoning value: "bogus" (must be "minimal", "low",'
           ' "medium", "high", "xhigh", "ultra", "max", or "none")'),
    openai("81", reasoning_effort="none"),
    openai("81", 400, reasoning_effort="high", error='"C" does not support thinking'),
    openai("9.2", 400, reasoning={"effort": "bogus"}, expect={"error.param": "reasoning.effort"}),
    openai("9.2", 400, response_format={"type": "json_schema", "json_schema": {"shema": {}}},
           error="response_format.json_schema.schema must be an object",
           differs="`json_schema` without a schema is refused; the reference answers in any form."),
    openai("82", 400, messages=part({"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}),
           error="image URLs are not currently supported, please use base64 encoded data instead"),
    openai("82", 400, messages=part({"type": "image_url", "image_url": {"url": "data:image/gif;base64,aGk="}}),
           error="invalid image input"),
    openai("83", 400, messages=[{"role": "user", "content": None}], error="invalid message content type: <nil>"),
    openai("9.2", 400, messages=[{"role": "user", "content": 1.5}], error="invalid message content type: float64"),
    openai("9.2", 400, messages=part({"type": "zzz"}), error="invalid message format"),
    openai("9.2", 400, messages=[{"role": "assistant", "tool_calls": [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": "[]"}}]}],
        error="invalid tool call arguments"),
    openai("9.2", 400, top_logprobs=21, error="top_logprobs must be between 0 and 20"),
    openai("9.2", n=2, expect={"choices": list}, differs="`n`, `tool_choice`, `logit_bias` and `max_completion_tokens`"
           " are honoured; the reference ignores them."),
    openai("9.2", messages=[{"role": "user", "content": "fail"}], stream=True, lines=lambda chunks:
           chunks[-1]["error"]["type"] == "api_error",
           differs="A failure in a stream is an `error` event before [DONE]; the reference ends without a word."),
    Case("84", "POST /v1/completions", {"model": "C", "prompt": ["hi"], "max_tokens": 4}, real=True,
         differs="`prompt` may be a list, of texts or of token ids; the reference refuses it."),
    Case("84", "POST /v1/completions", {"model": "C", "prompt": ""}, real=True, expect={
        "choices.0.finish_reason": "load", "usage.total_tokens": 0}),
    Case("9.3", "POST /v1/completions", {"model": "C", "prompt": "", "stream": True}, type=SSE,
         lines=lambda chunks: len(chunks) == 1 and chunks[0]["choices"][0]["finish_reason"] == "load"),
    Case("85", "POST /v1/completions", {"model": "C", "prompt": "hi", "stream": True, "max_tokens": 4,
         "stream_options": {"include_usage": True}}, real=True, type=SSE, lines=lambda chunks:
         chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] > 0
         and all("usage" not in chunk for chunk in chunks[:-1]),
         differs="Only the last chunk has `usage`; the reference puts zeros into the others."),
    Case("9.3", "POST /v1/completions", {"model": "C", "prompt": "hi", "stop": [1.5]}, 400,
         error="invalid type for 'stop' field: float64"),
    Case("9.3", "POST /v1/completions", {"model": "C", "prompt": "hi", "logprobs": 1, "max_tokens": 2}, real=True,
         expect={"choices.0.logprobs.tokens": list}, differs="`logprobs` are returned; the reference drops them."),
    Case("92", "POST /v1/audio/transcriptions", {}, 400,
         error="failed to parse multipart form: request Content-Type isn't multipart/form-data"),
    Case("92", "POST /v1/audio/transcriptions", b"--x--", 400, sent={"content-type": "multipart/form-data; boundary=x"},
         error="audio is not supported", differs="Audio is refused whatever the form holds."),
]  # fmt: skip


def responses(id: str, status: int = 200, *, error: Any = None, real: bool = False, differs: str = "",
              expect: Any = None, lines: Any = None, **body: Any) -> Case:  # fmt: skip
    return Case(id, "POST /v1/responses", {"model": "C", "input": "hi", "max_output_tokens": 64, **body}, status,
                expect or {}, error, real=real, differs=differs, lines=lines)  # fmt: skip


_RESPONSE_KEYS = [
    "id", "object", "created_at", "completed_at", "status", "incomplete_details",
    "model", "previous_response_id", "instructions", "output", "error", "tools",
    "tool_choice", "truncation", "parallel_tool_calls", "text", "top_p", "presence_penalty",
    "frequency_penalty", "top_logprobs", "temperature", "reasoning", "usage", "max_output_tokens",
    "max_tool_calls", "store", "background", "service_tier", "metadata", "safety_identifier",
    "prompt_cache_key",
]  # fmt: skip


def _is_response_stream(events: list[Any]) -> bool:
    names = [event["type"].removeprefix("response.") for event in events]
    deltas = [name for name in names if name == "output_text.delta"]
    return [event["sequence_number"] for event in events] == list(range(len(events))) and names == [
        "created", "in_progress", "output_item.added", "content_part.added", *deltas,
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip


RESPONSES = [
    responses("89", real=True, temperature=0, expect={"object": "response", "status": "completed",
              "output.0.content.0.type": "output_text", **{key: lambda _: True for key in _RESPONSE_KEYS}}),
    responses("90", real=True, temperature=0, stream=True, lines=_is_response_stream),
    responses("91", 400, input=[{"type": "zzz"}], error='input[0]: unknown input item type: "zzz"'),
    responses("91", 400, input=[{"role": "user", "content": [{"type": "input_file"}]}],
              error="input[0]: file inputs are not currently supported"),
    responses("9.6", 400, input=[{}], error="input[0]: input item missing required 'type' field"),
    responses("9.6", 400, input=[{"role": "user", "content": [{"type": "q"}]}],
              error="input[0]: content[0]: unknown content type: q"),
    responses("9.6", 400, input="", error="input is required",
              differs="A request without input is refused; the reference loads the model."),
    responses("9.6", max_output_tokens=1, real=True, temperature=0, expect={"status": "incomplete",
              "incomplete_details": {"reason": "max_output_tokens"}},
              differs="An answer cut short is `incomplete`; in the reference it is `completed`."),
    responses("9.6", real=True, expect={"store": True},
              differs="Responses are stored and can be continued; the reference keeps nothing."),
    responses("9.6", 400, background=True, error="background is not supported",
              differs="`background`, `conversation` and `prompt` are refused; the reference ignores them."),
    responses("9.6", 400, previous_response_id="resp_1", error="previous response 'resp_1' is not stored",
              differs="The reference ignores `previous_response_id`."),
    responses("9.6", input="fail", stream=True, lines=lambda events: events[-1]["type"] == "response.failed",
              differs="A failure in a stream is `response.failed`; the reference ends without a word."),
    responses("9.6", model="T", tools=[FLAT_TOOL], expect={"output.0.type": "reasoning",
              "output.1.type": "function_call", "output.1.arguments": '{"city":"Paris"}'}),
]  # fmt: skip


def claude(id: str, status: int = 200, *, error: Any = None, real: bool = False, differs: str = "", expect: Any = None,
           type: str = "", lines: Any = None, **body: Any) -> Case:  # fmt: skip
    return Case(id, "POST /v1/messages", {"model": "C", "max_tokens": 8, "messages": HI, **body}, status,
                expect or {}, error, type=type, real=real, differs=differs, lines=lines)  # fmt: skip


def _is_message_stream(events: list[Any]) -> bool:
    names = [event["type"] for event in events]
    deltas = [name for name in names if name == "content_block_delta"]
    ending = ["content_block_stop", "message_delta", "message_stop"]
    return (
        names == ["message_start", "content_block_start", "ping", *deltas, *ending]
        and events[1]["content_block"] == {"type": "text", "text": ""}
        and events[-2]["delta"]["stop_reason"] in ("end_turn", "max_tokens")
    )


def _is_call_stream(events: list[Any]) -> bool:
    blocks = [event["content_block"] for event in events if event["type"] == "content_block_start"]
    pieces = [event["delta"].get("partial_json") for event in events if event["type"] == "content_block_delta"]
    return (
        [block["type"] for block in blocks] == ["thinking", "tool_use"]
        and blocks[1]["input"] == {}
        and pieces[-1] == '{"city":"Paris"}'
        and events[-2]["delta"]["stop_reason"] == "tool_use"
    )


ANTHROPIC = [
    claude("94", real=True, type=PLAIN, expect={"type": "message", "content.0.type": "text", "usage.input_tokens": int,
           "stop_reason": re.compile("end_turn|max_tokens")}),
    claude("95", 400, max_tokens=None, expect={"type": "error", "error": {"type": "invalid_request_error",
           "message": "max_tokens is required and must be positive"}, "request_id": str}),
    claude("95", 400, model=None, error="model is required"),
    claude("95", 400, messages=[], error="messages is required"),
    claude("96", stream=True, real=True, type=SSE, lines=_is_message_stream,
           differs="A `ping` follows the start of the first block, as Anthropic's own API sends it."),
    claude("97", model="T", tools=[CLAUDE_TOOL], stream=True, lines=_is_call_stream),
    claude("98", thinking={"type": "enabled", "budget_tokens": 1000}, real=True),
    claude("99", 400, messages=part({"type": "image", "source": {"type": "url", "url": "x"}}),
           error="invalid image source type: url. Only base64 images are supported."),
    claude("99", 400, messages=part({"type": "tool_use", "name": "f", "input": {}}),
           error="tool_use block missing required 'id' field"),
    claude("10.2", 400, messages=[{"role": "user"}], error="unexpected end of JSON input"),
    claude("10.2", 400, messages=[{"role": "user", "content": 5}], error=re.compile(
        r"json: cannot unmarshal number into Go struct field MessagesRequest\.messages of type .*ContentBlock")),
    claude("100", 404, model="nope", expect={"error.type": "not_found_error"}),
    claude("10.2", 400, messages=part({"type": "zzz"}),
           differs="Blocks of unknown types are refused; the reference drops them."),
    claude("10.2", 400, messages=[{"role": "usr", "content": "x"}],
           error="unexpected role 'usr': allowed are user, assistant and system",
           differs="Roles a conversation doesn't have are refused; the reference hands them to the template."),
    claude("10.2", 400, messages=[{"role": "user", "content": []}],
           error="messages hold nothing to answer (send some content)",
           differs="Messages that hold nothing are refused; the reference loads the model."),
    claude("10.2", 400, thinking={"type": "on"}, error="thinking.type must be enabled, adaptive or disabled",
           differs="Kinds of `thinking` that do not exist are refused; the reference ignores them."),
    claude("1.2", 400, max_tokens="5", error="json: cannot unmarshal string into Go struct field"
           " MessagesRequest.max_tokens of type int"),
    claude("10.3", messages=[{"role": "user", "content": "fail"}], stream=True, lines=lambda events:
           events[-1]["type"] == "error",
           differs="A failure in a stream is an `error` event; the reference ends without a word."),
    claude("10.3", real=True, expect={"stop_sequence": None, "usage.cache_read_input_tokens": int},
           differs="`stop_sequence` and the cache's token counts are there; `input_tokens` is what was evaluated."),
]  # fmt: skip

CASES = [*GENERATE, *CHAT, *EMBED, *OPENAI, *RESPONSES, *ANTHROPIC]
