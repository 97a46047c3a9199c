"""Arguments of `LLM` methods to requests: prompts, conversations and tools in the forms people write them. Pure."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

import msgspec

from donabe.chat.inputs import with_stored
from donabe.errors import InvalidRequestError
from donabe.llm.options import ChatKwargs, GenerateKwargs, answer_options, refuse_unknown, tool_choice
from donabe.types import ChatRequest, GenerateRequest, JsonObject, Message, ModelSpec, Tool, ToolCall

AnyRequest = TypeVar("AnyRequest", bound=GenerateRequest | ChatRequest)
Prompt = str | Sequence[int]
MessageLike = Message | Mapping[str, Any]
Conversation = str | Sequence[MessageLike]

_MESSAGE_FIELDS = (
    "role",
    "content",
    "thinking",
    "images",
    "tool_calls",
    "tool_name",
    "tool_call_id",
    "name",
    "reasoning_content",
)


def split_prompts(prompts: Prompt | Sequence[Prompt]) -> tuple[list[Prompt], bool]:
    """The prompts, and whether a list of them was given (and not one prompt of text or tokens)."""
    if isinstance(prompts, str):
        return [prompts], False
    items = list(prompts)
    if items and all(isinstance(item, int) for item in items):
        return [cast(Sequence[int], items)], False
    return cast("list[Prompt]", items), True


def split_conversations(given: Conversation | Sequence[Conversation]) -> tuple[list[Conversation], bool]:
    """The conversations, and whether a list of them was given."""
    if isinstance(given, str):
        return [given], False
    items = list(given)
    is_batch = bool(items) and all(isinstance(item, (list, tuple, str)) for item in items)
    if is_batch:
        return cast("list[Conversation]", items), True
    return [cast(Conversation, items)], False


def unstreamed(request: AnyRequest) -> AnyRequest:
    """The same request for somebody who waits for the whole answer: nothing is passed on token by token."""
    output = msgspec.structs.replace(request.output, stream_interval_s=math.inf)
    return msgspec.structs.replace(request, output=output)


def generate_request(spec: ModelSpec, prompt: Prompt, options: GenerateKwargs) -> GenerateRequest:
    """Continue a prompt as it is.

    Raises:
        TypeError: An unknown option, or a prompt that is neither text nor token ids.
        InvalidRequestError: A bad value.
    """
    refuse_unknown("generate()", options, GenerateKwargs.__annotations__)
    if not isinstance(prompt, str):
        prompt = token_ids(prompt, "prompt")
    parts = answer_options(spec.parameters, options)
    return GenerateRequest(
        prompt=prompt,
        sampling=parts.sampling,
        output=parts.output,
        constraint=parts.constraint,
        scheduling=parts.scheduling,
        truncate=parts.truncate,
        n_keep=parts.n_keep,
    )


def chat_request(spec: ModelSpec, conversation: Conversation, options: ChatKwargs) -> ChatRequest:
    """Answer a conversation, with the model's stored system text and messages in front.

    Raises:
        TypeError: An unknown option, or a message of the wrong form.
        InvalidRequestError: A bad value.
    """
    refuse_unknown("chat()", options, ChatKwargs.__annotations__)
    if isinstance(conversation, str):
        conversation = [Message(role="user", content=conversation)]
    messages = tuple(message_of(item, index) for index, item in enumerate(conversation))
    parts = answer_options(spec.parameters, options)
    return ChatRequest(
        messages=with_stored(messages, spec.messages, spec.system) if messages else (),
        tools=tuple(tool_of(tool) for tool in options.get("tools") or ()),
        tool_choice=tool_choice(options.get("tool_choice", "auto")),
        think=options.get("think"),
        template_kwargs=options.get("template_kwargs") or {},
        continue_final_message=options.get("continue_final_message", False),
        sampling=parts.sampling,
        output=parts.output,
        constraint=parts.constraint,
        scheduling=parts.scheduling,
        truncate=parts.truncate,
        n_keep=parts.n_keep,
    )


def token_ids(given: object, what: str) -> tuple[int, ...]:
    """A sequence of token ids as a tuple; their range is checked where the vocabulary is.

    Raises:
        TypeError: It is something else.
    """
    items = tuple(given) if isinstance(given, Iterable) else (None,)
    if any(isinstance(item, bool) or not isinstance(item, int) for item in items):
        raise TypeError(f"{what} must be text or a list of token ids")
    return items


def message_of(given: MessageLike, index: int) -> Message:
    """A message of a dict in the native or the OpenAI spelling."""
    if isinstance(given, Message):
        return given
    if not isinstance(given, Mapping):
        raise TypeError(f"messages[{index}] must be a dict with role and content, not {type(given).__name__}")
    refuse_unknown(f"messages[{index}]", given, _MESSAGE_FIELDS)
    role, content = given.get("role"), given.get("content")
    if not isinstance(role, str) or not role:
        raise InvalidRequestError(f"messages[{index}] has no role", field=f"messages[{index}].role")
    if content is not None and not isinstance(content, str):
        raise InvalidRequestError(f"messages[{index}].content must be text", field=f"messages[{index}].content")
    return Message(
        role=role,
        content=content or "",
        thinking=given.get("thinking") or given.get("reasoning_content") or "",
        images=tuple(_image(image, index) for image in given.get("images") or ()),
        tool_calls=tuple(_tool_call(call, i) for i, call in enumerate(given.get("tool_calls") or ())),
        tool_name=given.get("tool_name") or given.get("name") or "",
        tool_call_id=given.get("tool_call_id") or "",
    )


def tool_of(given: Tool | Mapping[str, Any]) -> Tool:
    """A tool of a dict `{"type": "function", "function": {...}}`, or of the inner object alone."""
    if isinstance(given, Tool):
        return given
    function = given.get("function", given)
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        raise InvalidRequestError("a tool has no name", field="tools", hint='send {"name": ..., "parameters": {...}}')
    return Tool(
        name=name,
        description=str(function.get("description") or ""),
        parameters=cast(JsonObject, function.get("parameters") or {}),
    )


def _tool_call(given: ToolCall | Mapping[str, Any], index: int) -> ToolCall:
    if isinstance(given, ToolCall):
        return given
    function = given.get("function", given)
    arguments = function.get("arguments") or {}
    return ToolCall(
        name=str(function.get("name") or ""),
        arguments=arguments if isinstance(arguments, str) else json.dumps(arguments),
        id=str(given.get("id") or ""),
        index=index,
    )


def _image(given: object, index: int) -> bytes:
    if isinstance(given, bytes):
        return given
    try:
        return base64.b64decode(str(given), validate=True)
    except binascii.Error:
        raise InvalidRequestError(
            f"messages[{index}].images must hold bytes or base64 text", field=f"messages[{index}].images"
        ) from None
