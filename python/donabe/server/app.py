"""The application: routes, guards and error handling over the use cases. Knows no sockets; `server.main` listens."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import FastAPI

from donabe.pool.contracts import StartRunner
from donabe.server.contracts import ServerSettings
from donabe.service.contracts import ModelStore, PullModel


@dataclass(frozen=True, kw_only=True)
class Collaborators:
    """What the app is built over; `server.main` passes the real ones, tests pass fakes."""

    store: ModelStore
    pull: PullModel
    start_runner: StartRunner


def create_app(settings: ServerSettings, collaborators: Collaborators | None = None) -> FastAPI:
    """Build the app. Without collaborators it uses the settings' store, registry and runner processes."""
    raise NotImplementedError
