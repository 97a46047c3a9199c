"""RPC workers seen from the machine that uses them: asked what they are, with a deadline, before ggml connects.

ggml has no deadline and ends the process where a worker can't be reached or speaks another version; so this module
speaks the first two messages of its protocol itself. Standard library only: doctor and the server use it, too.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

from donabe.errors import RunnerStartError, UnsupportedError

DEADLINE_S = 10.0
# How ggml says, in the line it aborts with, that a connection to a worker broke: there is no code or callback for it.
LOST_TEXT = "Remote RPC server crashed"

_HELLO = struct.pack("<BQ24x", 14, 24)  # command, length, capabilities of the transport: none
_DEVICE_COUNT = struct.pack("<BQ", 15, 0)
_HELLO_REPLY_BYTES = range(3, 257)  # the version comes first, whatever follows in other versions

_added: set[str] = set()  # workers this process is connected to


def spoken_version(native: Any) -> str:
    """Of ggml's RPC protocol, by this build. Raises UnsupportedError for a native part that was built without it."""
    version = native.build_info().get("rpc_protocol")
    if version is None:
        raise UnsupportedError("this build of donabe has no RPC backend", hint="build or install donabe again")
    return str(version)


def add_workers(addresses: Sequence[str], native: Any) -> None:
    """Connect this process to the workers, once; their devices are among `native.devices()` from then on.

    Raises:
        RunnerStartError: A worker can't be reached, or speaks another version.
        LoadError: It lends no devices.
        UnsupportedError: This build has no RPC backend.
    """
    for address in addresses:
        if address not in _added:
            check_worker(address, spoken_version(native))
            native.rpc_add_worker(address)
            _added.add(address)


def check_worker(address: str, version: str, *, deadline_s: float = DEADLINE_S) -> int:
    """How many devices the worker lends.

    Args:
        address: `host:port`.
        version: Of the protocol that this donabe speaks.

    Raises:
        RunnerStartError: It can't be reached within the deadline, or speaks another version.
    """
    host, _, port = address.rpartition(":")
    ends_at = time.monotonic() + deadline_s
    try:
        with _connected(host, int(port), ends_at) as connection:
            connection.sendall(_HELLO)
            reply = _reply(connection, _HELLO_REPLY_BYTES, ends_at)
            theirs = ".".join(str(number) for number in reply[:3])
            if theirs != version:
                raise RunnerStartError(
                    f"the RPC worker {address} speaks version {theirs} of ggml's RPC protocol, this donabe {version}",
                    hint="install the same version of donabe on both machines",
                )
            connection.sendall(_DEVICE_COUNT)
            (n_devices,) = struct.unpack("<I", _reply(connection, range(4, 5), ends_at))
    except socket.gaierror as error:
        raise _unreachable(address, f"its name is not known ({error.strerror})") from error
    except TimeoutError as error:
        raise _unreachable(address, f"no answer within {deadline_s:g} s") from error
    except _NoWorkerError as error:
        raise RunnerStartError(
            f"what answers at {address} is no RPC worker that speaks version {version} of ggml's protocol: {error}",
            hint="start `donabe rpc-server` there, of the same version of donabe",
        ) from None
    except OSError as error:
        raise _unreachable(address, (error.strerror or str(error)).lower()) from error
    return int(n_devices)


def lost_workers(addresses: Sequence[str], *, deadline_s: float = 2.0) -> list[str]:
    """Which of these no longer take connections. Blocks, for the deadline each at most."""
    lost = []
    for address in addresses:
        host, _, port = address.rpartition(":")
        try:
            with _connected(host, int(port), time.monotonic() + deadline_s):
                pass
        except OSError:
            lost.append(address)
    return lost


class _NoWorkerError(Exception):
    """The peer does not speak the protocol."""


def _unreachable(address: str, why: str) -> RunnerStartError:
    return RunnerStartError(
        f"the RPC worker {address} can't be reached: {why}",
        hint="start `donabe rpc-server` there, or take it out of the setting rpc",
    )


def _connected(host: str, port: int, ends_at: float) -> socket.socket:
    # IPv4, as ggml connects: a name may stand for other addresses, too
    [*_, sockaddr] = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)[0]
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with contextlib.ExitStack() as undo:
        undo.callback(connection.close)
        connection.settimeout(_left_s(ends_at))
        connection.connect(sockaddr)
        undo.pop_all()
    return connection


def _reply(connection: socket.socket, n_allowed: range, ends_at: float) -> bytes:
    (n_bytes,) = struct.unpack("<Q", _exactly(connection, 8, ends_at))
    if n_bytes not in n_allowed:
        raise _NoWorkerError("its answer has another form")
    return _exactly(connection, n_bytes, ends_at)


def _exactly(connection: socket.socket, n_bytes: int, ends_at: float) -> bytes:
    data = b""
    while len(data) < n_bytes:
        connection.settimeout(_left_s(ends_at))
        part = connection.recv(n_bytes - len(data))
        if not part:
            raise _NoWorkerError("it closes the connection")
        data += part
    return data


def _left_s(ends_at: float) -> float:
    left_s = ends_at - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s
