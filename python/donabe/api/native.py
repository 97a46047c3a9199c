"""The native dialect, requests: JSON bodies of `/api/*` to calls of the use cases.

Pure translation: every function takes a decoded body and returns values, or raises `InvalidRequestError` with the text
clients know. Replies are in `native_replies`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from donabe.api.body import Fields, parse_json, token_ids
from donabe.api.durations import parse_keep_alive
from donabe.api.images import check_images, decode_image
from donabe.api.pooling import take_pooling
from donabe.errors import InvalidRequestError
from donabe.service.calls import ChatCall, EmbedCall, GenerateCall, ModelCall, RerankCall, Think
from donabe.service.parameters import PARAMETERS, check_count, check_options
from donabe.types import Constraint, Message, Tool, ToolCall

THINK_LEVELS = ("high", "medium", "low", "max")

# Options that older clients send and that never had an effect on the answer's text.
RETIRED_OPTIONS = frozenset({"numa", "penalize_newline", "low_vram", "f16_kv", "vocab_only", "tfs_z", "logits_all"})


@dataclass(frozen=True)
class NativeInference:
    """A decoded generate or chat request.

    Attributes:
        call: What to do.
        is_empty: Nothing to answer: only load the model, or unload it when keep_alive is 0.
        is_render_only: Answer with the rendered prompt.
        warnings: One line for every field or option without effect.
    """

    call: GenerateCall | ChatCall
    is_empty: bool
    is_render_only: bool
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class NativeEmbed:
    """A decoded embed request; `call.inputs` is empty when the model is only to be loaded."""

    call: EmbedCall
    warnings: tuple[str, ...]


def decode_generate(body: bytes) -> NativeInference:
    """`POST /api/generate`."""
    fields = Fields(parse_json(body), "GenerateRequest")
    common, warnings = _common(fields)
    context = _token_ids(fields, "context")
    call = GenerateCall(
        **common,
        prompt=fields.string("prompt"),
        suffix=fields.string("suffix"),
        system=fields.string("system") or None,
        template=fields.string("template") or None,
        context=context,
        raw=fields.boolean("raw"),
        images=_images(fields),
    )
    is_render_only = fields.boolean("_debug_render_only")
    if call.raw and (call.template or call.system or call.context):
        raise InvalidRequestError("raw mode does not support template, system, or context", field="raw")
    return NativeInference(call, not call.prompt, is_render_only, warnings + unknown_fields(fields))


def decode_chat(body: bytes) -> NativeInference:
    """`POST /api/chat`."""
    fields = Fields(parse_json(body), "ChatRequest")
    common, warnings = _common(fields)
    tools: list[Tool] = []
    for tool, notes in fields.objects("tools", "api.Tools", decode_tool):
        tools.append(tool)
        warnings += notes
    call = ChatCall(
        **common,
        messages=tuple(fields.objects("messages", "[]api.Message", decode_message)),
        tools=tuple(tools),
    )
    check_images(call.messages)
    is_render_only = fields.boolean("_debug_render_only")
    if not call.model.strip():
        raise InvalidRequestError("model is required", field="model")
    return NativeInference(call, not call.messages, is_render_only, warnings + unknown_fields(fields))


def _common(fields: Fields) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What generate and chat share, as keyword arguments of their calls, and warnings."""
    options, warnings = decode_options(fields)
    common: dict[str, Any] = {
        "model": fields.string("model"),
        "is_streamed": fields.boolean("stream", True),
        "options": options,
        "keep_alive_s": parse_keep_alive(fields.take("keep_alive")),
        "constraint": decode_format(fields.take("format")),
        "think": decode_think(fields.take("think")),
        "truncate": fields.boolean("truncate", True),
        "context_shift": fields.optional_boolean("shift"),
        "logprobs": fields.boolean("logprobs"),
        "top_logprobs": decode_top_logprobs(fields),
    }
    return common, warnings


def decode_top_logprobs(fields: Fields, name: str = "top_logprobs") -> int:
    """How many alternatives of each token are asked for."""
    n, high = fields.integer(name), PARAMETERS["top_logprobs"].high
    if not 0 <= n <= high:
        raise InvalidRequestError(f"{name} must be between 0 and {high:.0f}", field=name)
    return n


def decode_options(fields: Fields) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(checked `options`, a warning for each that has no effect)."""
    options, unknown = check_options(fields.mapping("options"))
    return options, tuple(
        f"option {name} no longer has an effect" if name in RETIRED_OPTIONS else f"unknown option {name}"
        for name in unknown
    )


def unknown_fields(fields: Fields) -> tuple[str, ...]:
    return tuple(f"unknown field {name}" for name in fields.rest)


def decode_think(value: object) -> Think:
    """`true`, `false` or a level; None when absent."""
    if value is None or isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise InvalidRequestError(
            'think must be a boolean or string ("high", "medium", "low", "max", true, or false)', field="think"
        )
    if value not in THINK_LEVELS:
        raise InvalidRequestError(
            f'invalid think value: "{value}" (must be "high", "medium", "low", "max", true, or false)', field="think"
        )
    return value  # type: ignore[return-value]  # one of THINK_LEVELS


def decode_format(value: object) -> Constraint:
    """`"json"`, a JSON Schema, or nothing."""
    if value is None or value == "":
        return Constraint()
    if value == "json":
        return Constraint(json_object=True)
    if isinstance(value, dict):
        return Constraint(json_schema=value)
    quoted = msgspec.json.encode(msgspec.json.encode(value).decode()).decode()
    raise InvalidRequestError(
        f'invalid format: {quoted}; expected "json" or a valid JSON Schema object', field="format"
    )


def decode_message(fields: Fields) -> Message:
    """One message of a conversation."""
    calls = fields.objects("tool_calls", "[]api.ToolCall", _decode_tool_call)
    return Message(
        role=fields.string("role").lower(),
        content=fields.string("content"),
        thinking=fields.string("thinking"),
        images=_images(fields),
        tool_calls=tuple(calls),
        tool_name=fields.string("tool_name"),
        tool_call_id=fields.string("tool_call_id"),
    )


def _decode_tool_call(fields: Fields) -> ToolCall:
    function = fields.inner("function")
    id = fields.string("id")
    fields.ignore("type")
    if function is None:
        return ToolCall(name="", id=id)
    arguments = function.take("arguments")
    if arguments is not None and not isinstance(arguments, dict):
        raise function.mismatch("arguments", arguments, "api.ToolCallFunctionArguments")
    return ToolCall(
        name=function.string("name"),
        arguments=msgspec.json.encode(arguments or {}).decode(),
        id=id,
        index=function.bounded("index"),
    )


def decode_tool(fields: Fields) -> tuple[Tool, tuple[str, ...]]:
    """A function definition. Schema keywords are all kept: grammars need them."""
    kind = fields.string("type", "function")
    function = fields.inner("function")
    if function is None:
        raise InvalidRequestError("tools need a function with a name", field="tools.function")
    name = function.string("name")
    if not name:
        raise InvalidRequestError("tools need a function with a name", field="tools.function.name")
    tool = Tool(name=name, description=function.string("description"), parameters=function.mapping("parameters"))
    function.ignore("strict")  # a call is held to its schema in any case
    return tool, () if kind == "function" else (f"tool type {kind} is treated as function",)


def _images(fields: Fields) -> tuple[bytes, ...]:
    return tuple(decode_image(image, "images") for image in fields.array("images", "[]api.ImageData"))


def _token_ids(fields: Fields, name: str) -> tuple[int, ...]:
    values = fields.array(name, "[]int")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int):
            raise fields.mismatch(name, value, "int")
    return token_ids(values, name)


def decode_embed(body: bytes) -> NativeEmbed:
    """`POST /api/embed`."""
    fields = Fields(parse_json(body), "EmbedRequest")
    options, warnings = decode_options(fields)
    call = EmbedCall(
        model=fields.string("model"),
        options=options,
        keep_alive_s=parse_keep_alive(fields.take("keep_alive")),
        inputs=_embed_inputs(fields.take("input")),
        truncate=fields.boolean("truncate", True),
        dimensions=fields.bounded("dimensions"),
        pooling=take_pooling(fields),
    )
    return NativeEmbed(call, warnings + unknown_fields(fields))


def _embed_inputs(value: object) -> tuple[str, ...]:
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        check_count("inputs", len(value), field="input")
        return tuple(value)
    raise InvalidRequestError("invalid input type", field="input", hint="input is a string or a list of strings")


def decode_embeddings(body: bytes) -> NativeEmbed:
    """`POST /api/embeddings`, the older form: one prompt, not normalised, never cut."""
    fields = Fields(parse_json(body), "EmbeddingRequest")
    options, warnings = decode_options(fields)
    model, prompt = fields.string("model"), fields.string("prompt")
    if not model.strip():
        raise InvalidRequestError("model is required", field="model")
    call = EmbedCall(
        model=model,
        options=options,
        keep_alive_s=parse_keep_alive(fields.take("keep_alive")),
        inputs=(prompt,) if prompt else (),
        truncate=False,
        normalize=False,
        pooling=take_pooling(fields),
    )
    return NativeEmbed(call, warnings + unknown_fields(fields))


@dataclass(frozen=True)
class NamedModel:
    """A decoded request that names a model: show, delete, pull, push.

    Attributes:
        limit_rate: Bytes per second a transfer may use, 0 = as the settings say.
    """

    name: str
    is_streamed: bool = True
    is_insecure: bool = False
    limit_rate: int = 0
    is_verbose: bool = False
    system: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def decode_named(body: bytes, struct: str) -> NamedModel:
    """`{"model": ...}` or the older `{"name": ...}`, with the fields of show and pull."""
    fields = Fields(parse_json(body), struct)
    model, name = fields.string("model"), fields.string("name")
    is_show, is_transfer = struct == "ShowRequest", struct in ("PullRequest", "PushRequest")
    options, warnings = decode_options(fields) if is_show else ({}, ())
    if is_transfer:
        fields.ignore("username", "password")
    return NamedModel(
        name=model or name,
        is_streamed=fields.boolean("stream", True) if is_transfer else True,
        is_insecure=fields.boolean("insecure") if is_transfer else False,
        limit_rate=fields.bounded("limit_rate") if is_transfer else 0,
        is_verbose=fields.boolean("verbose") if is_show else False,
        system=fields.string("system") if is_show else "",
        options=options,
        warnings=warnings + unknown_fields(fields),
    )


def decode_copy(body: bytes) -> tuple[str, str, tuple[str, ...]]:
    """(source, destination, warnings)."""
    fields = Fields(parse_json(body), "CopyRequest")
    return fields.string("source"), fields.string("destination"), unknown_fields(fields)


@dataclass(frozen=True)
class NativeTokenize:
    """A decoded tokenize or detokenize request."""

    call: ModelCall
    text: str = ""
    tokens: tuple[int, ...] = ()
    add_special: bool = True
    parse_special: bool = False
    warnings: tuple[str, ...] = ()


def decode_tokenize(body: bytes) -> NativeTokenize:
    """`POST /api/tokenize`: `model`, `text` (or `content`), `add_special`, `parse_special`."""
    fields = Fields(parse_json(body), "TokenizeRequest")
    text = fields.optional_string("text")
    if text is None:
        text = fields.optional_string("content")
    if text is None:
        raise InvalidRequestError("text is required", field="text")
    add_special, parse_special = fields.boolean("add_special", True), fields.boolean("parse_special")
    call, warnings = _model_call(fields)
    return NativeTokenize(call, text=text, add_special=add_special, parse_special=parse_special, warnings=warnings)


def decode_detokenize(body: bytes) -> NativeTokenize:
    """`POST /api/detokenize`: `model`, `tokens`."""
    fields = Fields(parse_json(body), "DetokenizeRequest")
    if not fields.has("tokens"):
        raise InvalidRequestError("tokens is required", field="tokens")
    tokens = _token_ids(fields, "tokens")
    call, warnings = _model_call(fields)
    return NativeTokenize(call, tokens=tokens, warnings=warnings)


def _model_call(fields: Fields) -> tuple[ModelCall, tuple[str, ...]]:
    options, warnings = decode_options(fields)
    model = fields.string("model")
    if not model.strip():
        raise InvalidRequestError("model is required", field="model")
    call = ModelCall(model=model, options=options, keep_alive_s=parse_keep_alive(fields.take("keep_alive")))
    return call, warnings + unknown_fields(fields)


@dataclass(frozen=True)
class NativeRerank:
    """A decoded rerank request; `top_n` 0 returns all documents."""

    call: RerankCall
    top_n: int
    return_documents: bool
    warnings: tuple[str, ...]


def decode_rerank(body: bytes) -> NativeRerank:
    """`POST /api/rerank`, `/v1/rerank`: `model`, `query`, `documents` (strings or `{"text": ...}`), `top_n`."""
    fields = Fields(parse_json(body), "RerankRequest")
    documents = fields.array("documents", "[]string") or fields.array("texts", "[]string")
    check_count("documents", len(documents), field="documents")
    query = fields.string("query")
    texts = tuple(_document_text(item) for item in documents)
    if not query:
        raise InvalidRequestError("query is required", field="query")
    if not texts:
        raise InvalidRequestError("documents is required", field="documents")
    top_n = fields.bounded("top_n")
    return_documents = fields.boolean("return_documents")
    model_call, warnings = _model_call(fields)
    call = RerankCall(
        model=model_call.model,
        options=model_call.options,
        keep_alive_s=model_call.keep_alive_s,
        query=query,
        documents=texts,
    )
    return NativeRerank(call, top_n, return_documents, warnings)


def _document_text(item: object) -> str:
    if isinstance(item, str):
        return item
    if isinstance(item, dict) and isinstance(item.get("text"), str):
        return str(item["text"])
    raise InvalidRequestError('documents must be strings or objects with "text"', field="documents")
