"""The blocking client. One instance may be used from several threads; it keeps connections open until `close()`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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


class Client:
    """A connection to a donabe (or Ollama) server.

    Args:
        host: `[http://]host[:port]`, default `DONABE_HOST`, then `OLLAMA_HOST`, then 127.0.0.1:11434.
        api_key: Sent as a bearer token, default `DONABE_API_KEY`.
        timeout_s: Longest silence of the server; None waits for as long as a model takes to load and answer.

    Every method raises ServerUnavailableError when the server can't be reached and ResponseError when it answers with
    an error. Streams are iterators: leaving one early cancels the request on the server.
    """

    def __init__(self, host: str | None = None, *, api_key: str | None = None, timeout_s: float | None = None) -> None:
        self._http = httpx.Client(**connection_options(host, api_key, timeout_s))

    @property
    def base_url(self) -> str:
        return str(self._http.base_url).rstrip("/")

    def close(self) -> None:
        """Close the connections; idempotent."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @overload
    def generate(
        self, model: str, prompt: str = ..., *, stream: Literal[False] = ..., **fields: Unpack[GenerateFields]
    ) -> JsonObject: ...
    @overload
    def generate(
        self, model: str, prompt: str = ..., *, stream: Literal[True], **fields: Unpack[GenerateFields]
    ) -> Iterator[JsonObject]: ...
    def generate(
        self, model: str, prompt: str = "", *, stream: bool = False, **fields: Unpack[GenerateFields]
    ) -> JsonObject | Iterator[JsonObject]:
        """Continue a prompt. An empty prompt only loads the model (or unloads it, with `keep_alive=0`)."""
        return self._answer(calls.generate(model, prompt, stream, fields), stream)

    @overload
    def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]] = ...,
        *,
        stream: Literal[False] = ...,
        **fields: Unpack[ChatFields],
    ) -> JsonObject: ...
    @overload
    def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]] = ...,
        *,
        stream: Literal[True],
        **fields: Unpack[ChatFields],
    ) -> Iterator[JsonObject]: ...
    def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]] = (),
        *,
        stream: bool = False,
        **fields: Unpack[ChatFields],
    ) -> JsonObject | Iterator[JsonObject]:
        """Answer a conversation; messages are `{"role": ..., "content": ...}`."""
        return self._answer(calls.chat(model, messages, stream, fields), stream)

    def embed(self, model: str, input: str | Sequence[str], **fields: Unpack[EmbedFields]) -> JsonObject:
        """Embed one text or several: `embeddings` holds a list of floats for each."""
        return self._call(calls.embed(model, input, fields))

    @overload
    def pull(
        self, model: str, *, stream: Literal[False] = ..., insecure: bool = ..., limit_rate: int = ...
    ) -> JsonObject: ...
    @overload
    def pull(
        self, model: str, *, stream: Literal[True], insecure: bool = ..., limit_rate: int = ...
    ) -> Iterator[JsonObject]: ...
    def pull(
        self, model: str, *, stream: bool = False, insecure: bool = False, limit_rate: int = 0
    ) -> JsonObject | Iterator[JsonObject]:
        """Download a model; the stream reports progress (`status`, `digest`, `total`, `completed`).

        Args:
            insecure: Speak plain HTTP to the registry.
            limit_rate: Bytes per second, 0 = as the server's settings say.
        """
        return self._answer(calls.transfer("pull", model, stream, insecure, limit_rate), stream)

    @overload
    def push(
        self, model: str, *, stream: Literal[False] = ..., insecure: bool = ..., limit_rate: int = ...
    ) -> JsonObject: ...
    @overload
    def push(
        self, model: str, *, stream: Literal[True], insecure: bool = ..., limit_rate: int = ...
    ) -> Iterator[JsonObject]: ...
    def push(
        self, model: str, *, stream: bool = False, insecure: bool = False, limit_rate: int = 0
    ) -> JsonObject | Iterator[JsonObject]:
        """Upload a model to the registry its name says; the stream reports progress like that of `pull`."""
        return self._answer(calls.transfer("push", model, stream, insecure, limit_rate), stream)

    @overload
    def create(self, model: str, *, stream: Literal[False] = ..., **fields: Unpack[CreateFields]) -> JsonObject: ...
    @overload
    def create(self, model: str, *, stream: Literal[True], **fields: Unpack[CreateFields]) -> Iterator[JsonObject]: ...
    def create(
        self, model: str, *, stream: bool = False, **fields: Unpack[CreateFields]
    ) -> JsonObject | Iterator[JsonObject]:
        """Create a model from another one (`from_`) or from uploaded files; the stream reports progress."""
        return self._answer(calls.create(model, stream, fields), stream)

    def upload(self, path: Path, *, digest: str | None = None, on_progress: Callable[[int], None] | None = None) -> str:
        """Upload a file to create a model from, unless the server has it; returns its digest.

        Args:
            path: The file.
            digest: Its digest, if known.
            on_progress: Told the bytes sent so far.
        """
        digest = digest or calls.file_digest(path)
        url = calls.blob_path(digest)
        with transport_errors(self._http.base_url):
            if self._http.head(url).status_code == 200:
                return digest
            size = {"content-length": str(path.stat().st_size)}
            response = self._http.post(url, content=calls.read_chunks(path, on_progress), headers=size)
        if response.status_code >= 400:
            raise response_error(response.status_code, response.text, response.reason_phrase)
        return digest

    def render(self, model: str, messages: Sequence[Mapping[str, Any]], **fields: Unpack[ChatFields]) -> JsonObject:
        """The exact prompt a conversation becomes: `prompt` and `tokens`. Nothing is generated."""
        return rendered_prompt(self._call(calls.render(model, messages, fields)))

    def list(self) -> JsonObject:
        """The installed models."""
        return self._call(calls.LIST)

    def ps(self) -> JsonObject:
        """The models in memory."""
        return self._call(calls.PS)

    def show(self, model: str, *, verbose: bool = False) -> JsonObject:
        """What is known of a model; `verbose` includes long arrays such as the vocabulary."""
        return self._call(calls.show(model, verbose))

    def copy(self, source: str, destination: str) -> None:
        """Give a model a second name."""
        self._call(calls.copy(source, destination))

    def delete(self, model: str) -> None:
        """Remove a model, and the files no other model uses."""
        self._call(calls.delete(model))

    def version(self) -> JsonObject:
        """`version` is the API level, `donabe` the server's own version."""
        return self._call(calls.VERSION)

    def heartbeat(self) -> None:
        """Return if the server is there, else raise."""
        self._call(calls.HEARTBEAT)

    def _call(self, call: Call) -> JsonObject:
        with transport_errors(self._http.base_url):
            response = self._http.request(call.method, call.path, json=call.body)
        return read_object(response)

    def _answer(self, call: Call, stream: bool) -> JsonObject | Iterator[JsonObject]:
        return self._stream(call) if stream else self._call(call)

    def _stream(self, call: Call) -> Iterator[JsonObject]:
        reader = StreamReader(call)
        with (
            transport_errors(self._http.base_url),
            self._http.stream(call.method, call.path, json=call.body) as response,
        ):
            if response.status_code >= 400:
                response.read()
                raise response_error(response.status_code, response.text, response.reason_phrase)
            log_warnings(response)
            for line in response.iter_lines():
                if (event := reader.read(line)) is not None:
                    yield event
        reader.finish()
