"""Runs a client's features one by one and prints one JSON line for each. Standard library only: the scripts beside it
run in whatever environment has their client.

Usage of every script: a JSON object with the server's `url`, the names of models (`chat`, `tools`, `insert`, `embed`,
`rerank`), a GGUF `file` of an embedding model, and the `registry` that models are pushed to.
"""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import struct
import sys
import traceback
import zlib
from collections.abc import Callable

ABOUT: dict[str, str] = json.loads(sys.argv[1])
URL, CHAT, TOOLS, EMBED = (ABOUT[key] for key in ("url", "chat", "tools", "embed"))
QUESTION = "What is the capital of France?"
# Closed and bounded, so that a small model can't fill a page with properties or digits of its own.
PARAMETERS = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["a"],
    "additionalProperties": False,
}
_FEATURES: list[tuple[str, Callable[[], object]]] = []


def feature(name: str) -> Callable[[Callable[[], object]], Callable[[], object]]:
    """Register a feature. It fails by raising."""

    def register(function: Callable[[], object]) -> Callable[[], object]:
        _FEATURES.append((name, function))
        return function

    return register


def run() -> None:
    for name, function in _FEATURES:
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


def check_object(value: object) -> None:
    """The value, or the JSON text of it, fits PARAMETERS."""
    found = json.loads(value) if isinstance(value, str) else value
    check(isinstance(found, dict) and set(found) == {"a"} and isinstance(found["a"], int), value)


def check_call(name: str, arguments: object) -> None:
    check(name == "add", name)
    check_object(arguments)


def png() -> str:
    """A white dot, in base64."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0\xff")), chunk(b"IEND", b"")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(parts)).decode()
