"""JSON Schemas of requests, replies and errors by name, for the OpenAPI document."""

from __future__ import annotations

from donabe.api.native_schemas import NATIVE
from donabe.api.request_schemas import REQUESTS
from donabe.api.schema_parts import COUNT, OBJECT, STRING, enum, nullable, obj
from donabe.api.v1_schemas import ANTHROPIC, LLAMACPP, OPENAI
from donabe.types import JsonObject

ERRORS: dict[str, JsonObject] = {
    "NativeError": obj("error", error=STRING, hint=STRING, prompt_tokens=COUNT, context_length=COUNT),
    "OpenAIError": obj(
        "error",
        error=obj(
            "message type param code",
            message=STRING,
            type=STRING,
            param=nullable(STRING),
            code=nullable(STRING),
            hint=STRING,
        ),
    ),
    "AnthropicError": obj(
        "type error request_id",
        type=enum("error"),
        error=obj("type message", type=STRING, message=STRING),
        request_id=STRING,
    ),
}

DOCUMENT: dict[str, JsonObject] = {
    "Document": {**obj("openapi info paths", openapi=STRING, info=OBJECT, paths=OBJECT), "additionalProperties": True}
}


def components() -> dict[str, JsonObject]:
    """All of them."""
    return {**REQUESTS, **NATIVE, **OPENAI, **LLAMACPP, **ANTHROPIC, **ERRORS, **DOCUMENT}
