"""The OpenAI dialect: messages, content parts and tools to their native values. Pure translation.

A message with several parts stays one message: its texts are joined by line breaks and its images follow in order.
"""

from __future__ import annotations

from typing import Any

import msgspec

from donabe.api.body import Fields, decode_base64, kind_of
from donabe.api.images import check_image, check_images
from donabe.errors import InvalidRequestError
from donabe.service.calls import Think
from donabe.service.parameters import check_count
from donabe.types import JsonObject, Message, Tool, ToolCall, ToolChoice

_IMAGE_PREFIXES = (*(f"data:image/{kind};base64," for kind in ("jpeg", "jpg", "png", "webp")), "data:;base64,")
_GO_KINDS = {"null": "<nil>", "number": "float64", "bool": "bool", "object": "map[string]interface {}"}

# What clients send back of an earlier answer, and hints for caches that are automatic here.
_HARMLESS = ("annotations", "refusal", "cache_control", "reasoning_details")
_PART_FIELDS = (
    *("type", "text", "refusal", "image_url", "input_audio", "detail"),
    *("annotations", "logprobs", "cache_control"),
)

EFFORTS: dict[str, Think] = {
    "": None,
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "max",
    "ultra": "max",
    "max": "max",
}


def decode_messages(fields: Fields) -> tuple[Message, ...]:
    """`messages`, at least one."""
    items = fields.array("messages", "[]openai.Message")
    if not items:
        raise InvalidRequestError("[] is too short - 'messages'", field="messages")
    names: dict[str, str] = {}  # of tools, by the id of their call
    messages = []
    for item in fields.items("messages", items):
        message = _decode_message(item, names)
        for call in message.tool_calls:
            names[call.id] = call.name
        messages.append(message)
    check_images(messages)
    return tuple(messages)


def _decode_message(fields: Fields, names: dict[str, str]) -> Message:
    role = fields.string("role").lower()
    calls = tuple(fields.objects("tool_calls", "[]openai.ToolCall", _decode_tool_call))
    content = fields.take("content")
    if content is None and not calls and role != "assistant":
        raise InvalidRequestError("invalid message content type: <nil>", field="messages.content")
    text, images = decode_content(content)
    report_parts(fields, "content", content)
    tool_call_id = fields.string("tool_call_id")
    is_result = role in ("tool", "function")
    name = fields.string("name") if is_result else ""  # elsewhere no template has a place for it
    reasoning, reasoning_content = fields.string("reasoning"), fields.string("reasoning_content")
    fields.ignore(*_HARMLESS)
    return Message(
        role={"developer": "system", "function": "tool"}.get(role, role),
        content=text,
        thinking=reasoning or reasoning_content,
        images=images,
        tool_calls=calls,
        tool_call_id=tool_call_id,
        tool_name=(name or names.get(tool_call_id, "")) if is_result else "",
    )


def decode_content(content: object) -> tuple[str, tuple[bytes, ...]]:
    """(text, images) of a string, a list of parts, or null."""
    if content is None:
        return "", ()
    if isinstance(content, str):
        return content, ()
    if not isinstance(content, list):
        found = kind_of(content)
        raise InvalidRequestError(
            f"invalid message content type: {_GO_KINDS.get(found, found)}", field="messages.content"
        )
    check_count("parts", len(content), field="messages.content")
    texts: list[str] = []
    images: list[bytes] = []
    for part in content:
        if not isinstance(part, dict):
            raise InvalidRequestError("invalid message format", field="messages.content")
        kind = part.get("type")
        if kind in ("text", "input_text", "output_text", "refusal"):
            piece = part.get("refusal" if kind == "refusal" else "text")
            if not isinstance(piece, str):
                raise InvalidRequestError("invalid message format", field="messages.content.text")
            texts.append(piece)
        elif kind in ("image_url", "input_image"):
            images.append(_decode_image(part.get("image_url")))
        elif kind == "input_audio":
            images.append(_decode_audio(part.get("input_audio")))
        else:
            raise InvalidRequestError(
                "invalid message format", field="messages.content.type", hint=f"parts of type {kind!r} are not known"
            )
    return "\n".join(texts), tuple(images)


def report_parts(fields: Fields, name: str, content: object) -> None:
    """Report what `decode_content` did not look at in the parts of a message, as fields that are not known."""
    for part in content if isinstance(content, list) else ():
        inner = fields.items(name, [part])[0]
        inner.ignore(*_PART_FIELDS)
        for nested in ("image_url", "input_audio"):
            if isinstance(part.get(nested), dict):
                fields.items(f"{name}.{nested}", [part[nested]])[0].ignore("url", "detail", "data", "format")


def _decode_image(value: object) -> bytes:
    url = value.get("url") if isinstance(value, dict) else value
    if not isinstance(url, str):
        raise InvalidRequestError("invalid message format", field="messages.content.image_url")
    if url.startswith(("http://", "https://")):
        raise InvalidRequestError(
            "image URLs are not currently supported, please use base64 encoded data instead",
            field="messages.content.image_url",
        )
    prefix = next((prefix for prefix in _IMAGE_PREFIXES if url.startswith(prefix)), None)
    if prefix is None:
        raise InvalidRequestError("invalid image input", field="messages.content.image_url")
    data = decode_base64(url[len(prefix) :], "messages.content.image_url", text="invalid image input")
    check_image(data, "messages.content.image_url")
    return data


def _decode_audio(value: object) -> bytes:
    if not isinstance(value, dict):
        raise InvalidRequestError("invalid input_audio format", field="messages.content.input_audio")
    data = value.get("data")
    if not isinstance(data, str) or not data:
        raise InvalidRequestError("invalid input_audio format: missing data", field="messages.content.input_audio")
    decoded = decode_base64(data, "messages.content.input_audio", text="invalid input_audio base64 data: {}")
    check_image(decoded, "messages.content.input_audio")  # what hears tells from the data whether to look instead
    return decoded


def _decode_tool_call(fields: Fields) -> ToolCall:
    function = fields.inner("function")
    fields.ignore("type")
    if function is None:
        raise InvalidRequestError("tool_calls need a function", field="messages.tool_calls.function")
    arguments = function.string("arguments", "{}")
    check_arguments(arguments)
    return ToolCall(
        name=function.string("name"), arguments=arguments or "{}", id=fields.string("id"), index=fields.bounded("index")
    )


def check_arguments(arguments: str) -> None:
    """Tool call arguments travel as the text of a JSON object."""
    try:
        msgspec.json.decode(arguments or "{}", type=dict[str, Any])
    except msgspec.MsgspecError:
        raise InvalidRequestError("invalid tool call arguments", field="messages.tool_calls.arguments") from None


def decode_tools(items: list[Fields]) -> tuple[Tool, ...]:
    """Function tools; other kinds run on a hosted service and are refused."""
    tools = []
    for fields in items:
        fields.ignore("cache_control")
        kind = fields.string("type", "function")
        if kind != "function":
            raise InvalidRequestError(
                f"tools of type {kind!r} are not supported", field="tools.type", hint="use function tools"
            )
        function = fields.inner("function") or fields  # the Responses form has the function's fields here
        tools.append(decode_function(function))
    return tuple(tools)


def decode_function(function: Fields) -> Tool:
    name = function.string("name")
    if not name:
        raise InvalidRequestError("a function needs a name", field="tools.function.name")
    function.ignore("strict")  # a call is held to its schema in any case
    return Tool(name=name, description=function.string("description"), parameters=function.mapping("parameters"))


def take_tool_choice(fields: Fields) -> object:
    """`tool_choice` as it was sent; what is in it beside the tool's name is reported."""
    value = fields.take("tool_choice")
    fields.report("tool_choice", value, "type", "name", "function")
    if isinstance(value, dict):
        fields.report("tool_choice.function", value.get("function"), "name")
    return value


def decode_tool_choice(value: object, tools: tuple[Tool, ...], *, parallel: bool = True) -> ToolChoice:
    """`none`, `auto`, `required`, or a named function in either of its forms."""
    if value is None or value in ("auto", "none", "required"):
        mode: Any = value or "auto"
        if mode == "required" and not tools:
            raise InvalidRequestError("tool_choice is required, but there are no tools", field="tool_choice")
        return ToolChoice(mode=mode, parallel=parallel)
    if isinstance(value, dict) and value.get("type") in ("function", "tool"):
        function = value.get("function")
        name = function.get("name") if isinstance(function, dict) else value.get("name")
        if isinstance(name, str) and any(tool.name == name for tool in tools):
            return ToolChoice(mode="required", name=name, parallel=parallel)
        raise InvalidRequestError(f"tool_choice names {name!r}, which is not among the tools", field="tool_choice")
    raise InvalidRequestError("tool_choice must be none, auto, required or a named function", field="tool_choice")


def decode_effort(value: object, *, field: str = "reasoning_effort") -> Think:
    """The effort of reasoning as what the model is told."""
    if value is None:
        return None
    if not isinstance(value, str) or value not in EFFORTS:
        shown = f'"{value}"' if isinstance(value, str) else msgspec.json.encode(value).decode()
        raise InvalidRequestError(
            f'invalid reasoning value: {shown} (must be "minimal", "low", "medium", "high", "xhigh", "ultra",'
            ' "max", or "none")',
            field=field,
        )
    return EFFORTS[value]


def stop_strings(value: object, field: str = "stop") -> list[str]:
    """One string or a list of them."""
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        for item in value:
            if not isinstance(item, str):
                raise InvalidRequestError(
                    f"invalid type for '{field}' field: {_GO_KINDS.get(kind_of(item), kind_of(item))}", field=field
                )
        return value
    raise InvalidRequestError(f"{field} must be a string or a list of strings", field=field)


def call_object(call: ToolCall, index: int, id: str) -> JsonObject:
    """A complete tool call as this dialect writes it."""
    return {
        "id": id,
        "index": index,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments or "{}"},
    }
