"""The Ray cluster the replicas run in: joins or starts it, deploys a model as a Serve application, takes it down.

Imports Ray; `start` has prepared the environment for that.

Ray's calls block, so they are made in worker threads. An application belongs to the server that deployed it; in a
cluster that outlives the server, a killed one leaves its applications behind until one of the same name starts again.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import re
import time
from functools import partial
from typing import Any

import msgspec
import ray
from ray import serve
from ray.serve.config import RequestRouterConfig
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview, ReplicaState

from donabe.errors import RunnerStartError, SettingsError
from donabe.replicas.options import MAX_IMBALANCE, ReplicaOptions
from donabe.replicas.replica import Replica, enclosed_failure, installed_version
from donabe.replicas.router import PrefixAffinityRouter
from donabe.replicas.runner import Deployment, ReplicaRunner
from donabe.runner import messages
from donabe.runner.failures import error_from
from donabe.types import LoadOptions, ModelInfo, ModelSpec

logger = logging.getLogger(__name__)

DEPLOYMENT = "replica"
N_PARALLEL = 8  # a runner's, when the options do not say

_N_STARTS = 3  # Ray gives each part of itself 30 s to come up, which a busy machine may need more than once
_OBJECT_STORE_BYTES = 128 << 20  # only large requests go through it
_POLL_S = 0.1
_HEALTH_PERIOD_S = 2.0
_HEALTH_TIMEOUT_S = 60.0
_STOP_S = 10.0
_DELETE_S = 60.0
_READY_S = 60.0
_N_ERROR_CHARS = 500


class ReplicaCluster:
    """Starts runners that are replicas. Create with `connect`."""

    def __init__(self, options: ReplicaOptions) -> None:
        self._options = options
        self._numbers = itertools.count(1)
        self._prefix = f"donabe-{re.sub(r'[^A-Za-z0-9.]+', '-', options.owner)}-"

    @classmethod
    def connect(cls, options: ReplicaOptions) -> ReplicaCluster:
        """Join the cluster, or start Ray on this machine. Blocks.

        Raises:
            SettingsError: No cluster answers at the address, or Ray does not start here.
        """
        is_verbose = logger.isEnabledFor(logging.DEBUG)
        arguments: dict[str, Any] = {"log_to_driver": is_verbose, "configure_logging": False, "namespace": "donabe"}
        if options.address:
            _join(options.address, arguments)
        else:
            n_cpus = max(os.cpu_count() or 1, options.n_replicas * max(1, options.cpus))
            _start(arguments | {"num_cpus": n_cpus})
        serve.start(proxy_location="Disabled")
        self = cls(options)
        self._delete_leftovers()
        return self

    async def start_runner(self, spec: ModelSpec, options: LoadOptions) -> ReplicaRunner:
        """Deploy the model and wait until every replica has loaded it. Cancelling takes it down again.

        Raises:
            RunnerStartError: The replicas did not come up.
            DonabeError: What a replica reported about the model (LoadError, ModelFileError, ...).
        """
        name = f"{self._prefix}{next(self._numbers)}"
        try:
            handle = await asyncio.to_thread(self._deploy, name, spec, options)
            await self._until_running(name)
            infos = await _infos(handle)
        except BaseException:
            await asyncio.shield(asyncio.to_thread(_delete, name))
            raise
        deployment = Deployment(
            handle=handle,
            count_running=partial(asyncio.to_thread, _count_running, name),
            delete=partial(asyncio.to_thread, _delete, name),
        )
        return ReplicaRunner(deployment, infos)

    def _deploy(self, name: str, spec: ModelSpec, options: LoadOptions) -> Any:
        wanted = self._options
        cpus = wanted.cpus or max(1, int(ray.cluster_resources().get("CPU", 1)) // wanted.n_replicas)
        n_parallel = options.n_parallel or N_PARALLEL
        if options.n_threads is None:
            options = msgspec.structs.replace(options, n_threads=cpus)
        if wanted.gpus == 0 and options.backend is None and not options.devices:
            # Ray hides no GPU from those that asked for none: all copies would crowd on the first one.
            options = msgspec.structs.replace(options, backend="cpu")
        deployment = serve.deployment(
            Replica,
            name=DEPLOYMENT,
            num_replicas=wanted.n_replicas,
            ray_actor_options={"num_cpus": cpus, "num_gpus": wanted.gpus},
            # Requests wait in the engine, which knows callers and priorities; Ray would only poll for room.
            max_ongoing_requests=n_parallel + wanted.max_queue,
            max_constructor_retry_count=1,
            health_check_period_s=_HEALTH_PERIOD_S,
            health_check_timeout_s=_HEALTH_TIMEOUT_S,
            graceful_shutdown_wait_loop_s=_POLL_S,
            graceful_shutdown_timeout_s=_STOP_S,
            request_router_config=RequestRouterConfig(
                request_router_class=PrefixAffinityRouter,
                request_router_kwargs={"max_imbalance": min(MAX_IMBALANCE, n_parallel)},
            ),
        )
        bound = deployment.bind(installed_version(), msgspec.msgpack.encode(spec), msgspec.msgpack.encode(options))
        target = serve.RunTarget(target=bound, name=name, route_prefix=None)
        [handle] = serve.run_many([target], wait_for_applications_running=False)
        return handle

    async def _until_running(self, name: str) -> None:
        n_running, since = 0, time.monotonic()
        while True:
            status = await asyncio.to_thread(_status, name)
            if status is not None and status.status is ApplicationStatus.RUNNING:
                return
            if status is not None and status.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
                raise _start_error(_messages(status))
            n_now = _n_running(status)
            if n_now > n_running:
                n_running, since = n_now, time.monotonic()
            if time.monotonic() - since > self._options.load_stall_s:
                raise RunnerStartError(
                    f"only {n_running} of {self._options.n_replicas} replicas were ready, and no other one within"
                    f" {self._options.load_stall_s:g} s: {_messages(status)[-_N_ERROR_CHARS:]}",
                    exit_reason="deadline",
                    hint="compare what each replica asks for with `ray status`, or raise load_timeout",
                )
            await asyncio.sleep(_POLL_S)

    def _delete_leftovers(self) -> None:
        for name in serve.status().applications:
            if name.startswith(self._prefix):
                logger.info("deleting %s, left behind by a server that was killed", name)
                _delete(name)


def _join(address: str, arguments: dict[str, Any]) -> None:
    try:
        ray.init(address=address, **arguments)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SettingsError(f"no Ray cluster at {address}: {error}", setting="ray_address") from error


def _start(arguments: dict[str, Any]) -> None:
    for i in range(1, _N_STARTS + 1):
        try:
            ray.init(address="local", include_dashboard=False, object_store_memory=_OBJECT_STORE_BYTES, **arguments)
            return
        except Exception as error:  # what Ray raises has no common class
            ray.shutdown()
            if i == _N_STARTS:
                raise SettingsError(f"Ray did not start: {error}", setting="replicas") from error
            logger.warning("Ray did not start, trying again: %s", error)


def _status(name: str) -> ApplicationStatusOverview | None:
    return serve.status().applications.get(name)


def _n_running(status: ApplicationStatusOverview | None) -> int:
    if status is None or DEPLOYMENT not in status.deployments:
        return 0
    return int(status.deployments[DEPLOYMENT].replica_states.get(ReplicaState.RUNNING, 0))


def _count_running(name: str) -> int:
    return _n_running(_status(name))


def _messages(status: ApplicationStatusOverview | None) -> str:
    if status is None:
        return ""
    return "\n".join([status.message, *(deployment.message for deployment in status.deployments.values())]).strip()


def _start_error(text: str) -> Exception:
    failed = enclosed_failure(text)
    if failed is not None:
        return error_from(failed)
    return RunnerStartError(f"the replicas did not start: {text[-_N_ERROR_CHARS:]}", exit_reason="deploy failed")


async def _infos(handle: Any) -> list[ModelInfo]:
    bodies = await handle.broadcast("ready").results_async(timeout_s=_READY_S)
    infos = []
    for body in bodies:
        ready = messages.child_message_decoder.decode(body)
        assert isinstance(ready, messages.Ready)
        infos.append(ready.info)
    return infos


def _delete(name: str) -> None:
    """Blocks until the application is gone, at most `_DELETE_S`."""
    if not ray.is_initialized():
        return
    serve.delete(name, _blocking=False)
    deadline = time.monotonic() + _DELETE_S
    while _status(name) is not None:
        if time.monotonic() > deadline:
            logger.warning("%s was not deleted within %g s", name, _DELETE_S)
            return
        time.sleep(_POLL_S)
