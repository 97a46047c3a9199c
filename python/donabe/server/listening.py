"""Opening the listening socket, with errors that say what is in the way. Knows no HTTP."""

from __future__ import annotations

import errno
import os
import socket

from donabe.errors import SettingsError

BACKLOG = 2048


def open_socket(host: str, port: int) -> socket.socket:
    """Listen on an interface; "" is all of them, both IP versions where the machine has them.

    Raises:
        SettingsError: The address can't be listened on; a taken port is reported with its holder.
    """
    try:
        if not host and socket.has_dualstack_ipv6():
            listener = socket.create_server(("", port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True)
        else:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise _explain(error, host, port) from error
    return _named_tcp(listener)


def _named_tcp(listener: socket.socket) -> socket.socket:
    """The same socket, said to be TCP: asyncio sets TCP_NODELAY on connections of such listeners only. Without it every
    event of a stream but the first waits until the client has acknowledged the one before, up to 40 ms."""
    return socket.socket(listener.family, listener.type, socket.IPPROTO_TCP, fileno=listener.detach())


def _explain(error: OSError, host: str, port: int) -> SettingsError:
    where = f"{host or '*'}:{port}"
    if error.errno == errno.EADDRINUSE:
        holder = port_holder(port)
        return SettingsError(
            f"can't listen on {where}: the port is taken{f' by {holder}' if holder else ''}",
            setting="port",
            hint=f"stop it, or choose another port: donabe serve --port {port + 1 if port < 65535 else 11435}",
        )
    if error.errno == errno.EACCES:
        return SettingsError(
            f"can't listen on {where}: permission denied", setting="port", hint="choose a port above 1023"
        )
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return SettingsError(
            f"can't listen on {where}: this machine has no such address",
            setting="host",
            hint="use 127.0.0.1 for this machine only, 0.0.0.0 for all its interfaces",
        )
    return SettingsError(f"can't listen on {where}: {error.strerror or error}", setting="host")


def port_holder(port: int) -> str:
    """`name (pid N)` of the process listening on a TCP port; "" when it can't be seen."""
    import psutil

    try:
        connections = psutil.net_connections(kind="tcp")
    except (psutil.Error, OSError):  # other users' sockets are hidden on some systems
        return ""
    for connection in connections:
        if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
            if connection.pid is None:
                return "another user's process"
            try:
                name = psutil.Process(connection.pid).name()
            except psutil.Error:
                name = "a process"
            return f"{name} (pid {connection.pid}{', this one' if connection.pid == os.getpid() else ''})"
    return ""
