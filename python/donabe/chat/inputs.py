"""A chat request as the JSON that the native template engine takes (OpenAI message form). Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from donabe.errors import CapabilityError, InvalidRequestError
from donabe.types import ChatRequest, Constraint, Message, Tool, ToolChoice

MakeGrammar = Callable[[str], str]  # JSON Schema text -> GBNF

MAX_SCHEMA_BYTES = 1 << 20


def template_inputs(request: ChatRequest, messages: Sequence[Message], *, enable_thinking: bool) -> str:
    """JSON for `ChatTemplates.apply`.

    Args:
        messages: The conversation to render, stored and request messages already joined.
    """
    tools, mode = offered_tools(request.tools, request.tool_choice)
    kwargs = dict(request.template_kwargs)
    if isinstance(request.think, str):
        kwargs.setdefault("reasoning_effort", request.think)
    inputs: dict[str, Any] = {
        "messages": [openai_message(message, index) for index, message in enumerate(messages)],
        "add_generation_prompt": not request.continue_final_message,
        "continue_final_message": request.continue_final_message,
        "enable_thinking": enable_thinking,
        "template_kwargs": kwargs,
    }
    if tools:
        inputs["tools"] = [openai_tool(tool) for tool in tools]
        inputs["tool_choice"] = mode
        inputs["parallel_tool_calls"] = request.tool_choice.parallel and not request.tool_choice.name
    inputs.update(constraint_inputs(request.constraint))
    return msgspec.json.encode(inputs).decode()


def offered_tools(tools: Sequence[Tool], choice: ToolChoice) -> tuple[tuple[Tool, ...], str]:
    """The tools the model is told about, and none/auto/required. A named choice offers only that tool.

    Raises:
        InvalidRequestError: A tool is named that is not among them, or one is required and there are none.
    """
    if choice.name:
        named = tuple(tool for tool in tools if tool.name == choice.name)
        if not named:
            raise InvalidRequestError(
                f'tool_choice names "{choice.name}", which is not in tools',
                field="tool_choice",
                hint="name one of the tools of this request",
            )
        return named, "required"
    if choice.mode == "required" and not tools:
        raise InvalidRequestError(
            "tool_choice is `required` but tools is empty", field="tool_choice", hint="send the tools to choose from"
        )
    return tuple(tools), choice.mode


def openai_message(message: Message, index: int) -> dict[str, Any]:
    """One message in the OpenAI form.

    Raises:
        InvalidRequestError: It has no role.
        CapabilityError: It carries images: no vision models are run yet.
    """
    if not message.role:
        raise InvalidRequestError(f"messages[{index}] has no role", field=f"messages[{index}].role")
    if message.images:
        raise CapabilityError(
            f"messages[{index}] has an image, but this model does not support vision",
            capability="vision",
            hint="remove the images or choose a vision model",
        )
    result: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.thinking:
        result["reasoning_content"] = message.thinking
    if message.tool_calls:
        result["tool_calls"] = [
            {
                "type": "function",
                "id": call.id or f"call_{index}_{call.index}",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    if message.tool_name:
        result["name"] = message.tool_name
    if message.tool_call_id:
        result["tool_call_id"] = message.tool_call_id
    return result


def openai_tool(tool: Tool) -> dict[str, Any]:
    parameters = tool.parameters or {"type": "object", "properties": {}}
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": parameters},
    }


def constraint_inputs(constraint: Constraint) -> dict[str, Any]:
    """`json_schema` or `grammar`, or nothing."""
    if constraint.grammar is not None:
        return {"grammar": constraint.grammar}
    schema = schema_of(constraint)
    return {} if schema is None else {"json_schema": schema}


def schema_of(constraint: Constraint) -> dict[str, Any] | None:
    """The JSON Schema a constraint stands for; `json_object` is any object.

    Raises:
        InvalidRequestError: More than one constraint is set, or the schema is too large.
    """
    given = (constraint.json_schema is not None, constraint.json_object, constraint.grammar is not None)
    if sum(given) > 1:
        raise InvalidRequestError(
            "only one of json_schema, json_object and grammar can constrain an answer", field="format"
        )
    if constraint.json_schema is None:
        return {"type": "object"} if constraint.json_object else None
    n_bytes = len(msgspec.json.encode(constraint.json_schema))
    if n_bytes > MAX_SCHEMA_BYTES:
        raise InvalidRequestError(
            f"the JSON schema has {n_bytes} bytes, more than the {MAX_SCHEMA_BYTES} allowed", field="format"
        )
    return constraint.json_schema


def grammar_params(constraint: Constraint, make_grammar: MakeGrammar) -> dict[str, Any]:
    """`grammar` for prompts made outside the native template engine, or nothing."""
    schema = schema_of(constraint)
    if schema is not None:
        return {"grammar": make_grammar(msgspec.json.encode(schema).decode())}
    return {"grammar": constraint.grammar} if constraint.grammar is not None else {}


def with_stored(messages: Sequence[Message], stored: Sequence[Message], system: str) -> tuple[Message, ...]:
    """The model's stored messages and system text in front, unless the request brings its own system message."""
    brings_system = bool(messages) and messages[0].role == "system"
    front = (Message(role="system", content=system),) if system and not brings_system else ()
    return (*front, *stored, *messages)


def plain_prompt(messages: Sequence[Message]) -> str:
    """The prompt for models that have no chat template: the contents, separated by blank lines."""
    return "\n\n".join(message.content for message in messages if message.content)
