"""A small streaming HTTP load generator: completions, chats and embeddings in the native and the OpenAI dialect.

Plain asyncio streams instead of an HTTP library, because the client shares the machine's cores with the server it
measures. Every wait has a deadline. Times are `time.perf_counter()` seconds.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

import anyio

REQUEST_DEADLINE_S = 600.0

Message = dict[str, str]


class BenchmarkError(Exception):
    """A peer or the machine lacks what a run needs, or a server did not answer as it must."""


class UnsupportedByPeerError(BenchmarkError):
    """The server does not have what a workload needs; its cell stays empty."""


@dataclass
class Tally:
    """What replies said of their prompts, summed over requests."""

    n_requests: int = 0
    n_evaluated: int = 0
    n_cached: int = 0


@dataclass(frozen=True)
class Target:
    """A server under test.

    Attributes:
        dialect: Of completions and chats; embeddings and `n` always use /v1.
        pid: Root of the server's processes; None for a server that was running before.
        metrics: Names of its Prometheus counters by the benchmark's name of the fact.
        ignores_eos: Whether `ignore_eos` is understood.
    """

    name: str
    base_url: str
    model: str
    dialect: Literal["native", "openai"]
    pid: int | None = None
    metrics: dict[str, str] = field(default_factory=dict)
    ignores_eos: bool = True
    tally: Tally = field(default_factory=Tally)


@dataclass
class Stream:
    """When one request started, when each of its chunks with text arrived, and the text."""

    started: float
    times: list[float] = field(default_factory=list)
    text: str = ""
    n_tokens: int = 0

    @property
    def ttft_s(self) -> float:
        return self.times[0] - self.started

    @property
    def tokens_per_s(self) -> float:
        """Between first and last token. Chunks can carry several tokens, so tokens are counted, not chunks."""
        return (self.n_tokens - 1) / (self.times[-1] - self.times[0])


async def complete(target: Target, prompt: str, max_tokens: int) -> Stream:
    """Continue a prompt, used as it is.

    Raises:
        BenchmarkError: The server answers anything but a 200 stream with text.
    """
    if target.dialect == "openai":
        return await _stream(target, "/v1/completions", _openai_body(target, max_tokens) | {"prompt": prompt})
    return await _stream(target, "/api/generate", _native_body(target, max_tokens) | {"prompt": prompt, "raw": True})


async def chat(target: Target, messages: Sequence[Message], max_tokens: int) -> Stream:
    """Answer a conversation; raises as `complete`."""
    body: dict[str, Any] = {"messages": list(messages)}
    if target.dialect == "openai":
        return await _stream(target, "/v1/chat/completions", _openai_body(target, max_tokens) | body)
    return await _stream(target, "/api/chat", _native_body(target, max_tokens) | body)


async def post(target: Target, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """A whole JSON reply.

    Raises:
        UnsupportedByPeerError: The server refuses such a request.
        BenchmarkError: It failed.
    """
    async with _reply(target, path, body) as lines:
        reply: dict[str, Any] = json.loads(b"".join([line async for line in lines]))
    return reply


def _openai_body(target: Target, max_tokens: int) -> dict[str, Any]:
    body = {"model": target.model, "max_tokens": max_tokens, "temperature": 0, "stream": True,
            "stream_options": {"include_usage": True}}  # fmt: skip
    return body | ({"ignore_eos": True} if target.ignores_eos else {})


def _native_body(target: Target, max_tokens: int) -> dict[str, Any]:
    options = {"num_predict": max_tokens, "temperature": 0, "seed": 1}
    return {"model": target.model, "stream": True,
            "options": options | ({"ignore_eos": True} if target.ignores_eos else {})}  # fmt: skip


async def _stream(target: Target, path: str, body: dict[str, Any]) -> Stream:
    stream = Stream(time.perf_counter())
    async with _reply(target, path, body) as lines:
        async for line in lines:
            event = event_of(target, line)
            if event is not None and (text := read_event(target, event, stream)):
                stream.times.append(time.perf_counter())
                stream.text += text
    if not stream.times:
        raise BenchmarkError(f"{target.name}: no text came back")
    stream.n_tokens = stream.n_tokens or len(stream.times)
    target.tally.n_requests += 1
    return stream


def event_of(target: Target, line: bytes) -> dict[str, Any] | None:
    """One stream line's object; None for lines without any. Raises BenchmarkError for an in-band error."""
    if target.dialect == "openai":
        if not line.startswith(b"data:") or line[5:].strip() == b"[DONE]":
            return None
        line = line[5:]
    event: dict[str, Any] = json.loads(line)
    if "error" in event:
        raise BenchmarkError(f"{target.name}: {event['error']}")
    return event


def read_event(target: Target, event: dict[str, Any], stream: Stream) -> str:
    """The event's text; counts what a final event says."""
    tally = target.tally
    if target.dialect == "native":
        if event.get("done"):
            n_cached = event.get("prompt_cached_count", 0)
            tally.n_cached += n_cached
            tally.n_evaluated += event.get("prompt_eval_count", 0) - n_cached
            stream.n_tokens = event.get("eval_count", 0)
        text = event.get("response") or event.get("message", {}).get("content")
        return text or ""
    if timings := event.get("timings"):  # llama-server and what is built on it
        tally.n_cached += max(0, timings.get("cache_n", 0))
        tally.n_evaluated += timings["prompt_n"]
        stream.n_tokens = timings["predicted_n"]
    elif usage := event.get("usage"):
        n_cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        tally.n_cached += n_cached
        tally.n_evaluated += usage["prompt_tokens"] - n_cached
        stream.n_tokens = usage["completion_tokens"]
    if not event.get("choices"):
        return ""
    choice = event["choices"][0]
    return choice.get("text") or choice.get("delta", {}).get("content") or ""


@asynccontextmanager
async def _reply(target: Target, path: str, body: dict[str, Any]) -> AsyncIterator[AsyncIterator[bytes]]:
    """Lines of a 200 reply, without empty ones."""
    with anyio.fail_after(REQUEST_DEADLINE_S):
        reader, writer = await open_request(target.base_url, path, json.dumps(body).encode())
        try:
            status, headers = await read_head(reader)
            lines = read_chunks(reader) if headers.get("transfer-encoding") == "chunked" else _read_rest(reader)
            if status != 200:
                text = b"".join([line async for line in lines]).decode(errors="replace")
                kind = UnsupportedByPeerError if status in (400, 404, 405, 422, 501) else BenchmarkError
                raise kind(f"{target.name}: {path}: {status} {text[:300]}")
            yield lines
        finally:
            await close(writer)


async def open_request(base_url: str, path: str, body: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a POST on a connection of its own, or a GET when there is no body."""
    url = urlsplit(base_url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port, limit=1 << 24)
    head = f"{'POST' if body else 'GET'} {path} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
    return reader, writer


async def close(writer: asyncio.StreamWriter) -> None:
    """End the connection before the loop can: a transport that is only told to close outlives a short one."""
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Status and headers, names in lower case."""
    status = (await reader.readline()).split()
    if len(status) < 2:
        raise BenchmarkError("the server closed the connection without an answer")
    headers = {}
    while (line := (await reader.readline()).strip()) != b"":
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip().lower()
    return int(status[1]), headers


async def _read_rest(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    for line in (await reader.read()).split(b"\n"):
        if line.strip():
            yield line.strip()


async def read_chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Body lines of a chunked response."""
    pending = b""
    while size := int((await reader.readline()).split(b";")[0].strip() or b"0", 16):
        pending += await reader.readexactly(size)
        await reader.readline()
        *lines, pending = pending.split(b"\n")
        for line in lines:
            if line.strip():
                yield line.strip()
    if pending.strip():
        yield pending.strip()
