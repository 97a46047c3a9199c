"""The Anthropic dialect, requests: `/v1/messages` to chat calls of the use cases. Pure translation.

Blocks are read in `anthropic_blocks`. System text stays where it was, so that an agent's growing conversation keeps its
common prefix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from donabe.api.anthropic_blocks import BlockReader, report_blocks
from donabe.api.body import Fields, parse_json
from donabe.api.durations import parse_keep_alive
from donabe.api.images import check_images
from donabe.api.native import unknown_fields
from donabe.errors import InvalidRequestError
from donabe.service.calls import ChatCall, Think
from donabe.service.parameters import check, check_count
from donabe.types import Constraint, Message, Tool, ToolChoice

_OPTION_FIELDS = ("temperature", "top_p", "top_k")
_HARMLESS = ("metadata", "service_tier", "cache_control", "betas", "speed", "inference_geo")
_ROLES = ("user", "assistant", "system")
_EFFORTS: dict[str, Think] = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "max"}

# Coding agents put a line that differs in every request in front of their system prompt; it says nothing to a model and
# would make every prompt new to the prefix cache.
_ATTRIBUTION = "x-anthropic-billing-header:"


@dataclass(frozen=True)
class AnthropicMessages:
    """A decoded messages request.

    Attributes:
        n_estimated_tokens: Rough size of the prompt, known before it is tokenised.
    """

    call: ChatCall
    n_estimated_tokens: int
    warnings: tuple[str, ...]


def decode_messages_request(body: bytes, *, is_counting: bool = False) -> AnthropicMessages:
    """`POST /v1/messages`, and `/v1/messages/count_tokens` when counting (no `max_tokens` there)."""
    fields = Fields(parse_json(body, when_empty="EOF"), "MessagesRequest")
    model = fields.string("model")
    if not model.strip():
        raise InvalidRequestError("model is required", field="model")
    options = _options(fields, needs_max_tokens=not is_counting)
    items = fields.array("messages", "[]anthropic.MessageParam")
    if not items:
        raise InvalidRequestError("messages is required", field="messages")
    system = fields.take("system")
    messages, warnings = _conversation(system, fields.items("messages", items))
    if all(message.role == "system" for message in messages):
        raise InvalidRequestError("messages hold nothing to answer", field="messages", hint="send some content")
    report_blocks(fields, "system", system)
    tools = _tools(fields.items("tools", fields.array("tools", "[]anthropic.Tool")))
    choice = _tool_choice(fields.inner("tool_choice"), tools)
    if fields.take("mcp_servers") or fields.take("container"):
        raise InvalidRequestError("mcp_servers and container are not supported", field="mcp_servers")
    config = fields.inner("output_config")
    call = ChatCall(
        model=model,
        is_streamed=fields.boolean("stream"),
        options=options,
        keep_alive_s=parse_keep_alive(fields.take("keep_alive")),
        messages=messages,
        tools=tools,
        tool_choice=choice,
        force_tools=choice.mode == "required",
        think=_think(fields.inner("thinking"), config),
        ignore_unsupported_thinking=True,
        constraint=_constraint(fields, config),
        truncate=False,
        context_shift=False,
    )
    fields.ignore(*_HARMLESS)
    return AnthropicMessages(call, _estimate(call), warnings + unknown_fields(fields))


def _options(fields: Fields, *, needs_max_tokens: bool) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if needs_max_tokens or fields.has("max_tokens"):
        max_tokens = fields.integer("max_tokens")
        if max_tokens <= 0:
            raise InvalidRequestError("max_tokens is required and must be positive", field="max_tokens")
        options["num_predict"] = check("num_predict", max_tokens, field="max_tokens")
    for name in _OPTION_FIELDS:
        value = fields.take(name)
        if value is not None:
            options[name] = check(name, value, field=name)
    if stops := fields.strings("stop_sequences"):
        options["stop"] = check("stop", stops, field="stop_sequences")
    return options


# --- messages --------------------------------------------------------------------------------------------------------


def _conversation(system: object, items: list[Fields]) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    names: dict[str, str] = {}  # of tools, by the id of their call
    warnings: list[str] = []
    messages: list[Message] = []
    if text := _system_text(system):
        messages.append(Message(role="system", content=text))
    for fields in items:
        reader = BlockReader(_role(fields), names)
        content = fields.take("content")
        reader.read(content)
        report_blocks(fields, "content", content)
        messages += reader.messages()
        warnings += reader.warnings
    check_images(messages)
    return tuple(messages), tuple(dict.fromkeys(warnings))


def _role(fields: Fields) -> str:
    role = fields.string("role").lower()
    if role not in _ROLES:
        raise InvalidRequestError(
            f"unexpected role {role[:40]!r}: allowed are user, assistant and system", field="messages.role"
        )
    return role


def _system_text(system: object) -> str:
    if system is None or isinstance(system, str):
        return _without_attribution(system or "")
    if not isinstance(system, list):
        raise InvalidRequestError("system must be a string or a list of text blocks", field="system")
    check_count("parts", len(system), field="system")
    texts = []
    for block in system:
        if not isinstance(block, dict) or block.get("type") != "text" or not isinstance(block.get("text"), str):
            raise InvalidRequestError("system must be a string or a list of text blocks", field="system")
        texts.append(_without_attribution(block["text"]))
    return "".join(texts)


def _without_attribution(text: str) -> str:
    return text.partition("\n")[2] if text.startswith(_ATTRIBUTION) else text


# --- tools, thinking, constraints ------------------------------------------------------------------------------------


def _tools(items: list[Fields]) -> tuple[Tool, ...]:
    tools = []
    for fields in items:
        fields.ignore("cache_control", "strict")  # a call is held to its schema in any case
        name, kind = fields.string("name"), fields.string("type", "custom")
        if kind != "custom" and not fields.has("input_schema"):
            raise InvalidRequestError(
                f"tools of type {kind!r} are not supported", field="tools.type", hint="describe it with an input_schema"
            )
        if not name:
            raise InvalidRequestError("a tool needs a name", field="tools.name")
        schema = fields.take("input_schema")
        if schema is not None and not isinstance(schema, dict):
            raise InvalidRequestError(
                f'invalid input_schema for tool "{name}": it must be an object', field="tools.input_schema"
            )
        tools.append(Tool(name=name, description=fields.string("description"), parameters=schema or {}))
    return tuple(tools)


def _tool_choice(fields: Fields | None, tools: tuple[Tool, ...]) -> ToolChoice:
    if fields is None:
        return ToolChoice()
    kind, name = fields.string("type"), fields.string("name")
    parallel = not fields.boolean("disable_parallel_tool_use")
    if kind in ("auto", "none"):
        return ToolChoice(mode="none" if kind == "none" else "auto", parallel=parallel)
    if kind == "any":
        if not tools:
            raise InvalidRequestError("tool_choice any needs tools", field="tool_choice")
        return ToolChoice(mode="required", parallel=parallel)
    if kind == "tool":
        if not any(tool.name == name for tool in tools):
            raise InvalidRequestError(f"tool_choice names {name!r}, which is not among the tools", field="tool_choice")
        return ToolChoice(mode="required", name=name, parallel=parallel)
    raise InvalidRequestError("tool_choice.type must be auto, any, tool or none", field="tool_choice.type")


def _think(thinking: Fields | None, config: Fields | None) -> Think:
    kind = thinking.string("type") if thinking is not None else ""
    if thinking is not None and kind not in ("enabled", "adaptive", "disabled"):
        raise InvalidRequestError("thinking.type must be enabled, adaptive or disabled", field="thinking.type")
    if kind == "disabled":
        return False
    effort = config.string("effort").lower() if config is not None else ""
    level = _EFFORTS.get(effort)
    if effort and level is None:
        raise InvalidRequestError(
            f"output_config.effort {effort!r} is not known",
            field="output_config.effort",
            hint="low, medium, high or max",
        )
    return level or (True if kind in ("enabled", "adaptive") else None)


def _constraint(fields: Fields, config: Fields | None) -> Constraint:
    """`output_config.format`, or its older place `output_format`."""
    older = fields.take("output_format")
    fields.report("output_format", older, "type", "schema")
    found = config.take("format") if config is not None else None
    if config is not None:
        config.report("format", found, "type", "schema")
    if found is not None and older is not None and found != older:
        raise InvalidRequestError(
            "output_config.format and output_format exclude each other",
            field="output_config.format",
            hint="send output_config.format only",
        )
    value = found if found is not None else older
    if value is None:
        return Constraint()
    if isinstance(value, dict) and value.get("type") == "json_schema" and isinstance(value.get("schema"), dict):
        return Constraint(json_schema=value["schema"])
    raise InvalidRequestError(
        'the output format must be {"type": "json_schema", "schema": {...}}', field="output_config.format"
    )


def _estimate(call: ChatCall) -> int:
    """A fourth of the prompt's bytes, at least one."""
    n_bytes = sum(
        len(message.role)
        + len(message.content.encode())
        + len(message.thinking.encode())
        + sum(len(part.name) + len(part.arguments.encode()) for part in message.tool_calls)
        for message in call.messages
    )
    for tool in call.tools:
        n_bytes += len(tool.name) + len(tool.description.encode()) + len(msgspec.json.encode(tool.parameters))
    return max(1, n_bytes // 4)
