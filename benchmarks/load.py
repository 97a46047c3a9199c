"""A small streaming HTTP load generator: completions, chats and embeddings in the native and the OpenAI dialect.

A bare asyncio protocol instead of an HTTP library, because the client shares the machine's cores with the server it
measures: it takes down what arrives, and reads it afterwards. Every wait has a deadline. Times are seconds of
`time.perf_counter()`.
"""

from __future__ import annotations

import asyncio
import json
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
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
        guesses: False where requests turn the guesses of prompt lookup off.
    """

    name: str
    base_url: str
    model: str
    dialect: Literal["native", "openai"]
    pid: int | None = None
    metrics: dict[str, str] = field(default_factory=dict)
    ignores_eos: bool = True
    guesses: bool = True
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


def tokens_per_s(streams: Sequence[Stream]) -> float:
    """Of streams one after another, each between its first and its last token.

    Chunks can carry several tokens, so tokens are counted, not chunks.
    """
    return sum(s.n_tokens - 1 for s in streams) / sum(s.times[-1] - s.times[0] for s in streams)


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
    reply: dict[str, Any] = json.loads(b"".join(line for _, line in await _lines(target, path, body)))
    return reply


def _openai_body(target: Target, max_tokens: int) -> dict[str, Any]:
    body = {"model": target.model, "max_tokens": max_tokens, "temperature": 0, "stream": True,
            "stream_options": {"include_usage": True}}  # fmt: skip
    return body | ({"ignore_eos": True} if target.ignores_eos else {})


def _native_body(target: Target, max_tokens: int) -> dict[str, Any]:
    options = {"num_predict": max_tokens, "temperature": 0, "seed": 1}
    if not target.guesses:
        options["draft_num_predict"] = 0
    return {"model": target.model, "stream": True,
            "options": options | ({"ignore_eos": True} if target.ignores_eos else {})}  # fmt: skip


async def _stream(target: Target, path: str, body: dict[str, Any]) -> Stream:
    stream = Stream(time.perf_counter())
    for at, line in await _lines(target, path, body):
        event = event_of(target, line)
        if event is not None and (text := read_event(target, event, stream)):
            stream.times.append(at)
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


class _Recorder(asyncio.Protocol):
    """Keeps what arrives and when; nothing is read before the connection has ended, because reading takes CPU time that
    the server under test would miss."""

    def __init__(self, request: bytes, pieces: list[tuple[float, bytes]]) -> None:
        self._request = request
        self._pieces = pieces
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._pieces.append((time.perf_counter(), data))

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


async def _lines(target: Target, path: str, body: dict[str, Any]) -> list[tuple[float, bytes]]:
    """The lines of a 200 reply, without empty ones, and when the end of each arrived.

    Raises:
        UnsupportedByPeerError: The server refuses such a request.
        BenchmarkError: It failed.
    """
    pieces: list[tuple[float, bytes]] = []
    await record(target.base_url, path, body, pieces)
    status, lines = read_reply(pieces)
    if status != 200:
        text = b"".join(line for _, line in lines).decode(errors="replace")
        kind = UnsupportedByPeerError if status in (400, 404, 405, 422, 501) else BenchmarkError
        raise kind(f"{target.name}: {path}: {status} {text[:300]}")
    return lines


async def record(base_url: str, path: str, body: dict[str, Any], pieces: list[tuple[float, bytes]]) -> None:
    """POST on a connection of its own; what arrives and when is added to `pieces` until the server closes it."""
    url, data = urlsplit(base_url), json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    )
    with anyio.fail_after(REQUEST_DEADLINE_S):
        transport, recorder = await asyncio.get_running_loop().create_connection(
            lambda: _Recorder(head.encode() + data, pieces), url.hostname, url.port
        )
        try:
            await recorder.ended
        finally:
            transport.abort()


def read_reply(pieces: Sequence[tuple[float, bytes]]) -> tuple[int, list[tuple[float, bytes]]]:
    """Status and lines of a recorded reply, each with the time of the piece that ended it.

    Raises:
        BenchmarkError: There is no whole reply.
    """
    head, separator, body = b"".join(data for _, data in pieces).partition(b"\r\n\r\n")
    if not separator or len(head.split(None, 2)) < 2:
        raise BenchmarkError("the server closed the connection without an answer")
    ends = list(accumulate(len(data) for _, data in pieces))
    is_chunked = b"transfer-encoding: chunked" in head.lower()
    lines: list[tuple[float, bytes]] = []
    pending = b""
    for data, start in _body_parts(body, len(head) + len(separator), is_chunked=is_chunked):
        *whole, rest = data.split(b"\n")
        at = start
        for line in whole:
            at += len(line) + 1
            if text := (pending + line).strip():
                lines.append((pieces[bisect_left(ends, at)][0], text))
            pending = b""
        pending += rest
    if pending.strip():
        lines.append((pieces[-1][0], pending.strip()))
    return int(head.split(None, 2)[1]), lines


def _body_parts(body: bytes, offset: int, *, is_chunked: bool) -> Iterator[tuple[bytes, int]]:
    """The chunks, and where each of them begins in the reply; `offset` is where the body does."""
    if not is_chunked:
        yield body, offset
        return
    at = 0
    while True:
        size_end = body.find(b"\r\n", at)
        size = int(body[at:size_end].split(b";")[0], 16) if size_end >= 0 else -1
        at = size_end + 2
        if size < 0 or at + size > len(body):
            raise BenchmarkError("the server closed the connection in the middle of an answer")
        if size == 0:
            return
        yield body[at : at + size], offset + at
        at += size + 2
