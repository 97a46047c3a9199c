"""The real collaborators of the app: the store, the registry and runner processes. Imported only when serving."""

from __future__ import annotations

import dataclasses
import math
import os
import platform
import threading
from functools import partial
from typing import TYPE_CHECKING, cast

import msgspec

from donabe.pool.contracts import StartRunner
from donabe.registry.jobs import Puller, Pusher
from donabe.registry.sources import options_from
from donabe.runner.admission import Admission
from donabe.runner.api import ModelRunner
from donabe.runner.client import RunnerProcess
from donabe.runner.deadlines import Deadlines
from donabe.runner.spare import SpareRunner
from donabe.runner.tune_process import measure_in_child
from donabe.server.contracts import ServerSettings
from donabe.server.guards import is_loopback
from donabe.server.keys import KEY_FILE, KeyFile, KeyRing
from donabe.server.tracing import tracing_from
from donabe.service.create import ModelCreator
from donabe.service.uploads import Uploads
from donabe.store.metadata import read_metadata
from donabe.store.models import ModelStore
from donabe.types import LoadOptions, ModelSpec

if TYPE_CHECKING:
    from donabe.replicas.cluster import ReplicaCluster
    from donabe.server.app import Collaborators
    from donabe.settings import Settings


def real_collaborators(settings: ServerSettings) -> Collaborators:
    """What `donabe serve` runs over."""
    from donabe.server.app import AUTOMATIC_MAX_LOADED, Collaborators

    store = ModelStore.from_settings(cast("Settings", settings), allow_files=_callers_are_local(settings))
    if not cast("Settings", settings).keep_unused:
        threading.Thread(
            target=store.tidy, name="donabe-tidy", daemon=True
        ).start()  # it may take a while; nobody waits
    transfer = options_from(cast("Settings", settings))
    pull = Puller(store, transfer)
    replicas = _replicas(cast("Settings", settings))
    spare = SpareRunner() if settings.spare_runner and replicas is None else None
    start = partial(RunnerProcess.start, deadlines=deadlines_for(settings), spare=spare)
    return Collaborators(
        store=store,
        pull=pull,
        read_metadata=read_metadata,
        start_runner=partial(
            _start_runner, cast("Settings", settings), start if replicas is None else _unplanned(replicas)
        ),
        creator=ModelCreator(store, pull=pull),
        uploads=Uploads(store),
        push=Pusher(store, transfer),
        spare=spare,
        max_loaded=AUTOMATIC_MAX_LOADED if replicas is None else 1,  # replicas share all CPUs of the cluster
        tracing=tracing_from(os.environ),
        measure=partial(measure_in_child, home=str(settings.home)) if replicas is None else None,
    )


def _callers_are_local(settings: ServerSettings) -> bool:
    """Only this machine's own users can call, so they may name files they could read themselves."""
    keys_required = KeyRing(
        settings.api_keys, KeyFile(settings.home / KEY_FILE), required=settings.require_api_key
    ).is_required
    return is_loopback(settings.host) and not keys_required


def deadlines_for(settings: ServerSettings) -> Deadlines:
    """Runner deadlines; without a load limit a stall is given a day."""
    stall_s = settings.load_timeout_s
    return dataclasses.replace(Deadlines(), load_stall_s=stall_s if math.isfinite(stall_s) else 86_400.0)


def _replicas(settings: Settings) -> ReplicaCluster | None:
    """The Ray cluster that models run in, when copies of them are asked for."""
    if settings.replicas == 0:
        return None
    from donabe.replicas.options import ReplicaOptions
    from donabe.replicas.start import connect_replicas

    return connect_replicas(
        ReplicaOptions(
            n_replicas=settings.replicas,
            cpus=settings.replica_cpus,
            gpus=settings.replica_gpus,
            address=settings.ray_address,
            owner=f"{platform.node()}-{settings.port}",
            max_queue=settings.max_queue,
            load_stall_s=deadlines_for(settings).load_stall_s,
        )
    )


def _unplanned(replicas: ReplicaCluster) -> StartRunner:
    """Replicas may be on other machines: each makes itself as small as it must."""

    async def start(spec: ModelSpec, options: LoadOptions, *, admission: Admission | None = None) -> ModelRunner:
        return await replicas.start_runner(spec, options)

    return start


async def _start_runner(
    settings: Settings,
    start: StartRunner,
    spec: ModelSpec,
    options: LoadOptions,
    *,
    admission: Admission | None = None,
) -> ModelRunner:
    options = msgspec.structs.replace(
        options,
        n_waiting_max=settings.max_queue,
        prefix_cache_pool_bytes=settings.prefix_cache_pool_bytes,
        prefix_cache_ram_bytes=settings.prefix_cache_ram_bytes,
        prefix_cache_disk_bytes=settings.prefix_cache_disk_bytes,
        prefix_cache_home=str(settings.home),
    )
    return await start(spec, options, admission=admission)
