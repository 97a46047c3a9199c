"""Every route of the server with its methods and the scope a caller's key must have. What is not here answers 404."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from donabe.server.anthropic_routes import AnthropicRoutes
from donabe.server.create_routes import CreateRoutes
from donabe.server.llamacpp_routes import LlamaCppRoutes
from donabe.server.native_routes import NativeRoutes
from donabe.server.openai_routes import OpenAIRoutes
from donabe.server.openapi import document
from donabe.server.responses_routes import ResponsesRoutes
from donabe.server.routing import RouteTable
from donabe.server.version import own_version


def add_native_routes(table: RouteTable, native: NativeRoutes) -> None:
    """Every route of the native API."""
    table.add("/", native.banner, "GET", "HEAD", scope=None)
    table.add("/api/version", native.version, "GET", "HEAD", scope=None)
    table.add("/api/status", native.status, "GET", scope=None)
    table.add("/api/tags", native.tags, "GET", "HEAD", scope="inference")
    table.add("/api/ps", native.ps, "GET", scope="inference")
    table.add("/api/show", native.show, "POST", scope="inference")
    table.add("/api/generate", native.generate, "POST", scope="inference")
    table.add("/api/chat", native.chat, "POST", scope="inference")
    table.add("/api/embed", native.embed, "POST", scope="inference")
    table.add("/api/embeddings", native.embeddings, "POST", scope="inference")
    table.add("/api/tokenize", native.tokenize, "POST", scope="inference")
    table.add("/api/detokenize", native.detokenize, "POST", scope="inference")
    table.add("/api/rerank", native.rerank, "POST", scope="inference")
    table.add("/api/pull", native.pull, "POST", scope="manage")
    table.add("/api/copy", native.copy, "POST", scope="manage")
    table.add("/api/delete", native.delete, "DELETE", scope="manage")
    table.add("/api/me", native.account, "POST", scope="inference")
    table.add("/api/signout", native.sign_out, "POST", scope="inference")
    table.add("/api/user/keys/{key}", native.sign_out, "DELETE", scope="inference")
    table.add("/api/experimental/web_search", native.web_search, "POST", scope="inference")
    table.add("/api/experimental/model-recommendations", native.recommendations, "GET", scope="inference")
    table.add("/api/experimental/web_fetch", native.web_fetch, "POST", scope="inference")


def add_create_routes(table: RouteTable, create: CreateRoutes) -> None:
    """Making models out of uploaded files and other models, and publishing them."""
    table.add("/api/create", create.create, "POST", scope="manage")
    table.add("/api/blobs/{digest}", create.has_blob, "HEAD", scope="manage")
    table.add("/api/blobs/{digest}", create.receive_blob, "POST", scope="manage")
    table.add("/api/push", create.push, "POST", scope="manage")


def add_openai_routes(table: RouteTable, openai: OpenAIRoutes) -> None:
    """The OpenAI API, and what llama.cpp and vLLM clients expect beside it."""
    table.add("/v1/chat/completions", openai.chat_completions, "POST", scope="inference")
    table.add("/v1/completions", openai.completions, "POST", scope="inference")
    table.add("/v1/embeddings", openai.embeddings, "POST", scope="inference")
    table.add("/v1/audio/transcriptions", openai.transcriptions, "POST", scope="inference")
    table.add("/v1/models", openai.models, "GET", scope="inference")
    table.add("/v1/models/{model:path}", openai.model, "GET", scope="inference")
    for path in ("/v1/rerank", "/rerank", "/reranking"):
        table.add(path, openai.rerank, "POST", scope="inference")
    table.add("/health", openai.health, "GET", scope=None)


def add_llamacpp_routes(table: RouteTable, llamacpp: LlamaCppRoutes) -> None:
    """What editors and load tools call without `/v1`."""
    table.add("/infill", llamacpp.infill, "POST", scope="inference")
    table.add("/tokenize", llamacpp.tokenize, "POST", scope="inference")
    table.add("/detokenize", llamacpp.detokenize, "POST", scope="inference")
    table.add("/apply-template", llamacpp.apply_template, "POST", scope="inference")
    table.add("/props", llamacpp.props, "GET", scope="inference")
    for path in ("/embedding", "/embeddings"):
        table.add(path, llamacpp.embedding, "POST", scope="inference")
    table.add("/classify", llamacpp.classify, "POST", scope="inference")


def add_anthropic_routes(table: RouteTable, anthropic: AnthropicRoutes) -> None:
    """The Anthropic API."""
    table.add("/v1/messages", anthropic.messages, "POST", scope="inference")
    table.add("/v1/messages/count_tokens", anthropic.count_tokens, "POST", scope="inference")


def add_responses_routes(table: RouteTable, responses: ResponsesRoutes) -> None:
    """The OpenAI Responses API."""
    table.add("/v1/responses", responses.create, "POST", scope="inference")
    table.add("/v1/responses/input_tokens", responses.input_tokens, "POST", scope="inference")
    table.add("/v1/responses/{id}", responses.retrieve, "GET", scope="inference")
    table.add("/v1/responses/{id}", responses.delete, "DELETE", scope="inference")
    table.add("/v1/responses/{id}/cancel", responses.cancel, "POST", scope="inference")
    table.add("/v1/responses/{id}/input_items", responses.input_items, "GET", scope="inference")


def add_document_route(table: RouteTable) -> None:
    """The OpenAPI document of all routes of the table, itself included."""

    async def serve_document(_request: Request) -> Response:
        return Response(msgspec.json.encode(document(own_version(), list(table.scopes))), media_type="application/json")

    table.add("/openapi.json", serve_document, "GET", scope=None)
