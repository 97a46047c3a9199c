"""What templates see of a request: messages, tool calls and tools as Go structs, with the reference system's field
names.

Printed bare, tools, their parts and call arguments are JSON with sorted map keys. Of a tool's JSON Schema only the
keywords the reference knows reach the template; the others are dropped, because models were trained on that form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import msgspec

from donabe.errors import TemplateError
from donabe.template.values import GoStruct, JsonList, JsonMap, TypeNames, clean_text
from donabe.types import Message, Tool, ToolCall

_MAX_SCHEMA_DEPTH = 64


def template_messages(messages: Sequence[Message]) -> list[GoStruct]:
    """The value of `.Messages`."""
    return [_message(message) for message in messages]


def template_tools(tools: Sequence[Tool]) -> JsonList:
    """The value of `.Tools`: prints as a JSON array, and as null without tools."""
    return JsonList(_tool(tool) for tool in tools)


def _message(message: Message) -> GoStruct:
    return GoStruct(
        "*template.templateMessage",
        {
            "Role": clean_text(message.role),
            "Content": clean_text(message.content),
            "Thinking": clean_text(message.thinking),
            "Images": [f"[{len(image)} bytes]" for image in message.images],
            "ToolCalls": [_tool_call(call) for call in message.tool_calls],
            "ToolName": clean_text(message.tool_name),
            "ToolCallID": clean_text(message.tool_call_id),
        },
    )


def _tool_call(call: ToolCall) -> GoStruct:
    """Printed bare it has the form models write; `json` gives the Go field names."""
    arguments = JsonMap(_arguments(call))
    name = clean_text(call.name)
    printed = (("name", name), ("arguments", arguments))
    function = GoStruct(
        "template.templateToolCallFunction",
        {"Index": call.index, "Name": name, "Arguments": arguments},
        printed=printed,
    )
    return GoStruct("template.templateToolCall", {"ID": clean_text(call.id), "Function": function}, printed=printed)


def _arguments(call: ToolCall) -> Mapping[str, object]:
    """The arguments object; anything else a client sent is kept under one key rather than lost."""
    try:
        value = msgspec.json.decode(call.arguments or "{}")
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as exc:
        raise TemplateError(
            f"arguments of tool call {json.dumps(call.name)[:80]} are not JSON: {exc}", hint="send a JSON object"
        ) from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise TemplateError(
            f"arguments of tool call {json.dumps(call.name)[:80]} are not a JSON object", hint="send a JSON object"
        )
    return value


def _tool(tool: Tool) -> GoStruct:
    name, description = clean_text(tool.name), clean_text(tool.description)
    parameters = _parameters(tool.parameters)
    function = GoStruct(
        "template.templateToolFunction",
        {"Name": name, "Description": description, "Parameters": parameters},
        printed=(("name", name), ("description", description), ("parameters", parameters)),
        is_json=True,
    )
    return GoStruct(
        "template.templateTool",
        {"Type": "function", "Items": None, "Function": function},
        printed=(("type", "function"), ("function", function)),
        is_json=True,
    )


def _parameters(schema: Mapping[str, object]) -> GoStruct:
    kind = schema.get("type") or "object"
    properties = _properties(schema.get("properties"), 0)
    defs, items, required = schema.get("$defs"), schema.get("items"), _names(schema.get("required"))
    fields: list[tuple[str, object]] = [("type", kind)]
    fields += [("$defs", defs)] if defs is not None else []
    fields += [("items", items)] if items is not None else []
    fields += [("required", required)] if required else []
    fields.append(("properties", properties))
    return GoStruct(
        "template.templateToolFunctionParameters",
        {"Type": kind, "Defs": defs, "Items": items, "Required": required, "Properties": properties},
        printed=fields,
        is_json=True,
    )


def _properties(value: object, depth: int) -> JsonMap:
    """A map of properties; what is not a schema object is dropped, as the reference does."""
    if not isinstance(value, Mapping):
        return JsonMap()
    return JsonMap(
        (clean_text(str(name)), _property(schema, depth + 1))
        for name, schema in value.items()
        if isinstance(schema, Mapping)
    )


def _property(schema: Mapping[str, object], depth: int) -> GoStruct:
    if depth > _MAX_SCHEMA_DEPTH:
        raise TemplateError(f"tool parameters are nested deeper than {_MAX_SCHEMA_DEPTH} levels")
    any_of = schema.get("anyOf")
    options = [_property(item, depth + 1) for item in _items(any_of) if isinstance(item, Mapping)]
    names = _type_names(schema.get("type"))
    items, enum = schema.get("items"), _items(schema.get("enum"))
    description = clean_text(str(schema.get("description") or ""))
    properties = _properties(schema["properties"], depth) if "properties" in schema else None
    required = _names(schema.get("required"))
    fields: list[tuple[str, object]] = [("anyOf", options)] if options else []
    fields += [("type", names[0] if len(names) == 1 else names)] if names else []
    fields += [("items", items)] if items is not None else []
    fields += [("description", description)] if description else []
    fields += [("enum", enum)] if enum else []
    fields += [("properties", properties)] if properties else []
    fields += [("required", required)] if required else []
    return GoStruct(
        "api.ToolProperty",
        {
            "AnyOf": options,
            "Type": names,
            "Items": items,
            "Description": description,
            "Enum": enum,
            "Properties": properties,
            "Required": required,
        },
        printed=fields,
        is_json=True,
    )


def _items(value: object) -> Sequence[object]:
    return value if isinstance(value, (list, tuple)) else ()


def _names(value: object) -> list[str]:
    return [clean_text(str(name)) for name in _items(value)]


def _type_names(value: object) -> TypeNames:
    if isinstance(value, str):
        return TypeNames([clean_text(value)])
    return TypeNames(_names(value))
