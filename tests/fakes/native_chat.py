"""The native template engine and answer parser in Python: `role: content` lines, `<t>thinking</t>`, `CALL name {}`."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from donabe.errors import InvalidArgumentError, TemplateError


class FakeChatPrompt:
    grammar_lazy = False
    format = "fake"
    generation_prompt = "assistant:"
    grammar_prefill = "assistant:"
    thinking_start = "<t>"

    def __init__(self, inputs: dict[str, Any], *, supports_thinking: bool) -> None:
        self.inputs = inputs
        lines = [f"{message['role']}: {message['content']}" for message in inputs["messages"]]
        self.prompt = "\n".join([*lines, "assistant:"] if inputs["add_generation_prompt"] else lines)
        self.grammar = "root ::= call" if inputs.get("tools") else "schema" if "json_schema" in inputs else ""
        self.grammar_triggers: list[object] = []
        self.preserved_tokens = ["<sep>", "two words"]
        self.stops = ["END"]
        self.supports_thinking = supports_thinking
        self.thinking_ends = ["</t>"]

    def message_starts(self, _vocab: object, tokens: Any) -> Any:
        return np.arange(0, len(tokens), 2, dtype=np.int32)


class FakeTemplates:
    """Remembers the inputs it was given."""

    source = "fake"

    def __init__(self, *, tools: bool = True, thinking: bool = True) -> None:
        self.caps = {"supports_tools": tools, "supports_tool_calls": tools}
        self.supports_thinking = thinking
        self.seen: list[dict[str, Any]] = []

    def apply(self, inputs: str) -> FakeChatPrompt:
        decoded = json.loads(inputs)
        self.seen.append(decoded)
        if decoded["continue_final_message"] and decoded["messages"][-1]["role"] != "assistant":
            raise InvalidArgumentError("continue_final_message needs a final assistant message")
        if decoded["messages"][0]["role"] == "assistant":
            raise TemplateError("conversations begin with the user")
        return FakeChatPrompt(decoded, supports_thinking=self.supports_thinking)


class FakeParser:
    """Parses all text again on every call, as the native one does. Text that holds `BROKEN` never parses."""

    def __init__(self, _prompt: object = None) -> None:
        self.text = ""
        self.content = ""
        self.thinking = ""

    def _parse(self, is_final: bool) -> tuple[str, str, list[dict[str, Any]]]:
        text, thinking, calls = self.text, "", []
        if not is_final and "<t>".startswith(text):
            return "", "", []
        if text.startswith("<t>"):
            thinking, _, text = text[3:].partition("</t>")
            if not is_final and "</t>" not in self.text and thinking.endswith(tuple("</t"[: i + 1] for i in range(3))):
                thinking = thinking.split("<")[0]
        content, found, call = text.partition("CALL ")
        if found:
            name, _, arguments = call.partition(" ")
            calls = [{"index": 0, "id": "", "name": name, "arguments": arguments}]
        elif not is_final:
            content = content.rstrip("CAL ")
        return content, thinking, calls

    def _deltas(self, content: str, thinking: str) -> dict[str, Any]:
        new = {"content": content[len(self.content) :], "thinking": thinking[len(self.thinking) :], "tool_calls": []}
        self.content, self.thinking = content, thinking
        return new

    def feed(self, text: bytes) -> str:
        self.text += text.decode()
        content, thinking, _ = self._parse(False)
        return json.dumps(self._deltas(content, thinking))

    def finish(self) -> str:
        if "BROKEN" in self.text:
            rest = {"content": self.text[len(self.content) :], "thinking": "", "tool_calls": []}
            return json.dumps(
                {"content": self.text, "thinking": "", "tool_calls": [], "deltas": rest, "error": "no match"}
            )
        content, thinking, calls = self._parse(True)
        deltas = self._deltas(content, thinking)
        return json.dumps(
            {"content": content, "thinking": thinking, "tool_calls": calls, "deltas": deltas, "error": None}
        )
