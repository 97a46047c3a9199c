"""What the clients send: one function per API call returns its method, path and JSON body. No sockets here.

Fields left out or None are not sent, so the server's defaults apply.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from donabe.types import JsonObject

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
    """Fields of create. The new model needs `from_` or `files`."""

    from_: str  # sent as `from`
    files: Mapping[str, str]
    adapters: Mapping[str, str]
    template: str
    system: str
    license: str | Sequence[str]
    parameters: Mapping[str, Any]
    messages: Sequence[Mapping[str, Any]]
    quantize: str


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


def pull(model: str, stream: bool, insecure: bool) -> Call:
    body: JsonObject = {"model": model, "stream": stream}
    return Call("POST", "/api/pull", body | ({"insecure": True} if insecure else {}), ("status", "success"))


def create(model: str, stream: bool, fields: CreateFields) -> Call:
    body: JsonObject = {"model": model, "stream": stream, **_checked(fields, CreateFields)}
    if "from_" in body:
        body["from"] = body.pop("from_")
    return Call("POST", "/api/create", body, ("status", "success"))


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
