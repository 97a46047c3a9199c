"""JSON Schemas of the native API's replies, of which its streams' events have a part. All members are listed."""

from __future__ import annotations

from donabe.api.schema_parts import (
    BOOLEAN,
    COUNT,
    NUMBER,
    OBJECT,
    STRING,
    STRINGS,
    array_of,
    enum,
    nullable,
    obj,
    ref,
)
from donabe.types import JsonObject

_TIME: JsonObject = {"type": "string", "format": "date-time"}
_NANOSECONDS: JsonObject = {"type": "integer", "minimum": 0, "description": "Nanoseconds"}
_DETAILS = obj(
    "format family families parameter_size quantization_level",
    parent_model=STRING,
    format=STRING,
    family=STRING,
    families=nullable(STRINGS),
    parameter_size=STRING,
    quantization_level=STRING,
    context_length=COUNT,
    embedding_length=COUNT,
)
_NATIVE_CALL = obj("function", id=STRING, function=obj("name arguments", index=COUNT, name=STRING, arguments=OBJECT))
_NATIVE_MESSAGE = obj("role content", role=STRING, content=STRING, thinking=STRING, tool_calls=array_of(_NATIVE_CALL))
_NATIVE_END: dict[str, JsonObject] = {
    "done": BOOLEAN,
    "done_reason": enum("stop", "length", "load", "unload", "abort", "error"),
    "context": array_of(COUNT),
    "logprobs": array_of(ref("NativeLogprob")),
    "total_duration": _NANOSECONDS,
    "load_duration": _NANOSECONDS,
    "prompt_eval_count": COUNT,
    "prompt_eval_duration": _NANOSECONDS,
    "eval_count": COUNT,
    "eval_duration": _NANOSECONDS,
    "prompt_cached_count": COUNT,
    "queue_duration": _NANOSECONDS,
    "truncated": obj("tokens messages", tokens=COUNT, messages=COUNT),
    "warnings": STRINGS,
    "_debug_info": obj("rendered_template tokens", rendered_template=STRING, tokens=array_of(COUNT), image_count=COUNT),
}
_CACHES: JsonObject = {**OBJECT, "additionalProperties": COUNT}  # bytes and cells by kind of cache

NATIVE: dict[str, JsonObject] = {
    "Version": obj("version donabe", version=STRING, donabe=STRING),
    "Status": obj("cloud", cloud=obj("disabled source", disabled=BOOLEAN, source=STRING)),
    "NativeLogprob": obj(
        "token logprob",
        token=STRING,
        logprob=NUMBER,
        bytes=array_of(COUNT),
        top_logprobs=array_of(obj("token logprob", token=STRING, logprob=NUMBER, bytes=array_of(COUNT))),
    ),
    "GenerateReply": obj(
        "model created_at response done",
        model=STRING,
        created_at=_TIME,
        response=STRING,
        thinking=STRING,
        tool_calls=array_of(_NATIVE_CALL),
        **_NATIVE_END,
    ),
    "ChatReply": obj(
        "model created_at message done", model=STRING, created_at=_TIME, message=_NATIVE_MESSAGE, **_NATIVE_END
    ),
    "EmbedReply": obj(
        "model embeddings",
        model=STRING,
        embeddings=array_of(array_of(NUMBER)),
        total_duration=_NANOSECONDS,
        load_duration=_NANOSECONDS,
        prompt_eval_count=COUNT,
        truncated=array_of(COUNT),
    ),
    "EmbeddingReply": obj("embedding", embedding=array_of(NUMBER)),
    "NativeTokens": obj("model tokens count", model=STRING, tokens=array_of(COUNT), count=COUNT),
    "NativeText": obj("model text content", model=STRING, text=STRING, content=STRING),
    "RerankReply": obj(
        "object model results usage",
        object=enum("list"),
        model=STRING,
        results=array_of(
            obj("index relevance_score", index=COUNT, relevance_score=NUMBER, document=obj("text", text=STRING))
        ),
        usage=obj("prompt_tokens total_tokens", prompt_tokens=COUNT, total_tokens=COUNT),
    ),
    "Tags": obj(
        "models",
        models=array_of(
            obj(
                "name model modified_at size digest details",
                name=STRING,
                model=STRING,
                modified_at=_TIME,
                size=COUNT,
                digest=STRING,
                details=_DETAILS,
                capabilities=STRINGS,
            )
        ),
    ),
    "Ps": obj(
        "models",
        models=array_of(
            obj(
                "name model size digest details expires_at size_vram context_length",
                name=STRING,
                model=STRING,
                size=COUNT,
                digest=STRING,
                details=_DETAILS,
                expires_at=_TIME,
                size_vram=COUNT,
                context_length=COUNT,
                devices=STRINGS,
                requests=COUNT,
                device_bytes={**OBJECT, "additionalProperties": COUNT},
                layers=COUNT,
                gpu_layers=COUNT,
                running=COUNT,
                waiting=COUNT,
                caches=_CACHES,
            )
        ),
    ),
    "ShowReply": obj(
        "modelfile template details model_info modified_at",
        license=STRING,
        modelfile=STRING,
        parameters=STRING,
        template=STRING,
        system=STRING,
        details=_DETAILS,
        messages=array_of(obj("role content", role=STRING, content=STRING)),
        model_info=OBJECT,
        projector_info=OBJECT,
        tensors=array_of(obj("name type shape", name=STRING, type=STRING, shape=array_of(COUNT))),
        capabilities=STRINGS,
        modified_at=_TIME,
        requires=STRING,
    ),
    "Progress": obj("status", status=STRING, digest=STRING, total=COUNT, completed=COUNT),
    "Recommendations": obj(
        "recommendations", recommendations=array_of(obj("model description", model=STRING, description=STRING))
    ),
    "Health": obj("status", status=enum("ok")),
}
