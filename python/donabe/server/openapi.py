"""The OpenAPI document, served at `/openapi.json`: every route of the app with its parameters, request and answers.

What a route takes and gives is in `OPERATIONS`; the schemas are in `donabe.api`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from donabe.api.schema_parts import BOOLEAN, STRING, bounded, enum, obj, one_of, ref
from donabe.api.schemas import components
from donabe.types import JsonObject

Family = Literal["native", "openai", "anthropic", "server"]

JSON, NDJSON, SSE, TEXT = "application/json", "application/x-ndjson", "text/event-stream", "text/plain"
BINARY, FORM = "application/octet-stream", "multipart/form-data"

_ERROR_SCHEMAS: dict[Family, str] = {
    "native": "NativeError",
    "openai": "OpenAIError",
    "anthropic": "AnthropicError",
    "server": "NativeError",
}
_ERRORS = {
    "400": "A field is missing, of the wrong type or out of range, or the model can't do what was asked",
    "401": "An API key is required, or not valid",
    "403": "The key, the page or the Host does not allow this; without a body when it is the page or the Host",
    "404": "No such model or thing",
    "405": "The path has no such method",
    "413": "The request body is too large",
    "429": "The caller is over his limit",
    "499": "The client was gone before its request was whole",
    "500": "The model or the server failed",
    "503": "Too many requests wait already, or the server is stopping",
    "507": "The disk of the model store is full",
}
_OF_BODIES = ("413", "499")
_OF_WRITING = ("507",)


@dataclass(frozen=True)
class Operation:
    """What the document says of one route and method.

    Attributes:
        request: Schema of the body, "" for none.
        reply: Schema of the answer, "" for none.
        event: Schema of an item of a stream, when the request may choose one; `stream` is its type.
        takes: Type of the body.
        gives: Type of the answer.
        statuses: Of success; none when the route only refuses.
        is_open: Needs no key.
        writes: May fill the disk.
        parameters: Of the query and the headers.
    """

    summary: str
    family: Family
    request: str = ""
    reply: str = ""
    event: str = ""
    stream: str = NDJSON
    takes: str = JSON
    gives: str = JSON
    statuses: tuple[str, ...] = ("200",)
    is_open: bool = False
    writes: bool = False
    parameters: tuple[JsonObject, ...] = ()


def _query(name: str, schema: JsonObject, description: str) -> JsonObject:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _header(name: str, schema: JsonObject, description: str) -> JsonObject:
    return {"name": name, "in": "header", "schema": schema, "description": description}


_PAGE = (
    _query("order", enum("asc", "desc"), "Oldest or newest first; desc if left out"),
    _query("after", STRING, "Id of the item before the page"),
    _query("limit", bounded("limit"), "Items of the page; 20 if left out"),
)
_CLAUDE = (
    _header("anthropic-version", STRING, "Accepted without effect"),
    _header("anthropic-beta", STRING, "Accepted without effect"),
    _query("beta", BOOLEAN, "Accepted without effect"),
)
_OF_EVERY_ROUTE = (
    _header(
        "X-Request-Id",
        {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"},
        "Comes back in the answer and is in the log; one is made if it is left out",
    ),
    _header("traceparent", STRING, "Of the trace the request belongs to, if the server traces"),
)
_ENCODING = _header("Content-Encoding", enum("identity", "gzip", "zstd"), "Of the body")
_DIGEST = {"type": "string", "pattern": "^sha256[:-][0-9a-f]{64}$"}

OPERATIONS: dict[tuple[str, str], Operation] = {
    ("GET", "/"): Operation("Whether the server runs", "server", reply="text", gives=TEXT, is_open=True),
    ("HEAD", "/"): Operation("Whether the server runs", "server", is_open=True),
    ("GET", "/health"): Operation("Whether the server is well", "server", reply="Health", is_open=True),
    ("GET", "/metrics"): Operation("Metrics in the Prometheus format", "server", reply="text", gives=TEXT),
    ("GET", "/openapi.json"): Operation("This document", "server", reply="Document", is_open=True),
    ("GET", "/api/version"): Operation("API level and version", "native", reply="Version", is_open=True),
    ("HEAD", "/api/version"): Operation("API level and version", "native", is_open=True),
    ("GET", "/api/status"): Operation("Whether hosted models are available", "native", reply="Status", is_open=True),
    ("GET", "/api/tags"): Operation("Installed models", "native", reply="Tags"),
    ("HEAD", "/api/tags"): Operation("Installed models", "native"),
    ("GET", "/api/ps"): Operation("Loaded models", "native", reply="Ps"),
    ("POST", "/api/show"): Operation("Details of a model", "native", "ShowRequest", "ShowReply"),
    ("POST", "/api/generate"): Operation(
        "Answer a prompt", "native", "GenerateRequest", "GenerateReply", event="GenerateReply"
    ),
    ("POST", "/api/chat"): Operation("Answer a conversation", "native", "ChatRequest", "ChatReply", event="ChatReply"),
    ("POST", "/api/embed"): Operation("Embed texts", "native", "EmbedRequest", "EmbedReply"),
    ("POST", "/api/embeddings"): Operation(
        "Embed one text (older form)", "native", "EmbeddingRequest", "EmbeddingReply"
    ),
    ("POST", "/api/tokenize"): Operation("Tokens of a text", "native", "TokenizeRequest", "NativeTokens"),
    ("POST", "/api/detokenize"): Operation("Text of tokens", "native", "DetokenizeRequest", "NativeText"),
    ("POST", "/api/rerank"): Operation("Score documents against a query", "native", "RerankRequest", "RerankReply"),
    ("POST", "/api/pull"): Operation(
        "Download a model", "native", "PullRequest", "Progress", event="Progress", writes=True
    ),
    ("POST", "/api/push"): Operation("Upload a model", "native", "PushRequest", "Progress", event="Progress"),
    ("POST", "/api/create"): Operation(
        "Create a model", "native", "CreateRequest", "Progress", event="Progress", writes=True
    ),
    ("POST", "/api/copy"): Operation("Give a model a second name", "native", "CopyRequest", writes=True),
    ("DELETE", "/api/delete"): Operation("Remove a model", "native", "DeleteRequest"),
    ("HEAD", "/api/blobs/{digest}"): Operation("Whether a blob is here", "native"),
    ("POST", "/api/blobs/{digest}"): Operation(
        "Upload a blob", "native", "binary", takes=BINARY, statuses=("200", "201"), writes=True
    ),
    ("POST", "/api/me"): Operation("Account (there are none)", "native", statuses=()),
    ("POST", "/api/signout"): Operation("Sign out (there are no accounts)", "native", statuses=()),
    ("DELETE", "/api/user/keys/{key}"): Operation("Sign out (older form)", "native", statuses=()),
    ("GET", "/api/experimental/model-recommendations"): Operation(
        "Models worth trying", "native", reply="Recommendations"
    ),
    ("POST", "/api/experimental/web_search"): Operation(
        "Web search (needs a hosted service)", "native", "HostedRequest", statuses=()
    ),
    ("POST", "/api/experimental/web_fetch"): Operation(
        "Web fetch (needs a hosted service)", "native", "HostedRequest", statuses=()
    ),
    ("POST", "/v1/chat/completions"): Operation(
        "Chat completion",
        "openai",
        "ChatCompletionRequest",
        "ChatCompletion",
        event="ChatCompletionChunk",
        stream=SSE,
    ),
    ("POST", "/v1/completions"): Operation(
        "Completion", "openai", "CompletionRequest", "Completion", event="Completion", stream=SSE
    ),
    ("POST", "/v1/embeddings"): Operation("Embeddings", "openai", "OpenAIEmbeddingRequest", "OpenAIEmbeddings"),
    ("POST", "/v1/audio/transcriptions"): Operation(
        "Transcribe audio (no model here hears)", "openai", "AudioRequest", takes=FORM, statuses=()
    ),
    ("GET", "/v1/models"): Operation("Installed models", "openai", reply="Models"),
    ("GET", "/v1/models/{model}"): Operation("One model", "openai", reply="Model"),
    ("POST", "/v1/responses"): Operation(
        "Make a response", "openai", "ResponsesRequest", "Response", event="ResponseEvent", stream=SSE
    ),
    ("POST", "/v1/responses/input_tokens"): Operation(
        "Count a response's input tokens", "openai", "ResponsesRequest", "InputTokens"
    ),
    ("GET", "/v1/responses/{id}"): Operation(
        "A stored response",
        "openai",
        reply="Response",
        parameters=(_query("stream", enum("false"), "A stored response comes whole"),),
    ),
    ("DELETE", "/v1/responses/{id}"): Operation("Delete a stored response", "openai", reply="DeletedResponse"),
    ("POST", "/v1/responses/{id}/cancel"): Operation(
        "Cancel a background response (there are none)", "openai", statuses=()
    ),
    ("GET", "/v1/responses/{id}/input_items"): Operation(
        "What a stored response answered", "openai", reply="InputItems", parameters=_PAGE
    ),
    ("POST", "/v1/rerank"): Operation("Score documents against a query", "openai", "RerankRequest", "RerankReply"),
    ("POST", "/rerank"): Operation("Score documents against a query", "openai", "RerankRequest", "RerankReply"),
    ("POST", "/reranking"): Operation("Score documents against a query", "openai", "RerankRequest", "RerankReply"),
    ("POST", "/infill"): Operation(
        "Fill in the middle", "openai", "InfillRequest", "Infill", event="Infill", stream=SSE
    ),
    ("POST", "/tokenize"): Operation("Tokens of a text", "openai", "TokensRequest", "Tokens"),
    ("POST", "/detokenize"): Operation("Text of tokens", "openai", "TextRequest", "Text"),
    ("POST", "/apply-template"): Operation("The prompt of a conversation", "openai", "TemplateRequest", "Prompt"),
    ("GET", "/props"): Operation(
        "What is known of the model in use",
        "openai",
        reply="Props",
        parameters=(_query("model", STRING, "Of this model instead"),),
    ),
    ("POST", "/embedding"): Operation(
        "Embed texts, with a row for every token if asked", "openai", "EmbeddingRows", "EmbeddingRowsReply"
    ),
    ("POST", "/embeddings"): Operation(
        "Embed texts, with a row for every token if asked", "openai", "EmbeddingRows", "EmbeddingRowsReply"
    ),
    ("POST", "/classify"): Operation("Sort texts into a model's classes", "openai", "ClassifyRequest", "ClassifyReply"),
    ("POST", "/v1/messages"): Operation(
        "Make a message",
        "anthropic",
        "MessagesRequest",
        "Message",
        event="MessageEvent",
        stream=SSE,
        parameters=_CLAUDE,
    ),
    ("POST", "/v1/messages/count_tokens"): Operation(
        "Count a message's tokens", "anthropic", "CountTokensRequest", "CountedTokens", parameters=_CLAUDE
    ),
}


def document(version: str, routes: list[tuple[str, str]]) -> JsonObject:
    """The document of these (method, path) routes; paths as the router writes them."""
    paths: dict[str, JsonObject] = {}
    for method, raw_path in routes:
        path = re.sub(r"\{(\w+):path\}", r"{\1}", raw_path)
        operation = OPERATIONS.get((method, path))
        if operation is not None:
            paths.setdefault(path, {})[method.lower()] = _operation(operation, method, path)
    return {
        "openapi": "3.1.0",
        "info": {"title": "donabe", "version": version, "description": "Language models on your own machine."},
        "paths": paths,
        "components": {
            "schemas": components(),
            "headers": {
                "X-Request-Id": {"schema": STRING, "description": "Names the request in the server's log"},
                "Warning": {"schema": STRING, "description": "What of the request has no effect; one for each field"},
                "Retry-After": {"schema": {"type": "integer"}, "description": "Seconds until it is worth trying again"},
                "WWW-Authenticate": {"schema": STRING, "description": "How keys are sent"},
                "Allow": {"schema": STRING, "description": "The methods there are"},
                "Location": {"schema": STRING, "description": "The path as the server writes it"},
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        "security": [{}, {"bearer": []}, {"header": []}],
    }


def _operation(operation: Operation, method: str, path: str) -> JsonObject:
    found: JsonObject = {"summary": operation.summary, "tags": [operation.family]}
    names = re.findall(r"\{(\w+)\}", path)
    found["parameters"] = [
        *({"name": name, "in": "path", "required": True, "schema": _path_schema(name)} for name in names),
        *operation.parameters,
        *_OF_EVERY_ROUTE,
        *([_ENCODING] if operation.request and operation.takes == JSON else []),
    ]
    if operation.request:
        found["requestBody"] = {"required": True, "content": {operation.takes: {"schema": _schema(operation.request)}}}
    found["responses"] = _responses(operation, method, is_pattern=bool(names))
    if operation.is_open:
        found["security"] = []
    return found


def _path_schema(name: str) -> JsonObject:
    return _DIGEST if name == "digest" else {**STRING, "minLength": 1}


def _schema(name: str) -> JsonObject:
    """The schema of that name; "binary" and "text" are those of plain contents."""
    return {"binary": {"contentMediaType": BINARY}, "text": STRING}.get(name) or ref(name)


def _responses(operation: Operation, method: str, *, is_pattern: bool) -> JsonObject:
    found: JsonObject = {status: _success(operation) for status in operation.statuses}
    if is_pattern:  # a value with slashes makes another path
        status = "301" if method == "GET" else "307"
        found[status] = _answer("The same path, written otherwise", "Location")
    for status, text in _ERRORS.items():
        if (
            (status in _OF_BODIES and not operation.request)
            or (status in _OF_WRITING and not operation.writes)
            or (operation.is_open and status not in ("403", "405", "500"))
        ):
            continue
        found[status] = _error(operation, status, text)
    return found


def _success(operation: Operation) -> JsonObject:
    found = _answer("Done", "Warning")
    content: JsonObject = {}
    if operation.reply:
        content[operation.gives] = {"schema": _schema(operation.reply)}
    if operation.event:
        content[operation.stream] = {"schema": _stream_schema(operation), "x-event": ref(operation.event)}
    return {**found, "content": content} if content else found


def _stream_schema(operation: Operation) -> JsonObject:
    """Of lines the whole text; of server-sent events one event, as tools expect it."""
    text = f"{operation.event} objects; an error in the place of one ends the stream"
    if operation.stream == NDJSON:
        return {**STRING, "description": f"One on a line: {text}"}
    value = one_of(ref(operation.event), ref(_ERROR_SCHEMAS[operation.family]))
    data = one_of({**STRING, "contentMediaType": JSON, "contentSchema": value}, enum("[DONE]"))
    return {**obj("data", event=STRING, data=data), "description": f"The data of events: {text}"}


def _error(operation: Operation, status: str, text: str) -> JsonObject:
    if status == "499":
        return _answer(text)
    if status == "405":
        return {**_answer(text, "Allow"), "content": {TEXT: {"schema": STRING}}}
    more = {"401": ["WWW-Authenticate"], "429": ["Retry-After"], "503": ["Retry-After"]}.get(status, [])
    schema = ref(_ERROR_SCHEMAS[operation.family])
    return {**_answer(text, *more), "content": {JSON: {"schema": schema}}}


def _answer(description: str, *headers: str) -> JsonObject:
    names = ("X-Request-Id", *headers)
    return {
        "description": description,
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names},
    }
