"""A small streaming HTTP load generator: completions against /api/generate (NDJSON) or /v1/completions (SSE).

Plain asyncio streams instead of an HTTP library, because the client shares the machine's cores with the server it
measures. Every wait has a deadline. Times are `time.perf_counter()` seconds.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

REQUEST_DEADLINE_S = 600.0


@dataclass(frozen=True)
class Target:
    """A server under test. `dialect` is `native` (/api/generate) or `openai` (/v1/completions)."""

    name: str
    base_url: str
    model: str
    dialect: str


@dataclass
class Stream:
    """When one request started and when each of its chunks with text arrived."""

    started: float
    times: list[float] = field(default_factory=list)
    n_tokens: int = 0

    @property
    def ttft_s(self) -> float:
        return self.times[0] - self.started


def _request(target: Target, prompt: str, max_tokens: int) -> tuple[str, bytes]:
    if target.dialect == "openai":
        body = {"model": target.model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "stream": True,
                "ignore_eos": True}  # fmt: skip
        return "/v1/completions", json.dumps(body).encode()
    options = {"num_predict": max_tokens, "temperature": 0, "seed": 1, "ignore_eos": True}
    body = {"model": target.model, "prompt": prompt, "raw": True, "stream": True, "options": options}
    return "/api/generate", json.dumps(body).encode()


def _text_of(target: Target, line: bytes) -> str | None:
    """Text of one stream line, None for lines without any. Raises RuntimeError for an in-band error."""
    if target.dialect == "openai":
        if not line.startswith(b"data:") or line[5:].strip() == b"[DONE]":
            return None
        line = line[5:]
    event = json.loads(line)
    if "error" in event:
        raise RuntimeError(f"{target.name}: {event['error']}")
    if target.dialect == "openai":
        choices = event.get("choices")
        return choices[0].get("text") or None if choices else None
    return event.get("response") or None


async def _read_lines(reader: asyncio.StreamReader) -> list[bytes]:
    """Status line and headers."""
    lines = []
    while (line := (await reader.readline()).strip()) != b"":
        lines.append(line)
    return lines


async def _read_chunks(reader: asyncio.StreamReader):  # type: ignore[no-untyped-def]
    """Body lines of a chunked response."""
    pending = b""
    while size := int((await reader.readline()).split(b";")[0].strip() or b"0", 16):
        pending += await reader.readexactly(size)
        await reader.readline()
        *lines, pending = pending.split(b"\n")
        for line in lines:
            yield line


async def complete(target: Target, prompt: str, max_tokens: int) -> Stream:
    """Run one completion. Raises RuntimeError when the server answers anything but a 200 stream."""
    url = urlsplit(target.base_url)
    path, body = _request(target, prompt, max_tokens)
    stream = Stream(time.perf_counter())
    async with asyncio.timeout(REQUEST_DEADLINE_S):
        reader, writer = await asyncio.open_connection(url.hostname, url.port, limit=1 << 22)
        head = f"POST {path} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        try:
            status = (await _read_lines(reader))[0]
            if b" 200 " not in status + b" ":
                raise RuntimeError(f"{target.name}: {status.decode()} {(await reader.read()).decode()[:300]}")
            async for line in _read_chunks(reader):
                if line.strip() and _text_of(target, line.strip()) is not None:
                    stream.times.append(time.perf_counter())
        finally:
            writer.close()
    stream.n_tokens = max_tokens
    if not stream.times:
        raise RuntimeError(f"{target.name}: no text came back")
    return stream
