"""The OpenAPI document, served at `/openapi.json`: every route of the app with its request, answers and errors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from donabe.api.schemas import components, ref
from donabe.types import JsonObject

Family = Literal["native", "openai", "anthropic", "server"]

_ERROR_SCHEMAS: dict[Family, str] = {
    "native": "NativeError",
    "openai": "OpenAIError",
    "anthropic": "AnthropicError",
    "server": "NativeError",
}
_ERRORS = {
    "400": "A field is missing, of the wrong type or out of range",
    "401": "An API key is required, or not valid",
    "403": "The key does not allow this",
    "404": "No such model",
    "413": "The request body is too large",
    "429": "The caller is over his limit",
    "500": "The model or the server failed",
    "503": "Too many requests wait already",
}


@dataclass(frozen=True)
class Operation:
    """What the document says of one route and method.

    Attributes:
        request: Schema of the body.
        media: Types of the answer; several when the request chooses.
        is_open: Needs no key.
    """

    summary: str
    family: Family
    request: str = ""
    media: tuple[str, ...] = ("application/json",)
    is_open: bool = False


_NDJSON = ("application/json", "application/x-ndjson")
_SSE = ("application/json", "text/event-stream")
_TEXT = ("text/plain",)

OPERATIONS: dict[tuple[str, str], Operation] = {
    ("GET", "/"): Operation("Whether the server runs", "server", media=_TEXT, is_open=True),
    ("HEAD", "/"): Operation("Whether the server runs", "server", media=(), is_open=True),
    ("GET", "/health"): Operation("Whether the server is well", "server", is_open=True),
    ("GET", "/metrics"): Operation("Metrics in the Prometheus format", "server", media=_TEXT),
    ("GET", "/openapi.json"): Operation("This document", "server", is_open=True),
    ("GET", "/api/version"): Operation("API level and version", "native", is_open=True),
    ("HEAD", "/api/version"): Operation("API level and version", "native", media=(), is_open=True),
    ("GET", "/api/status"): Operation("Whether hosted models are available", "native", is_open=True),
    ("GET", "/api/tags"): Operation("Installed models", "native"),
    ("HEAD", "/api/tags"): Operation("Installed models", "native", media=()),
    ("GET", "/api/ps"): Operation("Loaded models", "native"),
    ("POST", "/api/show"): Operation("Details of a model", "native", "ShowRequest"),
    ("POST", "/api/generate"): Operation("Answer a prompt", "native", "GenerateRequest", _NDJSON),
    ("POST", "/api/chat"): Operation("Answer a conversation", "native", "ChatRequest", _NDJSON),
    ("POST", "/api/embed"): Operation("Embed texts", "native", "EmbedRequest"),
    ("POST", "/api/embeddings"): Operation("Embed one text (older form)", "native", "EmbeddingRequest"),
    ("POST", "/api/tokenize"): Operation("Tokens of a text", "native", "TokenizeRequest"),
    ("POST", "/api/detokenize"): Operation("Text of tokens", "native", "DetokenizeRequest"),
    ("POST", "/api/rerank"): Operation("Score documents against a query", "native", "RerankRequest"),
    ("POST", "/api/pull"): Operation("Download a model", "native", "PullRequest", _NDJSON),
    ("POST", "/api/push"): Operation("Upload a model", "native", "PushRequest", _NDJSON),
    ("POST", "/api/create"): Operation("Create a model", "native", "CreateRequest", _NDJSON),
    ("POST", "/api/copy"): Operation("Give a model a second name", "native", "CopyRequest", ()),
    ("DELETE", "/api/delete"): Operation("Remove a model", "native", "DeleteRequest", ()),
    ("HEAD", "/api/blobs/{digest}"): Operation("Whether a blob is here", "native", media=()),
    ("POST", "/api/blobs/{digest}"): Operation("Upload a blob", "native", media=()),
    ("POST", "/api/me"): Operation("Account (there are none)", "native"),
    ("POST", "/api/signout"): Operation("Sign out (there are no accounts)", "native"),
    ("DELETE", "/api/user/keys/{key}"): Operation("Sign out (older form)", "native"),
    ("GET", "/api/experimental/model-recommendations"): Operation("Models worth trying", "native"),
    ("POST", "/api/experimental/web_search"): Operation("Web search (needs a hosted service)", "native"),
    ("POST", "/api/experimental/web_fetch"): Operation("Web fetch (needs a hosted service)", "native"),
    ("POST", "/v1/chat/completions"): Operation("Chat completion", "openai", "ChatCompletionRequest", _SSE),
    ("POST", "/v1/completions"): Operation("Completion", "openai", "CompletionRequest", _SSE),
    ("POST", "/v1/embeddings"): Operation("Embeddings", "openai", "OpenAIEmbeddingRequest"),
    ("POST", "/v1/audio/transcriptions"): Operation("Transcribe audio (no model here hears)", "openai"),
    ("GET", "/v1/models"): Operation("Installed models", "openai"),
    ("GET", "/v1/models/{model}"): Operation("One model", "openai"),
    ("POST", "/v1/responses"): Operation("Make a response", "openai", "ResponsesRequest", _SSE),
    ("POST", "/v1/responses/input_tokens"): Operation("Count a response's input tokens", "openai", "ResponsesRequest"),
    ("GET", "/v1/responses/{id}"): Operation("A stored response", "openai"),
    ("DELETE", "/v1/responses/{id}"): Operation("Delete a stored response", "openai"),
    ("POST", "/v1/responses/{id}/cancel"): Operation("Cancel a background response (there are none)", "openai"),
    ("GET", "/v1/responses/{id}/input_items"): Operation("What a stored response answered", "openai"),
    ("POST", "/v1/rerank"): Operation("Score documents against a query", "openai", "RerankRequest"),
    ("POST", "/rerank"): Operation("Score documents against a query", "openai", "RerankRequest"),
    ("POST", "/reranking"): Operation("Score documents against a query", "openai", "RerankRequest"),
    ("POST", "/infill"): Operation("Fill in the middle", "openai", "InfillRequest", _SSE),
    ("POST", "/tokenize"): Operation("Tokens of a text", "openai"),
    ("POST", "/detokenize"): Operation("Text of tokens", "openai"),
    ("POST", "/embedding"): Operation("Embed texts, with a row for every token if asked", "openai", "EmbeddingRows"),
    ("POST", "/embeddings"): Operation("Embed texts, with a row for every token if asked", "openai", "EmbeddingRows"),
    ("POST", "/classify"): Operation("Sort texts into a model's classes", "openai", "ClassifyRequest"),
    ("POST", "/v1/messages"): Operation("Make a message", "anthropic", "MessagesRequest", _SSE),
    ("POST", "/v1/messages/count_tokens"): Operation("Count a message's tokens", "anthropic", "CountTokensRequest"),
}


def document(version: str, routes: list[tuple[str, str]]) -> JsonObject:
    """The document of these (method, path) routes; paths as the router writes them."""
    paths: dict[str, JsonObject] = {}
    for method, raw_path in routes:
        path = re.sub(r"\{(\w+):path\}", r"{\1}", raw_path)
        operation = OPERATIONS.get((method, path))
        if operation is not None:
            paths.setdefault(path, {})[method.lower()] = _operation(operation, path)
    return {
        "openapi": "3.1.0",
        "info": {"title": "donabe", "version": version, "description": "Language models on your own machine."},
        "paths": paths,
        "components": {
            "schemas": components(),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _operation(operation: Operation, path: str) -> JsonObject:
    found: JsonObject = {"summary": operation.summary, "tags": [operation.family], "responses": _responses(operation)}
    if operation.request:
        schema = ref(operation.request)
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    names = re.findall(r"\{(\w+)\}", path)
    if names:
        found["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    if operation.is_open:
        found["security"] = []
    return found


def _responses(operation: Operation) -> JsonObject:
    content = {
        media: {"schema": {"type": "string"} if media != "application/json" else {}} for media in operation.media
    }
    success: JsonObject = {"description": "Done"}
    if content:
        success["content"] = content
    errors = {
        status: {
            "description": text,
            "content": {"application/json": {"schema": ref(_ERROR_SCHEMAS[operation.family])}},
        }
        for status, text in _ERRORS.items()
        if not operation.is_open
    }
    return {"200": success, **errors}
