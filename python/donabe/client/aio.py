"""The asyncio client: the same methods as `Client`. One instance belongs to one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import httpx
from typing_extensions import Self, Unpack

from donabe.client import calls
from donabe.client.calls import Call, ChatFields, CreateFields, EmbedFields, GenerateFields
from donabe.client.wire import (
    StreamReader,
    connection_options,
    log_warnings,
    read_object,
    rendered_prompt,
    response_error,
    transport_errors,
)
from donabe.types import JsonObject


class AsyncClient:
    """A connection to a donabe (or Ollama) server, for asyncio.

    Arguments, answers and errors are those of `donabe.Client`. Methods are awaited; with `stream=True` the awaited
    result is an async iterator.
    """

    def __init__(self, host: str | None = None, *, api_key: str | None = None, timeout_s: float | None = None) -> None:
        self._http = httpx.AsyncClient(**connection_options(host, api_key, timeout_s))

    @property
    def base_url(self) -> str:
        return str(self._http.base_url).rstrip("/")

    async def close(self) -> None:
        """Close the connections; idempotent."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @overload
    async def generate(
        self, model: str, prompt: str = ..., *, stream: Literal[False] = ..., **fields: Unpack[GenerateFields]
    ) -> JsonObject: ...
    @overload
    async def generate(
        self, model: str, prompt: str = ..., *, stream: Literal[True], **fields: Unpack[GenerateFields]
    ) -> AsyncIterator[JsonObject]: ...
    async def generate(
        self, model: str, prompt: str = "", *, stream: bool = False, **fields: Unpack[GenerateFields]
    ) -> JsonObject | AsyncIterator[JsonObject]:
        """Continue a prompt. An empty prompt only loads the model (or unloads it, with `keep_alive=0`)."""
        return await self._answer(calls.generate(model, prompt, stream, fields), stream)

    @overload
    async def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]] = ...,
        *,
        stream: Literal[False] = ...,
        **fields: Unpack[ChatFields],
    ) -> JsonObject: ...
    @overload
    async def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]] = ...,
        *,
        stream: Literal[True],
        **fields: Unpack[ChatFields],
    ) -> AsyncIterator[JsonObject]: ...
    async def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]] = (),
        *,
        stream: bool = False,
        **fields: Unpack[ChatFields],
    ) -> JsonObject | AsyncIterator[JsonObject]:
        """Answer a conversation; messages are `{"role": ..., "content": ...}`."""
        return await self._answer(calls.chat(model, messages, stream, fields), stream)

    async def embed(self, model: str, input: str | Sequence[str], **fields: Unpack[EmbedFields]) -> JsonObject:
        """Embed one text or several: `embeddings` holds a list of floats for each."""
        return await self._call(calls.embed(model, input, fields))

    @overload
    async def pull(
        self, model: str, *, stream: Literal[False] = ..., insecure: bool = ..., limit_rate: int = ...
    ) -> JsonObject: ...
    @overload
    async def pull(
        self, model: str, *, stream: Literal[True], insecure: bool = ..., limit_rate: int = ...
    ) -> AsyncIterator[JsonObject]: ...
    async def pull(
        self, model: str, *, stream: bool = False, insecure: bool = False, limit_rate: int = 0
    ) -> JsonObject | AsyncIterator[JsonObject]:
        """Download a model; the stream reports progress (`status`, `digest`, `total`, `completed`).

        Args:
            insecure: Speak plain HTTP to the registry.
            limit_rate: Bytes per second, 0 = as the server's settings say.
        """
        return await self._answer(calls.transfer("pull", model, stream, insecure, limit_rate), stream)

    @overload
    async def push(
        self, model: str, *, stream: Literal[False] = ..., insecure: bool = ..., limit_rate: int = ...
    ) -> JsonObject: ...
    @overload
    async def push(
        self, model: str, *, stream: Literal[True], insecure: bool = ..., limit_rate: int = ...
    ) -> AsyncIterator[JsonObject]: ...
    async def push(
        self, model: str, *, stream: bool = False, insecure: bool = False, limit_rate: int = 0
    ) -> JsonObject | AsyncIterator[JsonObject]:
        """Upload a model to the registry its name says; the stream reports progress like that of `pull`."""
        return await self._answer(calls.transfer("push", model, stream, insecure, limit_rate), stream)

    @overload
    async def create(
        self, model: str, *, stream: Literal[False] = ..., **fields: Unpack[CreateFields]
    ) -> JsonObject: ...
    @overload
    async def create(
        self, model: str, *, stream: Literal[True], **fields: Unpack[CreateFields]
    ) -> AsyncIterator[JsonObject]: ...
    async def create(
        self, model: str, *, stream: bool = False, **fields: Unpack[CreateFields]
    ) -> JsonObject | AsyncIterator[JsonObject]:
        """Create a model from another one (`from_`) or from uploaded files; the stream reports progress."""
        return await self._answer(calls.create(model, stream, fields), stream)

    async def upload(
        self, path: Path, *, digest: str | None = None, on_progress: Callable[[int], None] | None = None
    ) -> str:
        """Upload a file to create a model from, unless the server has it; returns its digest.

        Args:
            path: The file.
            digest: Its digest, if known.
            on_progress: Told the bytes sent so far.
        """
        known = await asyncio.to_thread(calls.file_digest, path) if digest is None else digest
        url = calls.blob_path(known)
        with transport_errors(self._http.base_url):
            if (await self._http.head(url)).status_code == 200:
                return known
            size = {"content-length": str((await asyncio.to_thread(path.stat)).st_size)}
            response = await self._http.post(url, content=_in_thread(path, on_progress), headers=size)
        if response.status_code >= 400:
            raise response_error(response.status_code, response.text, response.reason_phrase)
        return known

    async def render(
        self, model: str, messages: Sequence[Mapping[str, Any]], **fields: Unpack[ChatFields]
    ) -> JsonObject:
        """The exact prompt a conversation becomes: `prompt` and `tokens`. Nothing is generated."""
        return rendered_prompt(await self._call(calls.render(model, messages, fields)))

    async def list(self) -> JsonObject:
        """The installed models."""
        return await self._call(calls.LIST)

    async def ps(self) -> JsonObject:
        """The models in memory."""
        return await self._call(calls.PS)

    async def show(self, model: str, *, verbose: bool = False) -> JsonObject:
        """What is known of a model; `verbose` includes long arrays such as the vocabulary."""
        return await self._call(calls.show(model, verbose))

    async def copy(self, source: str, destination: str) -> None:
        """Give a model a second name."""
        await self._call(calls.copy(source, destination))

    async def delete(self, model: str) -> None:
        """Remove a model, and the files no other model uses."""
        await self._call(calls.delete(model))

    async def version(self) -> JsonObject:
        """`version` is the API level, `donabe` the server's own version."""
        return await self._call(calls.VERSION)

    async def heartbeat(self) -> None:
        """Return if the server is there, else raise."""
        await self._call(calls.HEARTBEAT)

    async def _call(self, call: Call) -> JsonObject:
        with transport_errors(self._http.base_url):
            response = await self._http.request(call.method, call.path, json=call.body)
        return read_object(response)

    async def _answer(self, call: Call, stream: bool) -> JsonObject | AsyncIterator[JsonObject]:
        return self._stream(call) if stream else await self._call(call)

    async def _stream(self, call: Call) -> AsyncIterator[JsonObject]:
        reader = StreamReader(call)
        with transport_errors(self._http.base_url):
            async with self._http.stream(call.method, call.path, json=call.body) as response:
                if response.status_code >= 400:
                    await response.aread()
                    raise response_error(response.status_code, response.text, response.reason_phrase)
                log_warnings(response)
                async for line in response.aiter_lines():
                    if (event := reader.read(line)) is not None:
                        yield event
        reader.finish()


async def _in_thread(path: Path, on_progress: Callable[[int], None] | None) -> AsyncIterator[bytes]:
    """A file's content in pieces, read on worker threads."""
    chunks = calls.read_chunks(path, on_progress)
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk
