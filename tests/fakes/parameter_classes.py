"""What becomes of every parameter clients may send, by route: the table of `test_parameter_classes`.

HONOURED changes what the model is asked or what is answered, ACCEPTED changes nothing and needs to change nothing,
REFUSED is a 400 that names the parameter, REPORTED has no effect and is named in a `Warning`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.fakes.images import encoded, png

HONOURED, ACCEPTED, REFUSED, REPORTED = "honoured", "accepted", "refused", "reported"

HI = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
FUNCTION = {"name": "add", "parameters": SCHEMA}
TOOL = {"type": "function", "function": FUNCTION}
FLAT_TOOL = {"type": "function", **FUNCTION}
ANTHROPIC_TOOL = {"name": "add", "input_schema": SCHEMA}
IMAGE = encoded(png())


@dataclass(frozen=True)
class Route:
    """One route: a plain request, and for each parameter (class, value[, what else the request needs])."""

    path: str
    plain: dict[str, Any]
    parameters: dict[str, tuple[Any, ...]] = field(default_factory=dict)


_NATIVE = {
    "model": (HONOURED, "P"),
    "stream": (HONOURED, True),
    "format": (HONOURED, "json"),
    "options": (HONOURED, {"temperature": 0}),
    "keep_alive": (HONOURED, -1),
    "think": (HONOURED, "low"),
    "truncate": (HONOURED, False),
    "shift": (HONOURED, False),
    "logprobs": (HONOURED, True),
    "top_logprobs": (HONOURED, 3, {"logprobs": True}),
    "_debug_render_only": (HONOURED, True),
    "width": (REPORTED, 64),
    "height": (REPORTED, 64),
    "steps": (REPORTED, 4),
}
_GENERATE = Route(
    "/api/generate",
    {"model": "T", "prompt": "hi", "stream": False},
    {
        **_NATIVE,
        "prompt": (HONOURED, "ho"),
        "suffix": (HONOURED, "z", {"model": "S"}),
        "system": (HONOURED, "be brief"),
        "template": (HONOURED, "{{ .Prompt }}"),
        "context": (HONOURED, [5, 6]),
        "raw": (HONOURED, True),
        "images": (REFUSED, [IMAGE]),
    },
)
_CHAT = Route(
    "/api/chat",
    {"model": "T", "messages": HI, "stream": False},
    {
        **_NATIVE,
        "messages": (HONOURED, [{"role": "user", "content": "ho"}]),
        "tools": (HONOURED, [TOOL]),
        "messages.name": (REPORTED, [{**HI[0], "name": "ann"}]),
        "tools.function.bogus": (REPORTED, [{"type": "function", "function": {**FUNCTION, "bogus": 1}}]),
        "tools.function.strict": (ACCEPTED, [{"type": "function", "function": {**FUNCTION, "strict": True}}], [TOOL]),
    },
)
_EMBED = Route(
    "/api/embed",
    {"model": "E", "input": "a"},
    {
        "model": (HONOURED, "C"),
        "input": (HONOURED, ["a", "b"]),
        "truncate": (HONOURED, False),
        "dimensions": (HONOURED, 2),
        "keep_alive": (HONOURED, -1),
        "options": (HONOURED, {"num_ctx": 64}),
    },
)
_EMBEDDINGS = Route(
    "/api/embeddings",
    {"model": "E", "prompt": "a"},
    {
        "model": (HONOURED, "C"),
        "prompt": (HONOURED, "b"),
        "keep_alive": (HONOURED, -1),
        "options": (HONOURED, {"num_ctx": 64}),
        "input": (REPORTED, "b"),
    },
)

_SAMPLING = {
    "temperature": (HONOURED, 0.1),
    "top_p": (HONOURED, 0.5),
    "top_k": (HONOURED, 7),
    "min_p": (HONOURED, 0.2),
    "typical_p": (HONOURED, 0.9),
    "seed": (HONOURED, 7),
    "frequency_penalty": (HONOURED, 0.5),
    "presence_penalty": (HONOURED, 0.5),
    "repetition_penalty": (HONOURED, 1.2),
    "repeat_penalty": (HONOURED, 1.2),
    "logit_bias": (HONOURED, {"5": 10}),
    "ignore_eos": (HONOURED, True),
    "max_tokens": (HONOURED, 5),
    "stop": (HONOURED, "x"),
    "stream": (HONOURED, True),
    "stream_options": (HONOURED, {"include_usage": True}, {"stream": True}),
    "stream_options.include_obfuscation": (ACCEPTED, {"include_obfuscation": False}),
    "stream_options.bogus": (REPORTED, {"bogus": True}),
    "n": (HONOURED, 2),
    "options": (HONOURED, {"num_ctx": 64}),
    "keep_alive": (HONOURED, -1),
    "think": (HONOURED, False),
    "reasoning": (HONOURED, {"effort": "none"}),
    "reasoning.bogus": (REPORTED, {"bogus": 1}),
    "reasoning_effort": (HONOURED, "low"),
    "response_format": (HONOURED, {"type": "json_object"}),
    "guided_json": (HONOURED, SCHEMA),
    "guided_choice": (HONOURED, ["yes", "no"]),
    "guided_grammar": (HONOURED, 'root ::= "a"'),
    "guided_regex": (REFUSED, "a+"),
    "cache_salt": (HONOURED, "mine"),
    "user": (ACCEPTED, "ann"),
    "metadata": (ACCEPTED, {"a": "b"}),
    "store": (ACCEPTED, True),
    "service_tier": (ACCEPTED, "auto"),
    "safety_identifier": (ACCEPTED, "x"),
    "prompt_cache_key": (ACCEPTED, "x"),
    "prompt_cache_retention": (ACCEPTED, "24h"),
    "prediction": (ACCEPTED, {"type": "content", "content": "hi"}),
    "verbosity": (REPORTED, "low"),
    "moderation": (REPORTED, {"model": "m"}),
}
_CHAT_COMPLETION = Route(
    "/v1/chat/completions",
    {"model": "T", "messages": HI},
    {
        **_SAMPLING,
        "model": (HONOURED, "P"),
        "messages": (HONOURED, [{"role": "user", "content": "ho"}]),
        "messages.name": (REPORTED, [{**HI[0], "name": "ann"}]),
        "messages.refusal": (ACCEPTED, [{**HI[0], "refusal": "no"}]),
        "max_completion_tokens": (HONOURED, 5),
        "tools": (HONOURED, [TOOL]),
        "tool_choice": (HONOURED, "required", {"tools": [TOOL]}),
        "parallel_tool_calls": (HONOURED, False, {"tools": [TOOL]}),
        "logprobs": (HONOURED, True),
        "top_logprobs": (HONOURED, 2),
        "chat_template_kwargs": (HONOURED, {"a": 1}),
        "continue_final_message": (HONOURED, True),
        "modalities": (REFUSED, ["text", "audio"]),
        "audio": (REFUSED, {"voice": "x", "format": "wav"}),
        "functions": (REFUSED, [FUNCTION]),
        "function_call": (REFUSED, "auto"),
        "web_search_options": (REFUSED, {"search_context_size": "low"}),
    },
)
_COMPLETION = Route(
    "/v1/completions",
    {"model": "T", "prompt": "hi"},
    {
        **_SAMPLING,
        "model": (HONOURED, "P"),
        "prompt": (HONOURED, ["a", "b"]),
        "suffix": (HONOURED, "z", {"model": "S"}),
        "echo": (HONOURED, True),
        "best_of": (HONOURED, 2),
        "logprobs": (HONOURED, 2),
        "raw": (HONOURED, True),
    },
)
_OPENAI_EMBEDDING = Route(
    "/v1/embeddings",
    {"model": "E", "input": "a"},
    {
        "model": (HONOURED, "C"),
        "input": (HONOURED, [[1, 2], [3]]),
        "encoding_format": (HONOURED, "base64"),
        "dimensions": (HONOURED, 2),
        "truncate": (HONOURED, False),
        "options": (HONOURED, {"num_ctx": 64}),
        "options.bogus": (REPORTED, {"bogus": 1}),
        "keep_alive": (HONOURED, -1),
        "user": (ACCEPTED, "ann"),
    },
)
_RESPONSES = Route(
    "/v1/responses",
    {"model": "T", "input": "hi"},
    {
        "model": (HONOURED, "P"),
        "input": (HONOURED, [{"role": "user", "content": "ho"}]),
        "instructions": (HONOURED, "be brief"),
        "stream": (HONOURED, True),
        "max_output_tokens": (HONOURED, 5),
        "temperature": (HONOURED, 0.1),
        "top_p": (HONOURED, 0.5),
        "top_logprobs": (HONOURED, 2),
        "include": (HONOURED, ["message.output_text.logprobs"]),
        "reasoning": (HONOURED, {"effort": "low"}),
        "text": (HONOURED, {"format": {"type": "json_object"}}),
        "text.verbosity": (REPORTED, {"verbosity": "low"}),
        "tools": (HONOURED, [FLAT_TOOL]),
        "tool_choice": (HONOURED, "required", {"tools": [FLAT_TOOL]}),
        "parallel_tool_calls": (HONOURED, False, {"tools": [FLAT_TOOL]}),
        "truncation": (HONOURED, "auto"),
        "store": (HONOURED, False),
        "previous_response_id": (REFUSED, "resp_none"),
        "background": (REFUSED, True),
        "conversation": (REFUSED, "conv_1"),
        "prompt": (REFUSED, {"id": "p"}),
        "max_tool_calls": (ACCEPTED, 3),
        "metadata": (ACCEPTED, {"a": "b"}),
        "stream_options": (ACCEPTED, {"include_obfuscation": False}),
        "user": (ACCEPTED, "ann"),
        "service_tier": (ACCEPTED, "auto"),
        "safety_identifier": (ACCEPTED, "x"),
        "prompt_cache_key": (ACCEPTED, "x"),
        "prompt_cache_retention": (ACCEPTED, "24h"),
        "context_management": (REPORTED, [{"type": "compaction"}]),
    },
)
_MESSAGES = Route(
    "/v1/messages",
    {"model": "T", "max_tokens": 5, "messages": HI},
    {
        "model": (HONOURED, "P"),
        "max_tokens": (HONOURED, 9),
        "messages": (HONOURED, [{"role": "user", "content": "ho"}]),
        "system": (HONOURED, "be brief"),
        "stream": (HONOURED, True),
        "temperature": (HONOURED, 0.1),
        "top_p": (HONOURED, 0.5),
        "top_k": (HONOURED, 7),
        "stop_sequences": (HONOURED, ["x"]),
        "tools": (HONOURED, [ANTHROPIC_TOOL]),
        "tools.cache_control": (
            ACCEPTED,
            [{**ANTHROPIC_TOOL, "cache_control": {"type": "ephemeral"}}],
            [ANTHROPIC_TOOL],
        ),
        "tool_choice": (HONOURED, {"type": "any"}, {"tools": [ANTHROPIC_TOOL]}),
        "thinking": (HONOURED, {"type": "disabled"}),
        "thinking.budget_tokens": (REPORTED, {"type": "enabled", "budget_tokens": 1024}),
        "output_config": (HONOURED, {"effort": "low"}),
        "output_format": (HONOURED, {"type": "json_schema", "schema": SCHEMA}),
        "keep_alive": (HONOURED, -1),
        "mcp_servers": (REFUSED, [{"name": "x"}]),
        "container": (REFUSED, "c"),
        "metadata": (ACCEPTED, {"user_id": "ann"}),
        "service_tier": (ACCEPTED, "auto"),
        "cache_control": (ACCEPTED, {"type": "ephemeral"}),
        "betas": (ACCEPTED, ["x"]),
        "speed": (ACCEPTED, "fast"),
        "inference_geo": (ACCEPTED, "eu"),
        "context_management": (REPORTED, {"edits": []}),
    },
)

ROUTES = (
    _GENERATE, _CHAT, _EMBED, _EMBEDDINGS, _CHAT_COMPLETION, _COMPLETION, _OPENAI_EMBEDDING, _RESPONSES, _MESSAGES,
)  # fmt: skip
