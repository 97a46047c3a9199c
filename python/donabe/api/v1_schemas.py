"""JSON Schemas of replies and stream events under `/v1`, and of those that llama.cpp and vLLM clients know. All members
are listed."""

from __future__ import annotations

from donabe.api.schema_parts import (
    BOOLEAN,
    COUNT,
    INTEGER,
    NUMBER,
    OBJECT,
    STRING,
    STRINGS,
    array_of,
    enum,
    nullable,
    obj,
    one_of,
    ref,
)
from donabe.types import JsonObject

_OPENAI_LOGPROB = obj(
    "token logprob bytes top_logprobs",
    token=STRING,
    logprob=NUMBER,
    bytes=array_of(COUNT),
    top_logprobs=array_of(obj("token logprob bytes", token=STRING, logprob=NUMBER, bytes=array_of(COUNT))),
)
_OPENAI_LOGPROBS = obj("content refusal", content=array_of(_OPENAI_LOGPROB), refusal={"type": "null"})
_OPENAI_CALL = obj(
    "id index type function",
    id=STRING,
    index=COUNT,
    type=enum("function"),
    function=obj("name arguments", name=STRING, arguments=STRING),
)
_OPENAI_MESSAGE: dict[str, JsonObject] = {
    "role": enum("assistant"),
    "content": STRING,
    "reasoning": STRING,
    "reasoning_content": STRING,
    "tool_calls": array_of(_OPENAI_CALL),
}
_OPENAI_USAGE = obj(
    "prompt_tokens completion_tokens total_tokens",
    prompt_tokens=COUNT,
    completion_tokens=COUNT,
    total_tokens=COUNT,
    prompt_tokens_details=obj(cached_tokens=COUNT),
    completion_tokens_details=obj(reasoning_tokens=COUNT),
)
_OPENAI_HEAD: dict[str, JsonObject] = {
    "id": STRING,
    "created": COUNT,
    "model": STRING,
    "system_fingerprint": STRING,
}
_FINISH = nullable(enum("stop", "length", "tool_calls", "load", "abort", "error"))
_COMPLETION_LOGPROBS = obj(
    "tokens token_logprobs top_logprobs text_offset",
    tokens=STRINGS,
    token_logprobs=array_of(NUMBER),
    top_logprobs=array_of(OBJECT),
    text_offset=array_of(COUNT),
)
_MODEL = obj("id object created owned_by", id=STRING, object=enum("model"), created=COUNT, owned_by=STRING)

OPENAI: dict[str, JsonObject] = {
    "ChatCompletion": obj(
        "id object created model choices usage",
        **_OPENAI_HEAD,
        object=enum("chat.completion"),
        choices=array_of(
            obj(
                "index message finish_reason",
                index=COUNT,
                message=obj("role content", **_OPENAI_MESSAGE),
                finish_reason=_FINISH,
                logprobs=_OPENAI_LOGPROBS,
            )
        ),
        usage=_OPENAI_USAGE,
    ),
    "ChatCompletionChunk": obj(
        "id object created model choices",
        **_OPENAI_HEAD,
        object=enum("chat.completion.chunk"),
        choices=array_of(
            obj(
                "index delta finish_reason",
                index=COUNT,
                delta=obj(**_OPENAI_MESSAGE),
                finish_reason=_FINISH,
                logprobs=_OPENAI_LOGPROBS,
            )
        ),
        usage=_OPENAI_USAGE,
    ),
    "Completion": obj(
        "id object created model choices",
        **_OPENAI_HEAD,
        object=enum("text_completion"),
        choices=array_of(
            obj(
                "text index finish_reason",
                text=STRING,
                index=COUNT,
                finish_reason=_FINISH,
                reasoning=STRING,
                logprobs=nullable(_COMPLETION_LOGPROBS),
            )
        ),
        usage=_OPENAI_USAGE,
    ),
    "OpenAIEmbeddings": obj(
        "object data model usage",
        object=enum("list"),
        data=array_of(
            obj(
                "object embedding index",
                object=enum("embedding"),
                embedding=one_of(array_of(NUMBER), STRING),
                index=COUNT,
            )
        ),
        model=STRING,
        usage=obj("prompt_tokens total_tokens", prompt_tokens=COUNT, total_tokens=COUNT),
    ),
    "Models": obj("object data", object=enum("list"), data=array_of(ref("Model"))),
    "Model": _MODEL,
    "Response": obj(
        "id object created_at status model output error usage",
        id=STRING,
        object=enum("response"),
        created_at=COUNT,
        completed_at=nullable(COUNT),
        status=enum("in_progress", "completed", "incomplete", "failed"),
        incomplete_details=nullable(obj("reason", reason=STRING)),
        error=nullable(obj("code message", code=STRING, message=STRING)),
        model=STRING,
        output=array_of(ref("OutputItem")),
        usage=nullable(
            obj(
                "input_tokens output_tokens total_tokens",
                input_tokens=COUNT,
                output_tokens=COUNT,
                total_tokens=COUNT,
                input_tokens_details=obj(cached_tokens=COUNT),
                output_tokens_details=obj(reasoning_tokens=COUNT),
            )
        ),
        previous_response_id=nullable(STRING),
        instructions=nullable(STRING),
        tools=array_of(OBJECT),
        tool_choice=one_of(STRING, OBJECT),
        truncation=STRING,
        parallel_tool_calls=BOOLEAN,
        text=OBJECT,
        top_p=NUMBER,
        temperature=NUMBER,
        presence_penalty=NUMBER,
        frequency_penalty=NUMBER,
        top_logprobs=COUNT,
        reasoning=nullable(OBJECT),
        max_output_tokens=nullable(INTEGER),
        max_tool_calls={},
        store=BOOLEAN,
        background=BOOLEAN,
        metadata=OBJECT,
        service_tier={},
        safety_identifier={},
        prompt_cache_key={},
    ),
    "OutputItem": obj(
        "id type",
        id=STRING,
        type=enum("message", "reasoning", "function_call", "custom_tool_call"),
        status=enum("in_progress", "completed", "incomplete"),
        role=enum("assistant"),
        content=array_of(
            obj(
                "type text",
                type=enum("output_text"),
                text=STRING,
                annotations=array_of(OBJECT),
                logprobs=array_of(_OPENAI_LOGPROB),
            )
        ),
        summary=array_of(obj("type text", type=enum("summary_text"), text=STRING)),
        encrypted_content=STRING,
        call_id=STRING,
        name=STRING,
        arguments=STRING,
        input=STRING,
    ),
    "ResponseEvent": {
        **obj("type sequence_number", type=STRING, sequence_number=COUNT, response=ref("Response")),
        "additionalProperties": True,
    },
    "DeletedResponse": obj("id object deleted", id=STRING, object=enum("response"), deleted=BOOLEAN),
    "InputItems": obj(
        "object data first_id last_id has_more",
        object=enum("list"),
        data=array_of({**obj("id type", id=STRING, type=STRING), "additionalProperties": True}),
        first_id=nullable(STRING),
        last_id=nullable(STRING),
        has_more=BOOLEAN,
    ),
    "InputTokens": obj("object input_tokens", object=enum("response.input_tokens"), input_tokens=COUNT),
}

LLAMACPP: dict[str, JsonObject] = {
    "Infill": obj(
        "content stop",
        content=STRING,
        reasoning=STRING,
        model=STRING,
        stop=BOOLEAN,
        stop_type=enum("limit", "word", "eos"),
        stopping_word=STRING,
        tokens_predicted=COUNT,
        tokens_evaluated=COUNT,
        tokens_cached=COUNT,
        truncated=BOOLEAN,
        timings=obj(
            prompt_n=COUNT,
            prompt_ms=NUMBER,
            predicted_n=COUNT,
            predicted_ms=NUMBER,
            predicted_per_second=NUMBER,
        ),
    ),
    "Tokens": obj(
        "tokens count max_model_len",
        tokens=array_of(one_of(COUNT, obj("id piece", id=COUNT, piece=one_of(STRING, array_of(COUNT))))),
        token_strs=STRINGS,
        count=COUNT,
        max_model_len=COUNT,
    ),
    "Prompt": obj("prompt", prompt=STRING),
    "Props": obj(
        "default_generation_settings total_slots model_path chat_template build_info",
        default_generation_settings=obj("n_ctx", n_ctx=COUNT),
        total_slots=COUNT,
        model_path=STRING,
        model_alias=STRING,
        chat_template=STRING,
        modalities=obj("vision audio", vision=BOOLEAN, audio=BOOLEAN),
        build_info=STRING,
        is_sleeping=BOOLEAN,
    ),
    "Text": obj("content prompt", content=STRING, prompt=STRING),
    "EmbeddingRowsReply": array_of(obj("index embedding", index=COUNT, embedding=array_of(array_of(NUMBER)))),
    "ClassifyReply": obj(
        "id object created model data labels usage",
        id=STRING,
        object=enum("list"),
        created=COUNT,
        model=STRING,
        data=array_of(
            obj(
                "index label probs num_classes",
                index=COUNT,
                label=STRING,
                probs=array_of(NUMBER),
                num_classes=COUNT,
            )
        ),
        labels=STRINGS,
        usage=obj(
            "prompt_tokens total_tokens",
            prompt_tokens=COUNT,
            total_tokens=COUNT,
            completion_tokens=COUNT,
            prompt_tokens_details={"type": "null"},
        ),
        truncated=array_of(COUNT),
    ),
}

_CLAUDE_USAGE = obj(
    "input_tokens output_tokens",
    input_tokens=COUNT,
    output_tokens=COUNT,
    cache_creation_input_tokens=COUNT,
    cache_read_input_tokens=COUNT,
)
_CLAUDE_BLOCK = obj(
    "type",
    type=enum("text", "thinking", "tool_use"),
    text=STRING,
    thinking=STRING,
    signature=STRING,
    id=STRING,
    name=STRING,
    input=OBJECT,
)

ANTHROPIC: dict[str, JsonObject] = {
    "Message": obj(
        "id type role model content stop_reason stop_sequence usage",
        id=STRING,
        type=enum("message"),
        role=enum("assistant"),
        model=STRING,
        content=array_of(_CLAUDE_BLOCK),
        stop_reason=nullable(enum("end_turn", "max_tokens", "stop_sequence", "tool_use")),
        stop_sequence=nullable(STRING),
        usage=_CLAUDE_USAGE,
    ),
    "MessageEvent": obj(
        "type",
        type=enum(
            *("message_start", "content_block_start", "ping", "content_block_delta", "content_block_stop"),
            *("message_delta", "message_stop"),
        ),
        message=ref("Message"),
        index=COUNT,
        content_block=_CLAUDE_BLOCK,
        delta=OBJECT,
        usage=_CLAUDE_USAGE,
    ),
    "CountedTokens": obj("input_tokens", input_tokens=COUNT),
}
