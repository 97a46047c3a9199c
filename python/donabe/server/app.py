"""The application: routes, guards and error handling over the use cases. Knows no sockets; `server.main` listens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from donabe.pool.contracts import StartRunner
from donabe.pool.pool import ModelPool, PoolLimits
from donabe.server.admission import Admission
from donabe.server.anthropic_routes import AnthropicRoutes
from donabe.server.contracts import ServerSettings
from donabe.server.create_routes import CreateRoutes
from donabe.server.guards import Guard, HostRules, OriginRules
from donabe.server.keys import KEY_FILE, KeyFile, KeyRing
from donabe.server.limits import Limits
from donabe.server.llamacpp_routes import LlamaCppRoutes
from donabe.server.metrics import ServerMetrics
from donabe.server.native_routes import NativeRoutes
from donabe.server.openai_routes import OpenAIRoutes
from donabe.server.requestlog import RequestLog
from donabe.server.responses_routes import ResponsesRoutes
from donabe.server.routing import RouteTable, error_response, unrouted
from donabe.server.version import own_version
from donabe.service.contracts import ModelStore, PullModel, ReadMetadata
from donabe.service.create import ModelCreator
from donabe.service.inference import Inference, LoadDefaults
from donabe.service.models import Models
from donabe.service.response_store import ResponseStore
from donabe.service.uploads import Uploads

# Resident models when the setting is automatic.
AUTOMATIC_MAX_LOADED = 3
# How long running answers may go on after a stop signal.
DRAIN_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Collaborators:
    """What the app is built over; `server.main` passes the real ones, tests pass fakes."""

    store: ModelStore
    pull: PullModel
    read_metadata: ReadMetadata
    start_runner: StartRunner
    creator: ModelCreator | None = None  # without it and `uploads` there are no routes that make models
    uploads: Uploads | None = None
    push: PullModel | None = None


def create_app(settings: ServerSettings, collaborators: Collaborators | None = None) -> FastAPI:
    """Build the app. Without collaborators it uses the settings' store, registry and runner processes."""
    if collaborators is None:
        from donabe.server.wiring import real_collaborators  # pulls in the store, the registry and the runner

        collaborators = real_collaborators(settings)
    pool = ModelPool(
        collaborators.start_runner,
        limits=PoolLimits(
            max_loaded=settings.max_loaded_models or AUTOMATIC_MAX_LOADED,
            max_queue=settings.max_queue,
            keep_alive_s=settings.keep_alive_s,
        ),
    )
    defaults = LoadDefaults(
        context_length=settings.context_length,
        num_parallel=settings.num_parallel,
        flash_attention=settings.flash_attention,
        kv_cache_type=settings.kv_cache_type,
        max_step_latency_s=settings.max_step_latency_s,
    )
    inference = Inference(collaborators.store, pool, defaults=defaults)
    models = Models(collaborators.store, pool, read_metadata=collaborators.read_metadata, pull=collaborators.pull)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await pool.close(drain_s=DRAIN_S)
        responses.close()

    app = FastAPI(
        title="donabe",
        version=own_version(),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={Exception: _on_error, HTTPException: unrouted},
    )
    native = NativeRoutes(inference, models, max_body_bytes=settings.max_body_bytes, is_strict=settings.strict)
    admission = Admission(
        KeyRing(settings.api_keys, KeyFile(settings.home / KEY_FILE), required=settings.require_api_key),
        defaults=Limits(requests_per_minute=settings.requests_per_minute, tokens_per_minute=settings.tokens_per_minute),
    )
    metrics = ServerMetrics(pool)
    table = RouteTable(app, admission, metrics)
    table.add("/metrics", metrics.page, "GET", scope="admin")
    add_native_routes(table, native)
    add_openai_routes(
        table, OpenAIRoutes(inference, models, max_body_bytes=settings.max_body_bytes, is_strict=settings.strict)
    )
    add_llamacpp_routes(table, LlamaCppRoutes(inference, models, max_body_bytes=settings.max_body_bytes))
    add_anthropic_routes(
        table, AnthropicRoutes(inference, max_body_bytes=settings.max_body_bytes, is_strict=settings.strict)
    )
    if collaborators.creator is not None and collaborators.uploads is not None:
        create = CreateRoutes(
            collaborators.creator,
            collaborators.uploads,
            push=collaborators.push,
            max_body_bytes=settings.max_body_bytes,
            is_strict=settings.strict,
        )
        add_create_routes(table, create)
    responses = ResponseStore(settings.home / "responses.db")
    add_responses_routes(
        table,
        ResponsesRoutes(inference, responses, max_body_bytes=settings.max_body_bytes, is_strict=settings.strict),
    )
    origins = OriginRules.parse(settings.origins)
    app.add_middleware(Guard, origins=origins, hosts=HostRules(settings.host, origins.hosts()))
    app.add_middleware(RequestLog, metrics=metrics)
    app.state.pool = pool
    return app


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


def add_anthropic_routes(table: RouteTable, anthropic: AnthropicRoutes) -> None:
    """The Anthropic API."""
    table.add("/v1/messages", anthropic.messages, "POST", scope="inference")
    table.add("/v1/messages/count_tokens", anthropic.count_tokens, "POST", scope="inference")


def add_responses_routes(table: RouteTable, responses: ResponsesRoutes) -> None:
    """The OpenAI Responses API."""
    table.add("/v1/responses", responses.create, "POST", scope="inference")
    table.add("/v1/responses/{id}", responses.retrieve, "GET", scope="inference")
    table.add("/v1/responses/{id}", responses.delete, "DELETE", scope="inference")
    table.add("/v1/responses/{id}/input_items", responses.input_items, "GET", scope="inference")


async def _on_error(request: Request, error: Exception) -> Response:
    return error_response(request, error)
