"""The OpenAI Responses dialect, replies: the response object, and its stream of numbered events.

Items of the output come in the order the model wrote them: reasoning, message, function calls. The final object of a
stream is the same as the whole reply.
"""

from __future__ import annotations

import secrets

import msgspec

from donabe.api.blocks import Block, BlockList, HeldLogprobs
from donabe.api.dialect import PLAIN_JSON, SSE, Timing
from donabe.api.durations import unix_seconds
from donabe.api.native_replies import arguments_object, new_call_id
from donabe.api.openai_replies import chat_logprob, error_object
from donabe.errors import DonabeError
from donabe.types import Delta, Finished, FinishReason, JsonObject, ToolCall, Usage

_encode = msgspec.json.Encoder().encode


def new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"


class ResponseBuilder:
    """The response object as it grows.

    Args:
        echo: Members that repeat the request.
        custom_tools: Tools whose calls carry free text.
    """

    def __init__(self, model: str, echo: JsonObject, *, custom_tools: frozenset[str] = frozenset()) -> None:
        self.id = new_id("resp")
        self.output: list[JsonObject] = []
        self._custom_tools = custom_tools
        self._head: JsonObject = {"id": self.id, "object": "response", "created_at": unix_seconds()}
        self._model = model
        self._echo = echo
        self.final: JsonObject = {}

    def object(self, status: str, *, usage: JsonObject | None = None, **changes: object) -> JsonObject:
        return {
            **self._head,
            "completed_at": unix_seconds() if status == "completed" else None,
            "status": status,
            "incomplete_details": None,
            "error": None,
            "model": self._model,
            "output": self.output if status != "in_progress" else [],
            "usage": usage,
            **self._echo,
            **changes,
        }

    def finish(self, event: Finished) -> JsonObject:
        """The final object; kept in `final`, for storing it."""
        usage = _usage_object(event.usage)
        if event.reason is FinishReason.LENGTH:
            details = {"reason": "max_output_tokens"}
            self.final = self.object("incomplete", usage=usage, incomplete_details=details)
        else:
            self.final = self.object("completed", usage=usage)
        return self.final

    def call_item(self, call: ToolCall) -> JsonObject:
        """A whole tool call as an output item."""
        arguments = arguments_object(call)
        item: JsonObject = {"id": new_id("fc"), "type": "function_call", "status": "completed"}
        item |= {"call_id": call.id or new_call_id(), "name": call.name}
        if call.name in self._custom_tools:
            return item | {"id": new_id("ctc"), "type": "custom_tool_call", "input": str(arguments.get("input", ""))}
        return item | {"arguments": call.arguments or "{}"}


def _usage_object(usage: Usage) -> JsonObject:
    return {
        "input_tokens": usage.n_prompt_tokens,
        "output_tokens": usage.n_output_tokens,
        "total_tokens": usage.n_prompt_tokens + usage.n_output_tokens,
        "input_tokens_details": {"cached_tokens": usage.n_cached_tokens},
        "output_tokens_details": {"reasoning_tokens": usage.n_thinking_tokens},
    }


def reasoning_item(id: str, text: str) -> JsonObject:
    summary = [{"type": "summary_text", "text": text}]
    return {"id": id, "type": "reasoning", "summary": summary, "encrypted_content": text}


def message_item(id: str, text: str, logprobs: list[JsonObject], *, status: str = "completed") -> JsonObject:
    return {
        "id": id,
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": [] if status == "in_progress" else [_text_part(text, logprobs)],
    }


def item_status(event: Finished) -> str:
    """Of the message the answer ended in."""
    return "incomplete" if event.reason is FinishReason.LENGTH else "completed"


def _text_part(text: str, logprobs: list[JsonObject]) -> JsonObject:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def input_tokens_body(n_tokens: int) -> bytes:
    """`POST /v1/responses/input_tokens`."""
    return _encode({"object": "response.input_tokens", "input_tokens": n_tokens}) + b"\n"


class ResponseCollector:
    """The whole response."""

    media_type = PLAIN_JSON

    def __init__(self, builder: ResponseBuilder) -> None:
        self._builder = builder
        self._blocks = BlockList()

    def delta(self, event: Delta) -> None:
        self._blocks.add(event)

    def finished(self, event: Finished, timing: Timing) -> None:
        items = [self._item(block) for block in self._blocks.finish(is_empty_text=True)]
        if items[-1]["type"] == "message":
            items[-1]["status"] = item_status(event)
        self._builder.output += items
        self._builder.finish(event)

    def _item(self, block: Block) -> JsonObject:
        if block.call is not None:
            return self._builder.call_item(block.call)
        if block.kind == "thinking":
            return reasoning_item(new_id("rs"), block.text)
        return message_item(new_id("msg"), block.text, [chat_logprob(entry) for entry in block.logprobs])

    def body(self) -> bytes:
        return _encode(self._builder.final) + b"\n"


class ResponseEventWriter:
    """The events of a streamed response."""

    media_type = SSE

    def __init__(self, builder: ResponseBuilder) -> None:
        self._builder = builder
        self._number = 0
        self._is_started = False
        self._open = ""  # kind of the open item: reasoning, message or none
        self._item_id = ""
        self._pieces: list[str] = []
        self._logprobs: list[JsonObject] = []
        self._held_logprobs = HeldLogprobs()
        self._has_output = False

    def _event(self, name: str, **values: object) -> bytes:
        payload = {"type": name, "sequence_number": self._number, **values}
        self._number += 1
        return b"event: " + name.encode() + b"\ndata: " + _encode(payload) + b"\n\n"

    def _start(self) -> bytes:
        if self._is_started:
            return b""
        self._is_started = True
        response = self._builder.object("in_progress")
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def delta(self, event: Delta) -> bytes:
        parts = [self._start()]
        logprobs = [chat_logprob(entry) for entry in self._held_logprobs.of(event)]
        if event.thinking:
            parts.append(self._switch_to("reasoning"))
            self._pieces.append(event.thinking)
            parts.append(
                self._item_event("response.reasoning_summary_text.delta", summary_index=0, delta=event.thinking)
            )
        if event.text:
            parts.append(self._switch_to("message"))
            self._pieces.append(event.text)
            self._logprobs += logprobs
            parts.append(
                self._item_event("response.output_text.delta", content_index=0, delta=event.text, logprobs=logprobs)
            )
        parts += [self._call(call) for call in event.tool_calls]
        return b"".join(parts)

    def _item_event(self, name: str, **values: object) -> bytes:
        index = len(self._builder.output)
        return self._event(name, item_id=self._item_id, output_index=index, **values)

    def _switch_to(self, kind: str) -> bytes:
        """Open an item of this kind, closing another."""
        if self._open == kind:
            return b""
        closing = self._close()
        self._open = kind
        self._has_output = True
        self._pieces, self._logprobs = [], []
        index = len(self._builder.output)
        if kind == "reasoning":
            self._item_id = new_id("rs")
            item: JsonObject = {"id": self._item_id, "type": "reasoning", "summary": []}
            part = {"type": "summary_text", "text": ""}
            return (
                closing
                + self._event("response.output_item.added", output_index=index, item=item)
                + self._item_event("response.reasoning_summary_part.added", summary_index=0, part=part)
            )
        self._item_id = new_id("msg")
        item = message_item(self._item_id, "", [], status="in_progress")
        return (
            closing
            + self._event("response.output_item.added", output_index=index, item=item)
            + self._item_event("response.content_part.added", content_index=0, part=_text_part("", []))
        )

    def _close(self, status: str = "completed") -> bytes:
        """End the open item and put it into the output."""
        kind, self._open = self._open, ""
        text, index = "".join(self._pieces), len(self._builder.output)
        if kind == "reasoning":
            part = {"type": "summary_text", "text": text}
            item = reasoning_item(self._item_id, text)
            events = self._item_event(
                "response.reasoning_summary_text.done", summary_index=0, text=text
            ) + self._item_event("response.reasoning_summary_part.done", summary_index=0, part=part)
        elif kind == "message":
            item = message_item(self._item_id, text, self._logprobs, status=status)
            events = self._item_event(
                "response.output_text.done", content_index=0, text=text, logprobs=self._logprobs
            ) + self._item_event("response.content_part.done", content_index=0, part=_text_part(text, self._logprobs))
        else:
            return b""
        events += self._event("response.output_item.done", output_index=index, item=item)
        self._builder.output.append(item)
        return events

    def _call(self, call: ToolCall) -> bytes:
        closing = self._close()
        self._has_output = True
        item = self._builder.call_item(call)
        self._item_id = item["id"]
        index = len(self._builder.output)
        is_custom = item["type"] == "custom_tool_call"
        member, name = ("input", "custom_tool_call_input") if is_custom else ("arguments", "function_call_arguments")
        pending = {**item, "status": "in_progress", member: ""}
        events = (
            closing
            + self._event("response.output_item.added", output_index=index, item=pending)
            + self._item_event(f"response.{name}.delta", delta=item[member])
            + self._item_event(f"response.{name}.done", **{member: item[member]})
            + self._event("response.output_item.done", output_index=index, item=item)
        )
        self._builder.output.append(item)
        return events

    def finished(self, event: Finished, timing: Timing) -> bytes:
        opening = self._start()
        if not self._has_output:  # an empty answer is a message without text
            opening += self._switch_to("message")
        if self._open == "message":
            self._logprobs += [chat_logprob(entry) for entry in self._held_logprobs.rest()]
        closing = self._close(item_status(event))
        final = self._builder.finish(event)
        return opening + closing + self._event(f"response.{final['status']}", response=final)

    def failed(self, status: int, error: DonabeError) -> bytes:
        detail = error_object(status, error)["error"]
        shown = {"code": detail["code"] or "server_error", "message": detail["message"]}
        closing = self._close("incomplete")
        return closing + self._event("response.failed", response=self._builder.object("failed", error=shown))
