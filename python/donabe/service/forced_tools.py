"""Tool calls from models that were never taught any: the tools are described in the system prompt, a JSON Schema forces
the answer into the form of a call, and the answer's text is turned into one.

Only for callers that insist on a call (`required`, or a named tool): such an answer can't be anything else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec

from donabe.types import (
    ChatRequest,
    Constraint,
    Delta,
    Event,
    Finished,
    JsonObject,
    Message,
    Tool,
    ToolCall,
    ToolChoice,
)


def with_forced_tools(request: ChatRequest) -> ChatRequest:
    """The request with its tools written into prompt and constraint."""
    tools = _offered(request)
    messages = list(request.messages)
    text = _instructions(tools)
    if messages and messages[0].role == "system":
        messages[0] = msgspec.structs.replace(messages[0], content=f"{messages[0].content}\n\n{text}")
    else:
        messages.insert(0, Message(role="system", content=text))
    return msgspec.structs.replace(
        request,
        messages=tuple(_without_calls(message) for message in messages),
        tools=(),
        tool_choice=ToolChoice(),
        constraint=Constraint(json_schema=_call_schema(tools)),
    )


def _offered(request: ChatRequest) -> tuple[Tool, ...]:
    name = request.tool_choice.name
    return tuple(tool for tool in request.tools if not name or tool.name == name)


def _instructions(tools: tuple[Tool, ...]) -> str:
    lines = ["Answer by calling one of these functions."]
    for tool in tools:
        parameters = msgspec.json.encode(tool.parameters or {}).decode()
        lines.append(f"- {tool.name}: {tool.description or 'no description'}\n  parameters (JSON Schema): {parameters}")
    lines.append('Write only a JSON object: {"name": <function>, "arguments": {<parameter>: <value>, ...}}')
    return "\n".join(lines)


def _call_schema(tools: tuple[Tool, ...]) -> JsonObject:
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.name}, "arguments": tool.parameters or {"type": "object"}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool in tools
    ]
    return calls[0] if len(calls) == 1 else {"anyOf": calls}


def _without_calls(message: Message) -> Message:
    """Earlier calls and their results as plain text, which any template can show."""
    if message.tool_calls:
        text = "\n".join(
            msgspec.json.encode({"name": call.name, "arguments": msgspec.Raw(call.arguments.encode())}).decode()
            for call in message.tool_calls
        )
        content = f"{message.content}\n{text}" if message.content else text
        return msgspec.structs.replace(message, content=content, tool_calls=())
    if message.role == "tool":
        return Message(role="user", content=f"Result of {message.tool_name or 'the function'}: {message.content}")
    return message


async def as_tool_calls(events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    """The forced answer's text as one tool call for each choice, sent when it is whole.

    An answer that was cut off is no call; its text is passed on as content.
    """
    texts: dict[int, list[str]] = {}
    try:
        async for event in events:
            if isinstance(event, Delta):
                texts.setdefault(event.index, []).append(event.text)
                if event.thinking or event.logprobs or event.tokens:  # tokens count when they are made
                    yield msgspec.structs.replace(event, text="")
                continue
            if isinstance(event, Finished):
                yield _call_or_text("".join(texts.get(event.index, [])), event.index)
            yield event
    finally:
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()


def _call_or_text(text: str, index: int) -> Delta:
    try:
        call = msgspec.json.decode(text, type=dict[str, Any])
        name, arguments = call["name"], call["arguments"]
    except (msgspec.MsgspecError, KeyError):
        return Delta(text=text, index=index)
    return Delta(tool_calls=(ToolCall(name=name, arguments=msgspec.json.encode(arguments).decode()),), index=index)
