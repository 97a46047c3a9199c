"""Run language models on your own machine: one pip install, many requests at once, nothing silent.

    from donabe import LLM

    with LLM("smollm2") as llm:
        print(llm.chat("Why is the sky blue?").text)

`LLM` and `AsyncLLM` run a model in this process, `Client` and `AsyncClient` talk to a server. Importing this package is
cheap: each name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from donabe import errors
    from donabe.client import AsyncClient, Client
    from donabe.errors import DonabeError
    from donabe.llm import LLM, AsyncLLM, Chunk, Completion
    from donabe.types import FinishReason, Message, Tool, ToolCall, Usage

__all__ = [
    "LLM",
    "AsyncClient",
    "AsyncLLM",
    "Chunk",
    "Client",
    "Completion",
    "DonabeError",
    "FinishReason",
    "Message",
    "Tool",
    "ToolCall",
    "Usage",
    "errors",
]

_HOMES = {
    "LLM": "llm",
    "AsyncLLM": "llm",
    "Chunk": "llm",
    "Completion": "llm",
    "AsyncClient": "client",
    "Client": "client",
    "DonabeError": "errors",
    "FinishReason": "types",
    "Message": "types",
    "Tool": "types",
    "ToolCall": "types",
    "Usage": "types",
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("donabe.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'donabe' has no attribute {name!r}")
    value = getattr(import_module(f"donabe.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
