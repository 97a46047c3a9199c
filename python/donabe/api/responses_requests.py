"""The OpenAI Responses dialect, requests: a body to a chat call and what the reply echoes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from donabe.api.body import Fields, parse_json
from donabe.api.durations import parse_keep_alive
from donabe.api.native import unknown_fields
from donabe.api.openai_constraints import SCHEMA_FIELDS
from donabe.api.openai_messages import (
    decode_effort,
    decode_function,
    decode_tool_choice,
    take_tool_choice,
)
from donabe.api.openai_requests import DEFAULT_OPTIONS
from donabe.api.responses_items import input_items, report_items
from donabe.errors import InvalidRequestError
from donabe.service.calls import ChatCall
from donabe.service.parameters import check
from donabe.types import Constraint, JsonObject, Tool

_STRUCT = "ResponsesRequest"
_ECHOED = ("user", "safety_identifier", "prompt_cache_key", "service_tier", "prompt_cache_retention")
_LOGPROBS = "message.output_text.logprobs"
_INCLUDABLE = frozenset({_LOGPROBS, "reasoning.encrypted_content"})  # reasoning always comes whole


@dataclass(frozen=True)
class ResponsesRequest:
    """A decoded request.

    Attributes:
        call: The chat call without its messages: those also depend on the stored conversation.
        items: This request's own input.
        echo: Members of the reply that repeat the request.
    """

    call: ChatCall
    items: list[JsonObject]
    instructions: str
    previous_response_id: str
    is_stored: bool
    echo: JsonObject = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def decode_responses(body: bytes) -> ResponsesRequest:
    """`POST /v1/responses`, and what is counted at `/v1/responses/input_tokens`."""
    fields = Fields(parse_json(body, when_empty="EOF"), _STRUCT)
    model = fields.string("model")
    if not model.strip():
        raise InvalidRequestError("model is required", field="model")
    if fields.boolean("background"):
        raise InvalidRequestError("background is not supported", field="background", hint="stream the response instead")
    for name in ("conversation", "prompt"):
        if fields.take(name) is not None:
            raise InvalidRequestError(f"{name} is not supported", field=name, hint="use previous_response_id")
    items = input_items(fields.take("input"))
    report_items(fields, items)
    raw_tools = fields.array("tools", "[]responses.Tool")
    tools, warnings = _tools(fields.items("tools", raw_tools))
    raw_choice = take_tool_choice(fields)
    parallel = fields.boolean("parallel_tool_calls", True)
    choice = decode_tool_choice(raw_choice, tools, parallel=parallel)
    options, top_logprobs = _options(fields)
    text_format, constraint = _text_format(fields)
    raw_reasoning = fields.take("reasoning")
    effort = None
    if raw_reasoning is not None:
        reasoning = fields.items("reasoning", [raw_reasoning])[0]
        effort = reasoning.take("effort")
        reasoning.ignore("summary", "generate_summary")
    truncation = fields.string("truncation") or "disabled"
    if truncation not in ("auto", "disabled"):
        raise InvalidRequestError("truncation must be auto or disabled", field="truncation")
    include = fields.strings("include")
    previous, instructions = fields.string("previous_response_id"), fields.string("instructions")
    is_stored = fields.boolean("store", True)
    metadata, max_tool_calls = fields.mapping("metadata"), fields.take("max_tool_calls")
    echoed = {name: fields.take(name) for name in _ECHOED}
    call = ChatCall(
        model=model,
        is_streamed=fields.boolean("stream"),
        options=options,
        default_options=DEFAULT_OPTIONS,
        keep_alive_s=parse_keep_alive(fields.take("keep_alive")),
        tools=tools,
        tool_choice=choice,
        force_tools=choice.mode == "required",
        constraint=constraint,
        think=decode_effort(effort, field="reasoning.effort"),
        truncate=truncation == "auto",
        context_shift=False,
        logprobs=bool(top_logprobs) or _LOGPROBS in include,
        top_logprobs=top_logprobs,
    )
    if (stream_options := fields.inner("stream_options")) is not None:
        stream_options.ignore("include_obfuscation")
    warnings += tuple(f"include {name} has no effect" for name in include if name not in _INCLUDABLE)
    echo: JsonObject = {
        "previous_response_id": previous or None,
        "instructions": instructions or None,
        "tools": raw_tools,
        "tool_choice": raw_choice or "auto",
        "truncation": truncation,
        "parallel_tool_calls": parallel,
        "text": {"format": text_format},
        "top_p": options.get("top_p", 1),
        "temperature": options.get("temperature", 1),
        "presence_penalty": options.get("presence_penalty", 0),
        "frequency_penalty": options.get("frequency_penalty", 0),
        "top_logprobs": top_logprobs,
        "reasoning": raw_reasoning,
        "max_output_tokens": options.get("num_predict"),
        "max_tool_calls": max_tool_calls,
        "store": is_stored,
        "background": False,
        "metadata": metadata,
        "service_tier": echoed["service_tier"] or "default",
        "safety_identifier": echoed["safety_identifier"],
        "prompt_cache_key": echoed["prompt_cache_key"],
    }
    return ResponsesRequest(call, items, instructions, previous, is_stored, echo, warnings + unknown_fields(fields))


def _options(fields: Fields) -> tuple[dict[str, Any], int]:
    options: dict[str, Any] = {}
    names = {
        "temperature": "temperature",
        "top_p": "top_p",
        "max_output_tokens": "num_predict",
        "presence_penalty": "presence_penalty",
        "frequency_penalty": "frequency_penalty",
        "seed": "seed",
    }
    for name, option in names.items():
        value = fields.take(name)
        if value is not None:
            options[option] = check(option, value, field=name)
    top_logprobs = fields.take("top_logprobs")
    return options, 0 if top_logprobs is None else check("top_logprobs", top_logprobs, field="top_logprobs")


def _text_format(fields: Fields) -> tuple[JsonObject, Constraint]:
    text = fields.inner("text")
    found = text.take("format") if text is not None else None
    if text is None or found is None:
        return {"type": "text"}, Constraint()
    text.report("format", found, "type", *SCHEMA_FIELDS)
    kind = found.get("type") if isinstance(found, dict) else None
    if kind == "text":
        return found, Constraint()
    if kind == "json_object":
        return found, Constraint(json_object=True)
    if kind == "json_schema" and isinstance(found.get("schema"), dict):
        return found, Constraint(json_schema=found["schema"])
    raise InvalidRequestError(
        "text.format must be text, json_object, or json_schema with a schema", field="text.format"
    )


def _tools(items: list[Fields], prefix: str = "") -> tuple[tuple[Tool, ...], tuple[str, ...]]:
    """Function tools, those of namespaces under the namespace's name. A web search is never needed by a model, so it
    is left out with a warning; other tools that a hosted service runs are refused."""
    tools: list[Tool] = []
    warnings: list[str] = []
    for fields in items:
        kind = fields.string("type", "function")
        if kind == "namespace":
            name = fields.string("name")
            members = fields.items("tools", fields.array("tools", "[]responses.Tool"))
            inner, notes = _tools(members, f"{prefix}{name}.")
            tools += inner
            warnings += notes
        elif kind == "function":
            tool = decode_function(fields)
            name = tool.name if tool.name.startswith(prefix) else prefix + tool.name
            tools.append(Tool(name=name, description=tool.description, parameters=tool.parameters))
        elif kind == "custom":
            text = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
            tools.append(Tool(name=fields.string("name"), description=fields.string("description"), parameters=text))
        elif kind.startswith("web_search"):
            warnings.append(f"the {kind} tool is left out: donabe searches nothing")
            fields.ignore("search_context_size", "user_location", "filters", "external_web_access")
        else:
            raise InvalidRequestError(
                f"tools of type {kind!r} are not supported", field="tools.type", hint="use function tools"
            )
    return tuple(tools), tuple(warnings)


def custom_tool_names(tools: list[Any]) -> frozenset[str]:
    """Names of the tools whose input is free text."""
    return frozenset(item["name"] for item in tools if isinstance(item, dict) and item.get("type") == "custom")
