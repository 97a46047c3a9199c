"""The OpenAI dialect, requests: chat completions, completions and embeddings to calls of the use cases.

A parameter is honoured, refused with its name, or (bookkeeping that changes no answer) accepted. What nobody knows is
reported in a `Warning` header.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from donabe.api.body import Fields, parse_json
from donabe.api.durations import parse_keep_alive
from donabe.api.native import decode_options, decode_think, unknown_fields
from donabe.api.openai_messages import (
    decode_effort,
    decode_messages,
    decode_response_format,
    decode_tool_choice,
    decode_tools,
    stop_strings,
    take_tool_choice,
)
from donabe.errors import InvalidRequestError
from donabe.service.calls import ChatCall, EmbedCall, GenerateCall, Think
from donabe.service.parameters import check
from donabe.types import Constraint

MAX_CHOICES = 128

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
    _refuse(fields, "functions", "function_call", hint="use tools and tool_choice")
    _refuse(fields, "audio", "web_search_options")
    if any(kind != "text" for kind in fields.array("modalities")):
        raise InvalidRequestError("only the text modality is supported", field="modalities")
    logprobs, top_logprobs = fields.boolean("logprobs"), _top_logprobs(fields)
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
        constraint=_constraint(fields),
        think=_think(fields),
        truncate=False,
        context_shift=False,
        logprobs=logprobs or bool(top_logprobs),
        top_logprobs=top_logprobs,
        n=_count(fields, "n"),
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
    n, n_logprobs = _count(fields, "n"), _completion_logprobs(fields)
    best_of = _count(fields, "best_of", default=n)
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
        "constraint": _constraint(fields),
        "think": _think(fields),
        "truncate": False,
        "context_shift": False,
        "logprobs": n_logprobs is not None,
        "top_logprobs": n_logprobs or 0,
        "n": n,
        "best_of": best_of if best_of > n else 0,
    }
    is_raw = fields.boolean("raw")
    calls = tuple(
        GenerateCall(**common, prompt=prompt, raw=is_raw or not isinstance(prompt, str))
        for prompt in _prompts(fields.take("prompt"))
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
    dimensions = fields.integer("dimensions")
    if dimensions < 0:
        raise InvalidRequestError(f"dimensions must be at least 1, got {dimensions}", field="dimensions")
    options, warnings = decode_options(fields)
    call = EmbedCall(
        model=model,
        options=options,
        keep_alive_s=parse_keep_alive(fields.take("keep_alive")),
        inputs=_embedding_inputs(fields.take("input")),
        truncate=fields.boolean("truncate", True),
        dimensions=dimensions,
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


def _count(fields: Fields, name: str, *, default: int = 1) -> int:
    n = fields.integer(name, default)
    if not 1 <= n <= MAX_CHOICES:
        raise InvalidRequestError(f"{name} must be between 1 and {MAX_CHOICES}, got {n}", field=name)
    return n


def _top_logprobs(fields: Fields) -> int:
    n = fields.integer("top_logprobs")
    if not 0 <= n <= 20:
        raise InvalidRequestError("top_logprobs must be between 0 and 20", field="top_logprobs")
    return n


def _completion_logprobs(fields: Fields) -> int | None:
    value = fields.take("logprobs")
    if value is None or value is False:
        return None
    if value is True:
        return 0
    if not isinstance(value, int) or not 0 <= value <= 20:
        raise InvalidRequestError("logprobs must be between 0 and 20", field="logprobs")
    return value


def _think(fields: Fields) -> Think:
    reasoning = fields.inner("reasoning")
    found = decode_effort(fields.take("reasoning_effort")) if reasoning is None else None
    think = decode_think(fields.take("think"))
    if reasoning is not None:
        fields.ignore("reasoning_effort")
        reasoning.ignore("summary", "generate_summary")
        found = decode_effort(reasoning.take("effort"), field="reasoning.effort")
    return think if found is None else found


def _constraint(fields: Fields) -> Constraint:
    """`response_format`, or what other servers call it."""
    found = decode_response_format(fields)
    schema = fields.take("guided_json")
    if schema is None:
        schema = fields.take("json_schema")
    grammar = fields.take("guided_grammar") or fields.take("grammar")
    if isinstance(schema, dict):
        found = Constraint(json_schema=schema)
    elif schema is not None:
        raise InvalidRequestError("guided_json must be a JSON Schema object", field="guided_json")
    if grammar is not None:
        if not isinstance(grammar, str):
            raise InvalidRequestError("grammar must be a string", field="grammar")
        found = Constraint(grammar=grammar)
    _refuse(fields, "guided_regex", hint="use guided_json or grammar")
    if choices := fields.strings("guided_choice"):
        found = Constraint(grammar="root ::= " + " | ".join(_gbnf_literal(choice) for choice in choices))
    return found


def _gbnf_literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'


def _refuse(fields: Fields, *names: str, hint: str = "") -> None:
    for name in names:
        value = fields.take(name)
        if value is not None and value not in ([], {}):
            raise InvalidRequestError(f"{name} is not supported", field=name, hint=hint or None)


def _prompts(value: object) -> list[str | tuple[int, ...]]:
    """One prompt or several, as text or as token ids."""
    if value is None:
        return [""]
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if _are_tokens(value):
            return [tuple(value)]
        if all(isinstance(item, str) or (isinstance(item, list) and item and _are_tokens(item)) for item in value):
            if len(value) > MAX_CHOICES:
                raise InvalidRequestError(f"at most {MAX_CHOICES} prompts in one request", field="prompt")
            return [item if isinstance(item, str) else tuple(item) for item in value]
    raise InvalidRequestError(
        "prompt must be a string, a list of strings, token ids, or a list of token id lists", field="prompt"
    )


def _embedding_inputs(value: object) -> tuple[str | tuple[int, ...], ...]:
    if value is None or value == []:
        raise InvalidRequestError("invalid input", field="input")
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list):
        if _are_tokens(value):
            return (tuple(value),)
        if all(isinstance(item, str) or (isinstance(item, list) and item and _are_tokens(item)) for item in value):
            return tuple(item if isinstance(item, str) else tuple(item) for item in value)
    raise InvalidRequestError("invalid input type", field="input")


def _are_tokens(items: list[Any]) -> bool:
    return all(isinstance(item, int) and not isinstance(item, bool) for item in items)
