"""What the clients send: one function per API call returns its method, path and JSON body. No sockets here.

Fields left out or None are not sent, so the server's defaults apply.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from typing_extensions import TypedDict

from donabe.types import JsonObject

CHUNK_BYTES = 1 << 20

Image = bytes | Path | str  # raw bytes, a file to read, or base64 text


class LoadFields(TypedDict, total=False):
    """Fields that every call which loads a model takes."""

    options: Mapping[str, Any]  # num_ctx, temperature, stop, ...
    keep_alive: str | float  # "5m", seconds, negative = forever, 0 = unload afterwards


class AnswerFields(LoadFields, total=False):
    """Fields that generate and chat share."""

    format: str | Mapping[str, Any]  # "json" or a JSON Schema
    think: bool | str  # true, false, "low", "medium", "high", "max"
    truncate: bool
    shift: bool
    logprobs: bool
    top_logprobs: int


class GenerateFields(AnswerFields, total=False):
    """Fields of generate."""

    suffix: str
    system: str
    template: str
    context: Sequence[int]
    raw: bool
    images: Sequence[Image]


class ChatFields(AnswerFields, total=False):
    """Fields of chat."""

    tools: Sequence[Mapping[str, Any]]


class EmbedFields(LoadFields, total=False):
    """Fields of embed."""

    truncate: bool
    dimensions: int


class CreateFields(TypedDict, total=False):
    """Fields of create. The new model needs `from_` or `files`; None is not sent."""

    from_: str | None  # sent as `from`
    files: Mapping[str, str] | None  # names to digests of uploaded files
    adapters: Mapping[str, str] | None
    draft_files: Mapping[str, str] | None
    template: str | None
    system: str | None
    license: str | Sequence[str] | None
    parameters: Mapping[str, Any] | None
    messages: Sequence[Mapping[str, Any]] | None
    renderer: str | None
    parser: str | None
    requires: str | None
    quantize: str | None
    draft_quantize: str | None


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP call. `last` names the key and value that mark the last object of its stream."""

    method: str
    path: str
    body: JsonObject | None = None
    last: tuple[str, object] = ("done", True)


def generate(model: str, prompt: str, stream: bool, fields: GenerateFields) -> Call:
    body = {"model": model, "prompt": prompt, "stream": stream, **_checked(fields, GenerateFields)}
    return Call("POST", "/api/generate", _with_images(body))


def chat(model: str, messages: Sequence[Mapping[str, Any]], stream: bool, fields: ChatFields) -> Call:
    turns = [_with_images(_plain(message)) for message in messages]
    return Call(
        "POST", "/api/chat", {"model": model, "messages": turns, "stream": stream, **_checked(fields, ChatFields)}
    )


def embed(model: str, input: str | Sequence[str], fields: EmbedFields) -> Call:
    texts = input if isinstance(input, str) else list(input)
    return Call("POST", "/api/embed", {"model": model, "input": texts, **_checked(fields, EmbedFields)})


def transfer(verb: Literal["pull", "push"], model: str, stream: bool, insecure: bool, limit_rate: int) -> Call:
    chosen: JsonObject = {"insecure": insecure, "limit_rate": limit_rate}
    body: JsonObject = {"model": model, "stream": stream, **{key: value for key, value in chosen.items() if value}}
    return Call("POST", f"/api/{verb}", body, ("status", "success"))


def create(model: str, stream: bool, fields: CreateFields) -> Call:
    body: JsonObject = {"model": model, "stream": stream, **_checked(fields, CreateFields)}
    if "from_" in body:
        body["from"] = body.pop("from_")
    return Call("POST", "/api/create", body, ("status", "success"))


def render(model: str, messages: Sequence[Mapping[str, Any]], fields: ChatFields) -> Call:
    call = chat(model, messages, False, fields)
    return Call(call.method, call.path, {**(call.body or {}), "_debug_render_only": True})


def blob_path(digest: str) -> str:
    return f"/api/blobs/{digest}"


def file_digest(path: Path) -> str:
    """`sha256:<hex>` of a file."""
    state = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            state.update(chunk)
    return f"sha256:{state.hexdigest()}"


def read_chunks(path: Path, on_progress: Callable[[int], None] | None) -> Iterator[bytes]:
    """A file's content in pieces; `on_progress` is told how many bytes were handed out so far."""
    n_bytes = 0
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
            n_bytes += len(chunk)
            if on_progress is not None:
                on_progress(n_bytes)


def show(model: str, verbose: bool) -> Call:
    return Call("POST", "/api/show", {"model": model, "verbose": verbose})


def delete(model: str) -> Call:
    return Call("DELETE", "/api/delete", {"model": model})


def copy(source: str, destination: str) -> Call:
    return Call("POST", "/api/copy", {"source": source, "destination": destination})


LIST = Call("GET", "/api/tags")
PS = Call("GET", "/api/ps")
VERSION = Call("GET", "/api/version")
HEARTBEAT = Call("HEAD", "/")


def _checked(fields: Mapping[str, Any], declared: type) -> JsonObject:
    """Keyword arguments without the absent ones; a name the API does not know is a TypeError, as in any call."""
    known = set(declared.__annotations__)
    if unknown := sorted(set(fields) - known):
        raise TypeError(f"unexpected keyword argument {unknown[0]!r}, expected one of {', '.join(sorted(known))}")
    return {name: value for name, value in fields.items() if value is not None}


def _plain(value: Any) -> Any:
    """Copy mappings and sequences into what `json` accepts."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value


def _with_images(body: JsonObject) -> JsonObject:
    if body.get("images"):
        body["images"] = [_encoded(image) for image in body["images"]]
    return body


def _encoded(image: Image) -> str:
    if isinstance(image, str):
        return image
    return base64.b64encode(image.read_bytes() if isinstance(image, Path) else image).decode("ascii")
