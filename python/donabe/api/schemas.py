"""JSON Schemas of requests and replies, for the OpenAPI document. Ranges come from the one table of parameters.

Requests may hold more than is listed: unknown members are reported, not refused.
"""

from __future__ import annotations

import math
from typing import Any

from donabe.service.parameters import MAX_TEXT_CHARS, PARAMETERS, Parameter
from donabe.types import JsonObject

STRING: JsonObject = {"type": "string"}
BOOLEAN: JsonObject = {"type": "boolean"}
INTEGER: JsonObject = {"type": "integer"}
NUMBER: JsonObject = {"type": "number"}
OBJECT: JsonObject = {"type": "object"}
_TYPES = {
    "integer": "integer",
    "float32": "number",
    "boolean": "boolean",
    "string": "string",
    "array": "array",
    "map": "object",
}


def nullable(schema: JsonObject) -> JsonObject:
    return {"anyOf": [schema, {"type": "null"}]}


def array_of(items: JsonObject, **limits: int) -> JsonObject:
    return {"type": "array", "items": items, **limits}


def one_of(*schemas: JsonObject) -> JsonObject:
    return {"anyOf": list(schemas)}


def enum(*values: object) -> JsonObject:
    return {"enum": list(values)}


def obj(required: str = "", /, **properties: JsonObject) -> JsonObject:
    """An object; `required` lists names separated by blanks."""
    schema: JsonObject = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required.split()
    return schema


def ref(name: str) -> JsonObject:
    return {"$ref": f"#/components/schemas/{name}"}


def parameter_schema(parameter: Parameter) -> JsonObject:
    """Type and range of one option."""
    kind = _TYPES[parameter.kind]
    schema: JsonObject = {"type": kind}
    if kind == "string":
        return {**schema, "enum": list(parameter.choices)}
    if kind == "array":
        items = {"type": "string", "maxLength": MAX_TEXT_CHARS}
        return {**schema, "items": items, "maxItems": int(parameter.high)}
    if kind == "object":
        bias = {"type": "number", "minimum": -100, "maximum": 100}
        return {
            **schema,
            "propertyNames": {"pattern": "^[0-9]+$"},
            "additionalProperties": bias,
            "maxProperties": int(parameter.high),
        }
    if math.isfinite(parameter.low):
        schema |= {"minimum": _whole(parameter.low), "maximum": _whole(parameter.high)}
    return schema


def _whole(value: float) -> float | int:
    return int(value) if value == int(value) else value


def option(name: str) -> JsonObject:
    return parameter_schema(PARAMETERS[name])


_THINK = one_of(BOOLEAN, enum("low", "medium", "high", "max"))
_FORMAT = one_of(enum("", "json"), OBJECT)
_KEEP_ALIVE = {
    **one_of(NUMBER, {"type": "string", "pattern": r"^[+-]?(0|([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+)$"}),
    "description": "Seconds, or a duration such as 1h30m; negative keeps the model for good, 0 unloads it.",
}
_TOOL = obj("function", type=STRING, function=obj("name", name=STRING, description=STRING, parameters=OBJECT))
_NATIVE_CALL = obj("function", id=STRING, function=obj("name", index=INTEGER, name=STRING, arguments=OBJECT))
_NATIVE_MESSAGE = obj(
    "role",
    role=STRING,
    content=STRING,
    thinking=STRING,
    images=array_of({"type": "string", "contentEncoding": "base64"}),
    tool_calls=array_of(_NATIVE_CALL),
    tool_name=STRING,
    tool_call_id=STRING,
)
_NATIVE_COMMON: dict[str, JsonObject] = {
    "model": STRING,
    "stream": {**BOOLEAN, "default": True},
    "format": _FORMAT,
    "options": ref("Options"),
    "keep_alive": _KEEP_ALIVE,
    "think": _THINK,
    "truncate": {**BOOLEAN, "default": True},
    "shift": BOOLEAN,
    "logprobs": BOOLEAN,
    "top_logprobs": option("top_logprobs"),
}
_NAMED = obj("model", model={"type": "string", "minLength": 1})
_TRANSFER = obj("model", model=STRING, insecure=BOOLEAN, limit_rate={"type": "integer", "minimum": 0}, stream=BOOLEAN)
_TEXT_PARTS = array_of(obj("type", type=STRING))
_CONTENT = one_of(STRING, _TEXT_PARTS)
_OPENAI_CALL = obj("function", id=STRING, type=STRING, function=obj("name arguments", name=STRING, arguments=STRING))
_OPENAI_MESSAGE = obj(
    "role",
    role=STRING,
    content=nullable(_CONTENT),
    name=STRING,
    reasoning=STRING,
    tool_calls=array_of(_OPENAI_CALL),
    tool_call_id=STRING,
)
_OPENAI_OPTIONS: dict[str, JsonObject] = {
    "temperature": option("temperature"),
    "top_p": option("top_p"),
    "top_k": option("top_k"),
    "min_p": option("min_p"),
    "seed": option("seed"),
    "max_tokens": option("num_predict"),
    "frequency_penalty": option("frequency_penalty"),
    "presence_penalty": option("presence_penalty"),
    "logit_bias": option("logit_bias"),
    "stop": one_of(STRING, option("stop")),
    "n": {"type": "integer", "minimum": 1, "maximum": 128},
    "stream": BOOLEAN,
    "stream_options": obj(include_usage=BOOLEAN),
    "response_format": obj("type", type=enum("text", "json_object", "json_schema"), json_schema=OBJECT),
    "user": STRING,
}
_TOKEN_IDS = array_of({"type": "integer", "minimum": 0, "maximum": 2**31 - 1})

_INPUTS = one_of(
    STRING,
    {**_TOKEN_IDS, "minItems": 1},
    array_of(one_of(STRING, {**_TOKEN_IDS, "minItems": 1}), minItems=1),
)
_POOLING = enum("mean", "cls", "last")

REQUESTS: dict[str, JsonObject] = {
    "Options": obj("", **{name: nullable(parameter_schema(parameter)) for name, parameter in PARAMETERS.items()}),
    "GenerateRequest": obj(
        "model",
        **_NATIVE_COMMON,
        prompt=STRING,
        suffix=STRING,
        system=STRING,
        template=STRING,
        context=_TOKEN_IDS,
        raw=BOOLEAN,
        images=array_of({"type": "string", "contentEncoding": "base64"}),
    ),
    "ChatRequest": obj("model", **_NATIVE_COMMON, messages=array_of(_NATIVE_MESSAGE), tools=array_of(_TOOL)),
    "EmbedRequest": obj(
        "model",
        model=STRING,
        input=one_of(STRING, array_of(STRING)),
        truncate=BOOLEAN,
        dimensions=INTEGER,
        pooling=_POOLING,
        keep_alive=_KEEP_ALIVE,
        options=ref("Options"),
    ),
    "EmbeddingRequest": obj(
        "model", model=STRING, prompt=STRING, pooling=_POOLING, keep_alive=_KEEP_ALIVE, options=ref("Options")
    ),
    "EmbeddingRows": obj(
        "content",
        model=STRING,
        content=_INPUTS,
        input=_INPUTS,
        embd_normalize={"type": "integer", "enum": [-1, 2]},
        encoding_format=enum("float"),
        pooling=enum("none", "mean", "cls", "last"),
        truncate=BOOLEAN,
        keep_alive=_KEEP_ALIVE,
        options=ref("Options"),
    ),
    "ClassifyRequest": obj(
        "input",
        model=STRING,
        input=_INPUTS,
        truncate_prompt_tokens={"type": "integer", "enum": [-1, 0]},
        keep_alive=_KEEP_ALIVE,
        options=ref("Options"),
    ),
    "TokenizeRequest": obj("model text", model=STRING, text=STRING, add_special=BOOLEAN, parse_special=BOOLEAN),
    "DetokenizeRequest": obj("model tokens", model=STRING, tokens=_TOKEN_IDS),
    "RerankRequest": obj(
        "model query documents",
        model=STRING,
        query=STRING,
        documents=array_of(one_of(STRING, obj("text", text=STRING))),
        top_n={"type": "integer", "minimum": 0},
        return_documents=BOOLEAN,
    ),
    "ShowRequest": obj("model", model=STRING, verbose=BOOLEAN, system=STRING, options=ref("Options")),
    "PullRequest": _TRANSFER,
    "DeleteRequest": _NAMED,
    "CopyRequest": obj("source destination", source=STRING, destination=STRING),
    "ChatCompletionRequest": obj(
        "model messages",
        **_OPENAI_OPTIONS,
        model=STRING,
        messages=array_of(_OPENAI_MESSAGE, minItems=1),
        max_completion_tokens=option("num_predict"),
        logprobs=BOOLEAN,
        top_logprobs=option("top_logprobs"),
        tools=array_of(_TOOL),
        tool_choice=one_of(enum("none", "auto", "required"), OBJECT),
        parallel_tool_calls=BOOLEAN,
        reasoning_effort=enum("none", "minimal", "low", "medium", "high", "xhigh", "max"),
    ),
    "CompletionRequest": obj(
        "model prompt",
        **_OPENAI_OPTIONS,
        model=STRING,
        prompt=one_of(STRING, array_of(STRING, minItems=1), {**_TOKEN_IDS, "minItems": 1}),
        suffix=STRING,
        echo=BOOLEAN,
        best_of={"type": "integer", "minimum": 1, "maximum": 128},
        logprobs=nullable({"type": "integer", "minimum": 0, "maximum": 20}),
    ),
    "OpenAIEmbeddingRequest": obj(
        "model input",
        model=STRING,
        input=_INPUTS,
        encoding_format=enum("float", "base64"),
        dimensions={"type": "integer", "minimum": 0},
        pooling=_POOLING,
        user=STRING,
    ),
    "ResponsesRequest": obj(
        "model input",
        model=STRING,
        input=one_of(STRING, array_of(OBJECT)),
        instructions=nullable(STRING),
        previous_response_id=nullable(STRING),
        store=BOOLEAN,
        stream=BOOLEAN,
        tools=array_of(OBJECT),
        tool_choice=one_of(enum("none", "auto", "required"), OBJECT),
        parallel_tool_calls=BOOLEAN,
        text=obj(format=OBJECT),
        reasoning=nullable(obj(effort=STRING, summary=STRING)),
        max_output_tokens=nullable(option("num_predict")),
        temperature=nullable(option("temperature")),
        top_p=nullable(option("top_p")),
        truncation=enum("auto", "disabled"),
        metadata=nullable(OBJECT),
    ),
    "MessagesRequest": obj(
        "model max_tokens messages",
        model=STRING,
        max_tokens={"type": "integer", "minimum": 1, "maximum": 2**31 - 1},
        messages=array_of(obj("role content", role=STRING, content=_CONTENT), minItems=1),
        system=_CONTENT,
        stream=BOOLEAN,
        temperature=option("temperature"),
        top_p=option("top_p"),
        top_k=option("top_k"),
        stop_sequences=option("stop"),
        tools=array_of(obj("name", name=STRING, description=STRING, input_schema=OBJECT)),
        tool_choice=obj("type", type=enum("auto", "any", "tool", "none"), name=STRING),
        thinking=obj("type", type=enum("enabled", "disabled", "adaptive"), budget_tokens=INTEGER),
    ),
    "CountTokensRequest": obj("model messages", model=STRING, messages=array_of(OBJECT, minItems=1), system=_CONTENT),
    "InfillRequest": obj(
        "input_prefix",
        model=STRING,
        input_prefix=STRING,
        input_suffix=STRING,
        prompt=STRING,
        input_extra=array_of(obj("text", text=STRING, filename=STRING)),
        n_predict=option("num_predict"),
        stream=BOOLEAN,
    ),
    "CreateRequest": obj(
        "model",
        model=STRING,
        stream=BOOLEAN,
        files=OBJECT,
        adapters=OBJECT,
        template=STRING,
        system=STRING,
        license=one_of(STRING, array_of(STRING)),
        parameters=OBJECT,
        messages=array_of(OBJECT),
        quantize=STRING,
        **{"from": STRING},
    ),
    "PushRequest": _TRANSFER,
}

REPLIES: dict[str, JsonObject] = {
    "NativeError": obj("error", error=STRING, hint=STRING),
    "OpenAIError": obj(
        "error",
        error=obj(
            "message type param code", message=STRING, type=STRING, param=nullable(STRING), code=nullable(STRING)
        ),
    ),
    "AnthropicError": obj(
        "type error", type=enum("error"), error=obj("type message", type=STRING, message=STRING), request_id=STRING
    ),
}


def components() -> dict[str, Any]:
    return {**REQUESTS, **REPLIES}
