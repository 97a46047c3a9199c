"""Runs a client's features one by one and prints one JSON line for each. Standard library only: the scripts beside it
run in whatever environment has their client.

Usage of every script: URL CHAT_MODEL TOOL_MODEL EMBED_MODEL; a model may be `-`, its features are then left out.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
import traceback
from collections.abc import Callable

URL, CHAT, TOOLS, EMBED = ([*sys.argv[1:5], "-", "-", "-", "-"])[:4]
QUESTION = "What is the capital of France?"
_FEATURES: list[tuple[str, str, Callable[[], object]]] = []


def feature(name: str, needs: str = "chat") -> Callable[[Callable[[], object]], Callable[[], object]]:
    """Register a feature; `needs` is chat, tools or embed. It fails by raising."""

    def register(function: Callable[[], object]) -> Callable[[], object]:
        _FEATURES.append((name, needs, function))
        return function

    return register


def run() -> None:
    models = {"chat": CHAT, "tools": TOOLS, "embed": EMBED}
    for name, needs, function in _FEATURES:
        if models[needs] == "-":
            continue
        try:
            result = function()
            if inspect.isawaitable(result):
                asyncio.run(_await(result))
            line = {"feature": name, "ok": True}
        except Exception as error:
            traceback.print_exc()
            line = {"feature": name, "ok": False, "error": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps(line), flush=True)


async def _await(result: object) -> None:
    await result  # type: ignore[misc]


def check(condition: object, what: object = "") -> None:
    if not condition:
        raise AssertionError(what)
