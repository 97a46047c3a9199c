"""JSON Schemas of requests, for the OpenAPI document.

Requests may hold more than is listed: unknown members are reported, not refused.
"""

from __future__ import annotations

from donabe.api.schema_parts import (
    BOOLEAN,
    INTEGER,
    NUMBER,
    OBJECT,
    STRING,
    array_of,
    bounded,
    enum,
    nullable,
    obj,
    one_of,
    option,
    parameter_schema,
    ref,
)
from donabe.service.parameters import PARAMETERS
from donabe.types import JsonObject

_THINK = one_of(BOOLEAN, enum("low", "medium", "high", "max"))
_FORMAT = one_of(enum("", "json"), OBJECT)
_KEEP_ALIVE = {
    **one_of(NUMBER, {"type": "string", "pattern": r"^[+-]?(0|([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+)$"}),
    "description": "Seconds, or a duration such as 1h30m; negative keeps the model for good, 0 unloads it.",
}
_EFFORT = enum("none", "minimal", "low", "medium", "high", "xhigh", "max")
_TOOL = obj(
    "function",
    type=enum("function"),
    function=obj("name", name={**STRING, "minLength": 1}, description=STRING, parameters=OBJECT),
)
_NATIVE_CALL = obj("function", id=STRING, function=obj("name", index=INTEGER, name=STRING, arguments=OBJECT))
_IMAGE: JsonObject = {"type": "string", "contentEncoding": "base64"}
_NATIVE_MESSAGE = obj(
    "role",
    role=STRING,
    content=STRING,
    thinking=STRING,
    images=array_of(_IMAGE, "images"),
    tool_calls=array_of(_NATIVE_CALL, "tool_calls"),
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
_TRANSFER = obj("model", model=STRING, insecure=BOOLEAN, limit_rate=bounded("limit_rate"), stream=BOOLEAN)
_TEXT = obj("type text", type=enum("text"), text=STRING)
_OPENAI_IMAGE = obj(
    "type image_url",
    type=enum("image_url"),
    image_url=obj(
        "url", url={**STRING, "pattern": "^data:(image/(jpeg|jpg|png|webp))?;base64,", "contentEncoding": "base64"}
    ),
)
_OPENAI_CONTENT = one_of(STRING, array_of(one_of(_TEXT, _OPENAI_IMAGE), "parts"))
_JSON_TEXT: JsonObject = {**STRING, "contentMediaType": "application/json", "pattern": r"^\{.*\}$"}
_OPENAI_CALL = obj(
    "function", id=STRING, type=enum("function"), function=obj("name arguments", name=STRING, arguments=_JSON_TEXT)
)
_OPENAI_MESSAGE = one_of(
    obj(
        "role",
        role=enum("assistant"),
        content=nullable(_OPENAI_CONTENT),
        reasoning=STRING,
        tool_calls=array_of(_OPENAI_CALL, "tool_calls"),
    ),
    obj("role content tool_call_id", role=enum("tool"), content=_OPENAI_CONTENT, tool_call_id=STRING, name=STRING),
    obj("role content", role=enum("system", "developer", "user"), content=_OPENAI_CONTENT, name=STRING),
)
_OPENAI_OPTIONS: dict[str, JsonObject] = {
    "temperature": option("temperature"),
    "top_p": option("top_p"),
    "top_k": option("top_k"),
    "min_p": option("min_p"),
    "typical_p": option("typical_p"),
    "repetition_penalty": option("repeat_penalty"),
    "repeat_penalty": option("repeat_penalty"),
    "ignore_eos": option("ignore_eos"),
    "seed": option("seed"),
    "max_tokens": option("num_predict"),
    "frequency_penalty": option("frequency_penalty"),
    "presence_penalty": option("presence_penalty"),
    "logit_bias": option("logit_bias"),
    "stop": one_of(STRING, option("stop")),
    "n": bounded("n"),
    "stream": BOOLEAN,
    "stream_options": obj(include_usage=BOOLEAN),
    "response_format": obj("type", type=enum("text", "json_object", "json_schema"), json_schema=OBJECT),
    "guided_json": OBJECT,
    "guided_choice": array_of(STRING, "choices"),
    "guided_grammar": STRING,
    "think": _THINK,
    "reasoning": obj(effort=_EFFORT, summary=STRING),
    "reasoning_effort": _EFFORT,
    "options": ref("Options"),
    "keep_alive": _KEEP_ALIVE,
    "cache_salt": STRING,
    "user": STRING,
}
_TOKEN_IDS = array_of(bounded("token"))

_INPUTS = one_of(
    STRING,
    {**_TOKEN_IDS, "minItems": 1},
    array_of(one_of(STRING, {**_TOKEN_IDS, "minItems": 1}), "inputs", minItems=1),
)
_PROMPTS = one_of(
    STRING,
    {**_TOKEN_IDS, "minItems": 1},
    array_of(one_of(STRING, {**_TOKEN_IDS, "minItems": 1}), "prompts", minItems=1),
)
_POOLING = enum("mean", "cls", "last")

_ITEM = one_of(
    obj(
        "role content",
        type=enum("message"),
        role=enum("user", "assistant", "system", "developer"),
        content=one_of(
            STRING,
            array_of(obj("type text", type=enum("input_text", "output_text"), text=STRING), "parts"),
        ),
    ),
    obj("type call_id name arguments", type=enum("function_call"), call_id=STRING, name=STRING, arguments=_JSON_TEXT),
    obj("type call_id output", type=enum("function_call_output"), call_id=STRING, output=STRING),
    obj("type", type=enum("reasoning"), summary=array_of(OBJECT), encrypted_content=STRING),
)
_NAME: JsonObject = {**STRING, "minLength": 1}
_FLAT_TOOL = obj("type name", type=enum("function", "custom"), name=_NAME, description=STRING, parameters=OBJECT)
_CLAUDE_IMAGE = obj(
    "type source",
    type=enum("image"),
    source=obj("type data", type=enum("base64"), media_type=STRING, data=_IMAGE),
)
_CLAUDE_DOCUMENT = obj(
    "type source",
    type=enum("document"),
    title=STRING,
    context=STRING,
    source=one_of(
        obj("type data", type=enum("text"), media_type=STRING, data=STRING),
        obj(
            "type content",
            type=enum("content"),
            content=one_of(STRING, array_of(one_of(_TEXT, _CLAUDE_IMAGE), "parts")),
        ),
    ),
)
_SEARCH_RESULT = obj(
    "type content", type=enum("search_result"), title=STRING, source=STRING, content=array_of(_TEXT, "parts")
)
_IN_RESULTS = array_of(one_of(_TEXT, _CLAUDE_IMAGE, _CLAUDE_DOCUMENT, _SEARCH_RESULT), "parts")
_CLAUDE_BLOCK = one_of(
    _TEXT,
    _CLAUDE_IMAGE,
    _CLAUDE_DOCUMENT,
    _SEARCH_RESULT,
    obj("type thinking", type=enum("thinking"), thinking=STRING, signature=STRING),
    obj("type", type=enum("redacted_thinking"), data=STRING),
    obj("type id name", type=enum("tool_use", "server_tool_use"), id=_NAME, name=_NAME, input=OBJECT),
    obj(
        "type tool_use_id",
        type=enum("tool_result"),
        tool_use_id=STRING,
        content=one_of(STRING, _IN_RESULTS),
        is_error=BOOLEAN,
    ),
)
_CLAUDE_MESSAGE = obj(
    "role content",
    role=enum("user", "assistant", "system"),
    content=one_of(STRING, array_of(_CLAUDE_BLOCK, "parts", minItems=1)),
)
_SYSTEM = one_of(STRING, array_of(_TEXT, "parts"))
_CLAUDE_TOOL = obj("name", name=STRING, description=STRING, input_schema=OBJECT)
_OUTPUT_FORMAT = obj("type schema", type=enum("json_schema"), schema=OBJECT)

_TOKENS: dict[str, JsonObject] = {
    "model": STRING,
    "parse_special": BOOLEAN,
    "with_pieces": BOOLEAN,
    "return_token_strs": BOOLEAN,
}
_TEMPLATE: dict[str, JsonObject] = {
    "messages": array_of(_OPENAI_MESSAGE, "messages", minItems=1),
    "tools": array_of(_TOOL, "tools"),
    "continue_final_message": BOOLEAN,
    "chat_template_kwargs": OBJECT,
}

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
        images=array_of(_IMAGE, "images"),
    ),
    "ChatRequest": obj(
        "model", **_NATIVE_COMMON, messages=array_of(_NATIVE_MESSAGE, "messages"), tools=array_of(_TOOL, "tools")
    ),
    "EmbedRequest": obj(
        "model",
        model=STRING,
        input=one_of(STRING, array_of(STRING, "inputs")),
        truncate=BOOLEAN,
        dimensions=bounded("dimensions"),
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
        documents=array_of(one_of(STRING, obj("text", text=STRING)), "documents", minItems=1),
        top_n=bounded("top_n"),
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
        messages=array_of(_OPENAI_MESSAGE, "messages", minItems=1),
        max_completion_tokens=option("num_predict"),
        logprobs=BOOLEAN,
        top_logprobs=option("top_logprobs"),
        tools=array_of(_TOOL, "tools"),
        tool_choice=one_of(enum("none", "auto", "required"), OBJECT),
        parallel_tool_calls=BOOLEAN,
        chat_template_kwargs=OBJECT,
        continue_final_message=BOOLEAN,
    ),
    "CompletionRequest": obj(
        "model prompt",
        **_OPENAI_OPTIONS,
        model=STRING,
        prompt=_PROMPTS,
        raw=BOOLEAN,
        suffix=STRING,
        echo=BOOLEAN,
        best_of=bounded("best_of"),
        logprobs=nullable(option("top_logprobs")),
    ),
    "OpenAIEmbeddingRequest": obj(
        "model input",
        model=STRING,
        input=_INPUTS,
        encoding_format=enum("float", "base64"),
        dimensions=bounded("dimensions"),
        pooling=_POOLING,
        truncate=BOOLEAN,
        options=ref("Options"),
        keep_alive=_KEEP_ALIVE,
        user=STRING,
    ),
    "ResponsesRequest": obj(
        "model input",
        model=STRING,
        input=one_of({**STRING, "minLength": 1}, array_of(_ITEM, "messages", minItems=1)),
        instructions=nullable(STRING),
        previous_response_id=nullable(STRING),
        store=BOOLEAN,
        stream=BOOLEAN,
        tools=array_of(_FLAT_TOOL, "tools"),
        tool_choice=one_of(enum("none", "auto", "required"), OBJECT),
        parallel_tool_calls=BOOLEAN,
        text=obj(format=obj("type", type=enum("text", "json_object", "json_schema"), name=STRING, schema=OBJECT)),
        reasoning=nullable(obj(effort=_EFFORT, summary=STRING)),
        max_output_tokens=nullable(option("num_predict")),
        temperature=nullable(option("temperature")),
        top_p=nullable(option("top_p")),
        top_logprobs=nullable(option("top_logprobs")),
        include=nullable(array_of(STRING)),
        truncation=enum("auto", "disabled"),
        metadata=nullable(OBJECT),
        keep_alive=_KEEP_ALIVE,
    ),
    "MessagesRequest": obj(
        "model max_tokens messages",
        model=STRING,
        max_tokens={**option("num_predict"), "minimum": 1},
        messages=array_of(_CLAUDE_MESSAGE, "messages", minItems=1),
        system=_SYSTEM,
        stream=BOOLEAN,
        temperature=option("temperature"),
        top_p=option("top_p"),
        top_k=option("top_k"),
        stop_sequences=option("stop"),
        tools=array_of(_CLAUDE_TOOL, "tools"),
        tool_choice=obj("type", type=enum("auto", "any", "tool", "none"), name=STRING),
        thinking=obj("type", type=enum("enabled", "disabled", "adaptive"), budget_tokens=INTEGER),
        output_config=obj(effort=enum("low", "medium", "high", "xhigh", "max"), format=_OUTPUT_FORMAT),
        output_format=_OUTPUT_FORMAT,
        keep_alive=_KEEP_ALIVE,
    ),
    "CountTokensRequest": obj(
        "model messages",
        model=STRING,
        messages=array_of(_CLAUDE_MESSAGE, "messages", minItems=1),
        system=_SYSTEM,
        tools=array_of(_CLAUDE_TOOL, "tools"),
    ),
    "TokensRequest": one_of(
        obj("content", content=STRING, add_special=BOOLEAN, **_TOKENS),
        obj("prompt", prompt=STRING, add_special_tokens=BOOLEAN, **_TOKENS),
        obj("messages", **_TOKENS, **_TEMPLATE),
    ),
    "TextRequest": obj("tokens", model=STRING, tokens=_TOKEN_IDS),
    "TemplateRequest": obj("messages", model=STRING, **_TEMPLATE),
    "HostedRequest": obj(query=STRING, url=STRING, max_results=INTEGER),
    "AudioRequest": obj(
        "file model", file={"type": "string", "contentMediaType": "application/octet-stream"}, model=STRING
    ),
    "InfillRequest": obj(
        "input_prefix",
        model=STRING,
        input_prefix=STRING,
        input_suffix=STRING,
        prompt=STRING,
        input_extra=array_of(obj("text", text=STRING, filename=STRING), "input_extra"),
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
