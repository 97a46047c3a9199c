"""Use cases around installed models: list, show, delete, copy, and what is loaded now.

Store calls block, so they run in worker threads. Knows nothing of HTTP; the dialects turn these values into replies.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from donabe.errors import InvalidRequestError, RemoteModelError
from donabe.modelfile import spec_commands, write_modelfile
from donabe.pool.pool import ModelPool
from donabe.service.contracts import GgufSummary, ModelStore, PullModel, ReadMetadata
from donabe.store.names import split_where
from donabe.types import JsonObject, LoadOptions, ModelInfo, ModelSpec, PullProgress, RunnerStatus

# Shown as the end of a model that stays forever: 292 years, the longest duration reference clients can hold.
FOREVER_S = (2**63 - 1) / 1e9
CLOUD_DISABLED = "ollama cloud is disabled: remote model is unavailable"
CLOUD_DETAILS_DISABLED = "ollama cloud is disabled: remote model details are unavailable"


@dataclass(frozen=True)
class LoadedModel:
    """One entry of the list of loaded models. `expires_at` is Unix time."""

    spec: ModelSpec
    options: LoadOptions
    info: ModelInfo
    expires_at: float
    n_requests: int
    status: RunnerStatus | None = None  # None when the runner did not say in time


@dataclass(frozen=True)
class ModelDescription:
    """Everything about an installed model. `metadata` keeps file order; arrays may be long."""

    spec: ModelSpec
    gguf: GgufSummary | None
    projector: GgufSummary | None = None


class Models:
    """The installed and the loaded models of one server."""

    def __init__(self, store: ModelStore, pool: ModelPool, *, read_metadata: ReadMetadata, pull: PullModel) -> None:
        self._store = store
        self._pool = pool
        self._read_metadata = read_metadata
        self._pull = pull

    async def installed(self) -> list[ModelSpec]:
        """Installed models, newest first."""
        specs = await asyncio.to_thread(self._store.list)
        return sorted(specs, key=lambda spec: (-int(spec.modified_at), spec.name))

    async def loaded(self) -> list[LoadedModel]:
        """Loaded models, the one that stays longest first."""
        residents = [resident for resident in self._pool.residents() if resident.info is not None]
        statuses = await asyncio.gather(*(resident.status() for resident in residents))
        now = time.time()
        models = [
            LoadedModel(
                spec=resident.spec,
                options=resident.options,
                info=resident.info,
                expires_at=now + min(resident.expires_in_s, FOREVER_S),
                n_requests=resident.n_leases,
                status=status,
            )
            for resident, status in zip(residents, statuses, strict=True)
            if resident.info is not None
        ]
        return sorted(models, key=lambda model: (-int(model.expires_at), model.spec.name))

    async def name_in_use(self, *, for_vectors: bool = False) -> str:
        """The model meant by a client that names none: the loaded one used last, else the only one installed.

        Args:
            for_vectors: He wants embeddings or classes, so one loaded for those is meant.

        Raises:
            InvalidRequestError: There is no such single model.
        """
        for resident in self._pool.residents():
            if resident.options.embedding == for_vectors:
                return resident.spec.name
        installed = await self.installed()
        if len(installed) != 1:
            raise InvalidRequestError("model is required", field="model", hint="no model is loaded")
        return installed[0].name

    async def find(self, name: str) -> ModelSpec:
        """The installed model of that name, hosted suffixes taken off."""
        base, where = split_where(name)
        if where == "cloud":
            raise RemoteModelError(CLOUD_DETAILS_DISABLED)
        return await asyncio.to_thread(self._store.resolve, base)

    async def show(self, name: str) -> ModelDescription:
        """The model and the header of its files."""
        spec = await self.find(name)
        gguf = await asyncio.to_thread(self._read_metadata, spec.paths) if spec.paths else None
        projector = await asyncio.to_thread(self._read_metadata, (spec.projector,)) if spec.projector else None
        return ModelDescription(spec, gguf, projector)

    def pull(self, name: str, *, insecure: bool = False, limit_rate: int = 0) -> AsyncIterator[PullProgress]:
        """Download a model; closing the iterator stops it unless others watch the same download.

        Raises:
            InvalidNameError: Not a model name.
            RemoteModelError: The name asks for a hosted model.
        """
        base, where = split_where(name)
        if where == "cloud":
            raise RemoteModelError(CLOUD_DISABLED, hint="donabe runs local models only; leave out the cloud suffix")
        return self._pull(base, insecure=insecure, limit_rate=limit_rate)

    async def delete(self, name: str) -> None:
        """Remove a model from the store; a running instance keeps running until it is unloaded."""
        base, _where = split_where(name)
        await asyncio.to_thread(self._store.delete, base)

    async def copy(self, source: str, destination: str) -> None:
        for field, name in (("source", source), ("destination", destination)):
            if not name.strip():
                raise InvalidRequestError(f'{field} "{name}" is invalid', field=field)
        await asyncio.to_thread(self._store.copy, source, destination)


def modelfile_text(spec: ModelSpec) -> str:
    """The Modelfile that would make this model again."""
    head = (
        '# Modelfile generated by "donabe show"\n'
        "# To build a new Modelfile based on this, replace FROM with:\n"
        f"# FROM {spec.name}\n\n"
    )
    return head + write_modelfile(spec_commands(spec))


def parameter_lines(parameters: JsonObject) -> str:
    """Stored parameters as `name  value` lines, one per list item, strings quoted."""
    lines = [
        f"{name:<30} {_quoted(item)}"
        for name, value in sorted(parameters.items())
        for item in (value if isinstance(value, Sequence) and not isinstance(value, str) else [value])
    ]
    return "\n".join(lines)


def _quoted(value: Any) -> str:
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
        return f'"{escaped}"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return str(int(value))
    return str(value)


def overlay(spec: ModelSpec, *, system: str, options: Mapping[str, Any]) -> ModelSpec:
    """The model as it would be with another system prompt and other parameters; nothing is stored."""
    parameters = {**spec.parameters, **options}
    return msgspec.structs.replace(spec, system=system or spec.system, parameters=parameters)
