"""Brings Ray up for `cluster`: what has to be decided before Ray is imported."""

from __future__ import annotations

import importlib.util
import logging
import os
import secrets
import socket
from collections.abc import MutableMapping
from typing import TYPE_CHECKING

from donabe.errors import SettingsError
from donabe.replicas.options import ReplicaOptions

if TYPE_CHECKING:
    from donabe.replicas.cluster import ReplicaCluster

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
_AUTH_MODE, _AUTH_TOKEN, _AUTH_TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


def connect_replicas(options: ReplicaOptions) -> ReplicaCluster:
    """The cluster that replicas run in. Blocks for some seconds where Ray has to be started.

    Raises:
        SettingsError: Ray is not installed, did not start, or no cluster answers at the address.
    """
    if importlib.util.find_spec("ray") is None:
        raise SettingsError("replicas need Ray", setting="replicas", hint="pip install 'donabe[ray]'")
    check_address(options.address)
    prepare_environment(os.environ, is_own=not options.address)
    from donabe.replicas.cluster import ReplicaCluster

    return ReplicaCluster.connect(options)


def check_address(address: str) -> None:
    """Ray itself would try for minutes before it gave up.

    Raises:
        SettingsError: Nothing listens at this `host:port`. Other forms (`auto`, `ray://...`) are left to Ray.
    """
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise SettingsError(
            f"no Ray cluster answers at {address}: {error}",
            setting="ray_address",
            hint="`ray start --head` says the address when it starts a cluster",
        ) from error


def prepare_environment(environ: MutableMapping[str, str], *, is_own: bool) -> None:
    """What Ray and its processes read at their start. What the user has set stays.

    Ray listens on every interface of the machine, also when only this machine uses it. A Ray of our own gets a token
    that nobody else knows and that is written nowhere.
    """
    environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves the machine unasked
    if not is_own:
        return
    if environ.setdefault(_AUTH_MODE, "token").lower() != "token":
        logger.warning(
            "%s=%s: everybody who can reach this machine can run programs on it through Ray",
            _AUTH_MODE,
            environ[_AUTH_MODE],
        )
    elif _AUTH_TOKEN not in environ and _AUTH_TOKEN_PATH not in environ:
        environ[_AUTH_TOKEN] = secrets.token_urlsafe(32)
