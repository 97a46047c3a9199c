"""The OpenAI Responses dialect: input items to messages. Pure translation.

A conversation is a list of items, kept as they came so that it can be stored and continued; messages are made of them
anew for every request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from donabe.api.body import Fields
from donabe.api.images import check_images
from donabe.api.openai_messages import check_arguments, decode_content, report_parts
from donabe.errors import InvalidRequestError
from donabe.service.parameters import check_count, check_number
from donabe.types import JsonObject, Message, ToolCall

_LIMIT = re.compile("[0-9]{1,9}")

_IGNORED = frozenset({"web_search_call", "compaction"})
_ITEM_FIELDS = (
    *("type", "id", "status", "role", "content", "call_id", "name", "arguments", "input", "output"),
    *("summary", "encrypted_content", "phase"),
)


def input_items(value: object) -> list[JsonObject]:
    """`input` as a list of items: text is one user message."""
    if value is None or value == "":
        return []
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": value}]
    if not isinstance(value, list):
        raise InvalidRequestError("input must be a string or array", field="input")
    check_count("messages", len(value), field="input")
    for index, item in enumerate(value):
        if not isinstance(item, dict):
            raise InvalidRequestError(f"input[{index}]: an item must be an object", field="input")
        if not isinstance(item.get("type") or "", str):
            raise InvalidRequestError(f"input[{index}]: an item's type must be a string", field="input")
    return value


def report_items(fields: Fields, items: Sequence[JsonObject]) -> None:
    """Report what nothing here looks at in the items of a request and their parts, as fields that are not known."""
    for item in items:
        if item.get("type") in _IGNORED:
            continue
        inner = fields.items("input", [item])[0]
        inner.ignore(*_ITEM_FIELDS)
        for name in ("content", "output"):
            parts = item.get(name)
            if isinstance(parts, list):
                report_parts(inner, name, [part for part in parts if isinstance(part, dict)])


def page_of_items(items: Sequence[JsonObject], query: Mapping[str, str]) -> JsonObject:
    """One page of a response's input as a list object: `order` (newest first), `after` an item's id, `limit` 1 to 100.

    Raises:
        InvalidRequestError: One of them has another value; `after` names no item.
    """
    shown = [_shown_item(item, index) for index, item in enumerate(items)]
    order, after, limit = query.get("order", "desc"), query.get("after", ""), query.get("limit", "20")
    if order not in ("asc", "desc"):
        raise InvalidRequestError("order must be asc or desc", field="order")
    if not _LIMIT.fullmatch(limit):
        raise InvalidRequestError("limit must be a number", field="limit")
    check_number("limit", int(limit), field="limit")
    if order == "desc":
        shown.reverse()
    first = 0
    if after:
        first = next((index + 1 for index, item in enumerate(shown) if item["id"] == after), 0)
        if not first:
            raise InvalidRequestError(f"after names no item of this response: {after[:80]!r}", field="after")
    page = shown[first : first + int(limit)]
    ends = (page[0]["id"], page[-1]["id"]) if page else (None, None)
    has_more = first + len(page) < len(shown)
    return {"object": "list", "data": page, "first_id": ends[0], "last_id": ends[1], "has_more": has_more}


def _shown_item(item: JsonObject, index: int) -> JsonObject:
    """An item with an id, and text of a message as a part."""
    shown = {"id": f"item_{index}", "type": "message", **item}
    content = shown.get("content")
    if shown["type"] == "message" and isinstance(content, str):
        kind = "output_text" if shown.get("role") == "assistant" else "input_text"
        shown |= {"status": "completed", "content": [{"type": kind, "text": content}]}
    return shown


def messages_of(items: Sequence[JsonObject], instructions: str) -> tuple[Message, ...]:
    """The conversation the items stand for, with the instructions in front."""
    reader = _ItemReader()
    for index, item in enumerate(items):
        try:
            reader.read(item)
        except InvalidRequestError as error:
            raise InvalidRequestError(f"input[{index}]: {error.message}", field="input", hint=error.hint) from None
    messages = reader.finish()
    check_images(messages)
    if instructions:
        messages.insert(0, Message(role="system", content=instructions))
    return tuple(messages)


class _ItemReader:
    """Joins what belongs to one assistant turn: its reasoning, its text and its calls are separate items."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._names: dict[str, str] = {}
        self._thinking = ""  # of the reasoning items since the last text or call

    def read(self, item: JsonObject) -> None:
        kind = item.get("type") or ("message" if "role" in item else None)
        if kind is None:
            raise InvalidRequestError("input item missing required 'type' field")
        if kind == "message":
            self._read_message(item)
        elif kind in ("function_call", "custom_tool_call"):
            self._read_call(item, kind)
        elif kind in ("function_call_output", "custom_tool_call_output"):
            self._read_output(item)
        elif kind == "reasoning":
            self._thinking = "\n".join(filter(None, (self._thinking, _reasoning_text(item))))
        elif kind not in _IGNORED:
            raise InvalidRequestError(f'unknown input item type: "{kind}"')

    def _read_message(self, item: JsonObject) -> None:
        role = str(item.get("role") or "user").lower()
        content = item.get("content")
        if isinstance(content, list):
            check_count("parts", len(content), field="content")
            for index, part in enumerate(content):
                _check_part(part, index)
            texts = [part for part in content if part.get("type") in ("input_text", "output_text", "text", "refusal")]
            text = "".join(decode_content([part])[0] for part in texts)
            images = decode_content([p for p in content if p.get("type") == "input_image" and p.get("image_url")])[1]
        else:
            text, images = decode_content(content)
        role = "system" if role == "developer" else role
        if role == "assistant":
            self._add_assistant(Message(role=role, content=text))
        else:
            self._flush_thinking()
            self._messages.append(Message(role=role, content=text, images=images))

    def _read_call(self, item: JsonObject, kind: str) -> None:
        id, name = _text(item, "call_id"), _text(item, "name")
        if kind == "custom_tool_call":
            arguments = msgspec.json.encode({"input": _text(item, "input")}).decode()
        else:
            arguments = _text(item, "arguments") or "{}"
            try:
                check_arguments(arguments)
            except InvalidRequestError:
                raise InvalidRequestError(f"failed to parse function call arguments: {arguments[:80]}") from None
        self._names[id] = name
        self._add_assistant(Message(role="assistant", tool_calls=(ToolCall(name=name, arguments=arguments, id=id),)))

    def _read_output(self, item: JsonObject) -> None:
        id, output = _text(item, "call_id"), item.get("output")
        text, images = decode_content(output)
        self._messages.append(
            Message(role="tool", content=text, images=images, tool_call_id=id, tool_name=self._names.get(id, ""))
        )

    def _add_assistant(self, message: Message) -> None:
        """Add to the assistant turn that is open, or begin one."""
        last = self._messages[-1] if self._messages else None
        if (
            last is not None
            and last.role == "assistant"
            and not self._thinking
            and not (last.content and message.content)
        ):
            calls = tuple(
                msgspec.structs.replace(call, index=index)
                for index, call in enumerate((*last.tool_calls, *message.tool_calls))
            )
            self._messages[-1] = msgspec.structs.replace(
                last, content=last.content or message.content, tool_calls=calls
            )
            return
        self._messages.append(msgspec.structs.replace(message, thinking=self._thinking))
        self._thinking = ""

    def _flush_thinking(self) -> None:
        if self._thinking:
            self._messages.append(Message(role="assistant", thinking=self._thinking))
            self._thinking = ""

    def finish(self) -> list[Message]:
        self._flush_thinking()
        return self._messages


def _check_part(part: object, index: int) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "input_file":
        raise InvalidRequestError("file inputs are not currently supported")
    if kind not in ("input_text", "output_text", "text", "refusal", "input_image"):
        raise InvalidRequestError(f"content[{index}]: unknown content type: {kind}")


def _text(item: JsonObject, name: str) -> str:
    value = item.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidRequestError(f"{name} must be a string")
    return value


def _reasoning_text(item: JsonObject) -> str:
    """Reasoning as this server wrote it; what another server encrypted can't be read and is left out."""
    encrypted = item.get("encrypted_content")
    if isinstance(encrypted, str) and encrypted:
        return encrypted
    parts: list[Any] = item.get("content") or item.get("summary") or []
    return "".join(str(part.get("text") or "") for part in parts if isinstance(part, dict))
