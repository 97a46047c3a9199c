"""The application: routes, guards and error handling over the use cases. Knows no sockets; `server.main` listens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from donabe.pool.contracts import StartRunner
from donabe.pool.pool import ModelPool, PoolLimits
from donabe.runner.spare import SpareRunner
from donabe.server.admission import Admission
from donabe.server.anthropic_routes import AnthropicRoutes
from donabe.server.contracts import ServerSettings
from donabe.server.create_routes import CreateRoutes
from donabe.server.draining import Draining
from donabe.server.guards import Guard, HostRules, OriginRules
from donabe.server.keys import KEY_FILE, KeyFile, KeyRing
from donabe.server.limits import Limits
from donabe.server.llamacpp_routes import LlamaCppRoutes
from donabe.server.metrics import ServerMetrics
from donabe.server.native_routes import NativeRoutes
from donabe.server.openai_routes import OpenAIRoutes
from donabe.server.requestlog import RequestLog
from donabe.server.responses_routes import ResponsesRoutes
from donabe.server.route_lists import (
    add_anthropic_routes,
    add_create_routes,
    add_document_route,
    add_llamacpp_routes,
    add_native_routes,
    add_openai_routes,
    add_responses_routes,
)
from donabe.server.routing import RouteTable, error_response, unrouted
from donabe.server.tracing import Tracing
from donabe.server.version import own_version
from donabe.service.contracts import ModelStore, PullModel, ReadMetadata
from donabe.service.create import ModelCreator
from donabe.service.idle_tuning import IdleTuner, Measure
from donabe.service.inference import Inference
from donabe.service.load_options import LoadDefaults
from donabe.service.models import Models
from donabe.service.response_store import ResponseStore
from donabe.service.uploads import Uploads
from donabe.store.locks import FileLock

# Resident models when the setting is automatic, and runners are processes of this machine.
AUTOMATIC_MAX_LOADED = 3
# How long runners may take to let go of requests; answers have ended, or been ended, before.
RELEASE_S = 1.0


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
    spare: SpareRunner | None = None  # what `start_runner` takes children from
    max_loaded: int = AUTOMATIC_MAX_LOADED  # resident models when the setting is automatic
    tracing: Tracing | None = None
    measure: Measure | None = None  # for `auto_tune` idle; without it nothing is measured


def create_app(settings: ServerSettings, collaborators: Collaborators | None = None) -> FastAPI:
    """Build the app. Without collaborators it uses the settings' store, registry and runner processes."""
    if collaborators is None:
        from donabe.server.wiring import real_collaborators  # pulls in the store, the registry and the runner

        collaborators = real_collaborators(settings)
    pool = _model_pool(settings, collaborators)
    responses = ResponseStore(settings.home / "responses.db")
    tuner = _idle_tuner(settings, collaborators, pool)
    app = FastAPI(
        title="donabe",
        version=own_version(),
        lifespan=_lifespan(pool, responses, collaborators, tuner),
        docs_url=None,
        redoc_url=None,
        openapi_url=None,  # the document is our own
        redirect_slashes=False,
        exception_handlers={Exception: _on_error, HTTPException: unrouted},
    )
    keys = KeyRing(settings.api_keys, KeyFile(settings.home / KEY_FILE), required=settings.require_api_key)
    admission = Admission(
        keys,
        defaults=Limits(
            requests_per_minute=settings.requests_per_minute,
            tokens_per_minute=settings.tokens_per_minute,
            max_concurrent=settings.max_concurrent,
        ),
    )
    metrics = ServerMetrics(pool)
    table = RouteTable(app, admission, metrics)
    table.add("/metrics", metrics.page, "GET", scope="admin")
    _add_routes(table, settings, collaborators, pool, responses, tuner)
    origins = OriginRules.parse(settings.origins)
    hosts = HostRules(settings.host, origins.hosts())
    app.add_middleware(Guard, origins=origins, hosts=hosts, asks_for_keys=lambda: keys.is_required)
    app.add_middleware(RequestLog, metrics=metrics, tracing=collaborators.tracing)
    app.state.draining = Draining()
    app.state.pool = pool
    app.state.metrics = metrics
    app.state.routes = table
    return app


def _model_pool(settings: ServerSettings, collaborators: Collaborators) -> ModelPool:
    limits = PoolLimits(
        max_loaded=settings.max_loaded_models or collaborators.max_loaded,
        max_queue=settings.max_queue,
        keep_alive_s=settings.keep_alive_s,
    )
    return ModelPool(collaborators.start_runner, limits=limits)


def _load_defaults(settings: ServerSettings) -> LoadDefaults:
    return LoadDefaults(
        context_length=settings.context_length,
        num_parallel=settings.num_parallel,
        flash_attention=settings.flash_attention,
        kv_cache_type=settings.kv_cache_type,
        backend=settings.backend,
        devices=settings.devices,
        gpu_layers=settings.gpu_layers,
        cpu_moe=settings.cpu_moe,
        main_gpu=settings.main_gpu,
        tensor_split=settings.tensor_split,
        rpc=settings.rpc,
        max_step_latency_s=settings.max_step_latency_s,
        auto_tune=settings.auto_tune,
    )


def _idle_tuner(settings: ServerSettings, collaborators: Collaborators, pool: ModelPool) -> IdleTuner | None:
    if collaborators.measure is None or settings.auto_tune != "idle":
        return None
    return IdleTuner(
        collaborators.measure,
        is_quiet=lambda: pool.is_empty and not pool.is_busy,
        lock=FileLock(settings.home / "tuning" / "lock"),
    )


def _lifespan(
    pool: ModelPool, responses: ResponseStore, collaborators: Collaborators, tuner: IdleTuner | None
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Begins what runs beside the requests, and closes everything at the end."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:  # each is closed, whatever becomes of the others; last one first
            stack.callback(responses.close)
            if collaborators.tracing is not None:
                stack.push_async_callback(collaborators.tracing.close)
            if collaborators.spare is not None:
                stack.push_async_callback(collaborators.spare.close)
                collaborators.spare.is_busy = lambda: pool.is_busy
                collaborators.spare.begin()
            stack.push_async_callback(pool.close, drain_s=RELEASE_S)
            if tuner is not None:
                stack.push_async_callback(tuner.close)
                tuner.begin()
            yield

    return lifespan


def _add_routes(
    table: RouteTable,
    settings: ServerSettings,
    collaborators: Collaborators,
    pool: ModelPool,
    responses: ResponseStore,
    tuner: IdleTuner | None,
) -> None:
    """Every API over the use cases."""
    max_body_bytes, is_strict = settings.max_body_bytes, settings.strict
    inference = Inference(
        collaborators.store,
        pool,
        defaults=_load_defaults(settings),
        stream_interval_s=settings.stream_interval_s,
        make_way=tuner.make_way if tuner is not None else None,
    )
    models = Models(collaborators.store, pool, read_metadata=collaborators.read_metadata, pull=collaborators.pull)
    add_native_routes(table, NativeRoutes(inference, models, max_body_bytes=max_body_bytes, is_strict=is_strict))
    add_openai_routes(table, OpenAIRoutes(inference, models, max_body_bytes=max_body_bytes, is_strict=is_strict))
    add_llamacpp_routes(table, LlamaCppRoutes(inference, models, max_body_bytes=max_body_bytes, is_strict=is_strict))
    add_anthropic_routes(table, AnthropicRoutes(inference, max_body_bytes=max_body_bytes, is_strict=is_strict))
    if collaborators.creator is not None and collaborators.uploads is not None:
        create = CreateRoutes(
            collaborators.creator,
            collaborators.uploads,
            push=collaborators.push,
            max_body_bytes=max_body_bytes,
            is_strict=is_strict,
        )
        add_create_routes(table, create)
    add_responses_routes(
        table, ResponsesRoutes(inference, responses, max_body_bytes=max_body_bytes, is_strict=is_strict)
    )
    add_document_route(table)


async def _on_error(request: Request, error: Exception) -> Response:
    return error_response(request, error)
