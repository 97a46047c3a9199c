"""The OpenAI dialect, requests: chat completions, completions and embeddings to calls of the use cases.

A parameter is honoured, refused with its name, or (bookkeeping that changes no answer) accepted. What nobody knows is
reported in a `Warning` header.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from donabe.api.body import Fields, parse_json, refuse, token_ids
from donabe.api.durations import parse_keep_alive
from donabe.api.native import decode_options, decode_think, decode_top_logprobs, unknown_fields
from donabe.api.openai_constraints import decode_constraint
from donabe.api.openai_messages import (
    decode_effort,
    decode_messages,
    decode_tool_choice,
    decode_tools,
    stop_strings,
    take_tool_choice,
)
from donabe.api.pooling import take_pooling
from donabe.errors import InvalidRequestError
from donabe.service.calls import ChatCall, EmbedCall, GenerateCall, Think
from donabe.service.parameters import check, check_count

# What these clients mean when they leave a parameter out; a model's stored parameters still win.
DEFAULT_OPTIONS = {"temperature": 1.0, "top_p": 1.0}

# Bookkeeping: changes who is billed or what is kept, never the answer.
_HARMLESS = (
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prediction",
)

# wire name -> option; both spellings other servers share are taken.
_OPTION_FIELDS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "seed": "seed",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "repetition_penalty": "repeat_penalty",
    "repeat_penalty": "repeat_penalty",
    "logit_bias": "logit_bias",
    "ignore_eos": "ignore_eos",
}


@dataclass(frozen=True)
class OpenAIChat:
    """A decoded chat completion request.

    Attributes:
        cache_salt: Prefixes are shared only with requests of the same salt.
    """

    call: ChatCall
    include_usage: bool
    warnings: tuple[str, ...]
    cache_salt: str = ""


@dataclass(frozen=True)
class OpenAICompletion:
    """A decoded completion request: one call for each prompt.

    Attributes:
        n: Choices returned for each prompt.
        n_logprobs: Alternatives per token, None for no log probabilities.
        cache_salt: As `OpenAIChat`.
    """

    calls: tuple[GenerateCall, ...]
    include_usage: bool
    n: int
    n_logprobs: int | None
    warnings: tuple[str, ...]
    cache_salt: str = ""

    @property
    def text_starts(self) -> tuple[int, ...]:
        """Where the answer begins in each choice's text: behind the prompt when it is echoed."""
        starts = (len(call.prompt) if call.echo and isinstance(call.prompt, str) else 0 for call in self.calls)
        return tuple(start for start in starts for _ in range(self.n))


@dataclass(frozen=True)
class OpenAIEmbedding:
    """A decoded embedding request."""

    call: EmbedCall
    is_base64: bool
    warnings: tuple[str, ...]


def decode_chat_completion(body: bytes) -> OpenAIChat:
    """`POST /v1/chat/completions`."""
    fields = Fields(parse_json(body, when_empty="EOF"), "ChatCompletionRequest")
    model = _model(fields)
    messages = decode_messages(fields)
    options, warnings = _options(fields)
    is_streamed, include_usage = _stream(fields)
    tools = decode_tools(fields.items("tools", fields.array("tools", "[]api.Tool")))
    parallel = fields.boolean("parallel_tool_calls", True)
    choice = decode_tool_choice(take_tool_choice(fields), tools, parallel=parallel)
    refuse(fields, "functions", "function_call", hint="use tools and tool_choice")
    refuse(fields, "audio", "web_search_options")
    if any(kind != "text" for kind in fields.array("modalities")):
        raise InvalidRequestError("only the text modality is supported", field="modalities")
    logprobs, top_logprobs = fields.boolean("logprobs"), decode_top_logprobs(fields)
    is_continuing = fields.boolean("continue_final_message")
    fields.ignore("add_generation_prompt")
    call = ChatCall(
        model=model,
        is_streamed=is_streamed,
        options=options,
        default_options=DEFAULT_OPTIONS,
        keep_alive_s=parse_keep_alive(fields.take("keep_alive")),
        messages=messages,
        tools=tools,
        tool_choice=choice,
        force_tools=choice.mode == "required",
        constraint=decode_constraint(fields),
        think=_think(fields),
        truncate=False,
        context_shift=False,
        logprobs=logprobs or bool(top_logprobs),
        top_logprobs=top_logprobs,
        n=fields.bounded("n", 1),
        template_kwargs=fields.mapping("chat_template_kwargs"),
        continue_final_message=is_continuing,
    )
    salt = fields.string("cache_salt")
    fields.ignore(*_HARMLESS)
    return OpenAIChat(call, include_usage, warnings + unknown_fields(fields), salt)


def decode_completion(body: bytes) -> OpenAICompletion:
    """`POST /v1/completions`."""
    fields = Fields(parse_json(body, when_empty="EOF"), "CompletionRequest")
    model = _model(fields)
    options, warnings = _options(fields)
    is_streamed, include_usage = _stream(fields)
    n, n_logprobs = fields.bounded("n", 1), _completion_logprobs(fields)
    best_of = fields.bounded("best_of", n)
    if best_of < n:
        raise InvalidRequestError(f"best_of must be at least n, which is {n}", field="best_of")
    if best_of > n and is_streamed:
        raise InvalidRequestError("best_of larger than n can't be streamed", field="best_of")
    common: dict[str, Any] = {
        "model": model,
        "is_streamed": is_streamed,
        "options": options,
        "default_options": DEFAULT_OPTIONS,
        "keep_alive_s": parse_keep_alive(fields.take("keep_alive")),
        "suffix": fields.string("suffix"),
        "echo": fields.boolean("echo"),
        "constraint": decode_constraint(fields),
        "think": _think(fields),
        "truncate": False,
        "context_shift": False,
        "logprobs": n_logprobs is not None,
        "top_logprobs": n_logprobs or 0,
        "n": n,
        "best_of": best_of if best_of > n else 0,
    }
    is_raw, prompts = fields.boolean("raw"), _prompts(fields.take("prompt"))
    check_count("completions", len(prompts) * best_of, field="prompt", what="prompts x the larger of n and best_of")
    calls = tuple(
        GenerateCall(**common, prompt=prompt, raw=is_raw or not isinstance(prompt, str)) for prompt in prompts
    )
    salt = fields.string("cache_salt")
    fields.ignore(*_HARMLESS)
    warnings += unknown_fields(fields)
    return OpenAICompletion(calls, include_usage, n, n_logprobs, warnings, salt)


def decode_embedding(body: bytes) -> OpenAIEmbedding:
    """`POST /v1/embeddings`."""
    fields = Fields(parse_json(body, when_empty="EOF"), "EmbedRequest")
    model = fields.string("model")
    kind = fields.string("encoding_format", "float").lower()
    if kind not in ("float", "base64"):
        raise InvalidRequestError(
            f"Invalid value for 'encoding_format' = {kind}. Supported values: ['float', 'base64'].",
            field="encoding_format",
        )
    options, warnings = decode_options(fields)
    call = EmbedCall(
        model=model,
        options=options,
        keep_alive_s=parse_keep_alive(fields.take("keep_alive")),
        inputs=embedding_inputs(fields.take("input"), "input"),
        truncate=fields.boolean("truncate", True),
        dimensions=fields.bounded("dimensions"),
        pooling=take_pooling(fields),
    )
    fields.ignore(*_HARMLESS, "input_type")
    return OpenAIEmbedding(call, kind == "base64", warnings + unknown_fields(fields))


# --- shared fields ---------------------------------------------------------------------------------------------------


def _model(fields: Fields) -> str:
    model = fields.string("model")
    if not model.strip():
        raise InvalidRequestError("model is required", field="model")
    return model


def _options(fields: Fields) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(sampling and length parameters as options, warnings); `options` itself is taken too, the named fields win."""
    options, warnings = decode_options(fields)
    for field, name in _OPTION_FIELDS.items():
        value = fields.take(field)
        if value is not None:
            options[name] = check(name, value, field=field)
    for field in ("max_tokens", "max_completion_tokens"):  # the newer name wins
        value = fields.take(field)
        if value is not None:
            options["num_predict"] = check("num_predict", value, field=field)
    if stop := stop_strings(fields.take("stop")):
        options["stop"] = check("stop", stop, field="stop")
    return options, warnings


def _stream(fields: Fields) -> tuple[bool, bool]:
    stream_options = fields.inner("stream_options")
    include_usage = False
    if stream_options is not None:
        include_usage = stream_options.boolean("include_usage")
        stream_options.ignore("include_obfuscation")
    return fields.boolean("stream"), include_usage


def _completion_logprobs(fields: Fields) -> int | None:
    """A number, or the switch of the chat form."""
    if not fields.has("logprobs"):
        return None
    if fields.is_boolean("logprobs"):
        return 0 if fields.boolean("logprobs") else None
    return decode_top_logprobs(fields, "logprobs")


def _think(fields: Fields) -> Think:
    reasoning = fields.inner("reasoning")
    found = decode_effort(fields.take("reasoning_effort")) if reasoning is None else None
    think = decode_think(fields.take("think"))
    if reasoning is not None:
        fields.ignore("reasoning_effort")
        reasoning.ignore("summary", "generate_summary")
        found = decode_effort(reasoning.take("effort"), field="reasoning.effort")
    return think if found is None else found


def _prompts(value: object) -> list[str | tuple[int, ...]]:
    """One prompt or several, as text or as token ids."""
    if value is None:
        return [""]
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if _are_tokens(value):
            return [token_ids(value, "prompt")]
        if all(isinstance(item, str) or (isinstance(item, list) and item and _are_tokens(item)) for item in value):
            check_count("prompts", len(value), field="prompt", what="prompts")
            return [item if isinstance(item, str) else token_ids(item, "prompt") for item in value]
    raise InvalidRequestError(
        "prompt must be a string, a list of strings, token ids, or a list of token id lists", field="prompt"
    )


def embedding_inputs(value: object, field: str) -> tuple[str | tuple[int, ...], ...]:
    """A text, token ids, or a list of such."""
    if value is None or value == []:
        raise InvalidRequestError(f"invalid {field}", field=field)
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list):
        if _are_tokens(value):
            return (token_ids(value, field),)
        if all(isinstance(item, str) or (isinstance(item, list) and item and _are_tokens(item)) for item in value):
            check_count("inputs", len(value), field=field)
            return tuple(item if isinstance(item, str) else token_ids(item, field) for item in value)
    raise InvalidRequestError(f"invalid {field} type", field=field)


def _are_tokens(items: list[Any]) -> bool:
    return all(isinstance(item, int) and not isinstance(item, bool) for item in items)
