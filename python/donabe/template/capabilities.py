"""Which of two templates to use when a stored model has both: its Go template or the GGUF's Jinja template."""

from __future__ import annotations

import re
from typing import Literal

from donabe.template.template import GoTemplate

_SPLIT_THINKING = re.compile(r"""content\.split\((['"])</think>\1\)""")
_TOOL_ROLE = re.compile(r"""role['"]\]\s*==\s*['"]tool['"]|message\.role\s*==\s*['"]tool['"]""")


def chat_template_capabilities(jinja: str) -> tuple[Literal["tools", "thinking"], ...]:
    """What a Jinja chat template can express, judged by its text."""
    found: list[Literal["tools", "thinking"]] = []
    if "tools" in jinja or "tool_call" in jinja:
        found.append("tools")
    has_tags = "<think>" in jinja and "</think>" in jinja
    strips_thinking = _SPLIT_THINKING.search(jinja) and "reasoning_content" not in jinja and "<SPECIAL_12>" not in jinja
    if has_tags or strips_thinking:
        found.append("thinking")
    return tuple(found)


def prefers_chat_template(jinja: str, go: GoTemplate) -> bool:
    """Whether the Jinja template expresses more than the Go template.

    It does with more capabilities, or with the same ones when only it can render tool results; but never when it would
    lose the tool results the Go template can render.
    """
    chat_capabilities, go_capabilities = chat_template_capabilities(jinja), go.capabilities()
    chat_returns_tools, go_returns_tools = _jinja_returns_tools(jinja), _go_returns_tools(go)
    if len(chat_capabilities) > len(go_capabilities):
        return chat_returns_tools or not go_returns_tools
    if set(chat_capabilities) == set(go_capabilities) and "tools" in chat_capabilities:
        return chat_returns_tools and not go_returns_tools
    return False


def _jinja_returns_tools(jinja: str) -> bool:
    results = ("tool_response", "tool_results", "ipython")
    return (
        ("tools" in jinja or "tool_call" in jinja)
        and ("tool_calls" in jinja or "assistant_tool_call" in jinja)
        and (any(word in jinja for word in results) or _TOOL_ROLE.search(jinja) is not None)
    )


def _go_returns_tools(go: GoTemplate) -> bool:
    results = ('eq .Role "tool"', "tool_response", "TOOL_RESULTS")
    return {"tools", "toolcalls"} <= go.variables() and any(word in go.source for word in results)
