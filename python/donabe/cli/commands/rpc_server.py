"""`donabe rpc-server`: lend this machine's devices to donabe on another machine.

Checks what was asked for, then becomes the worker: the native part and its child processes are not the command line's.
"""

from __future__ import annotations

import ipaddress
import json
import os
import sys

import click

from donabe.child_process import child_environment
from donabe.cli.base import Command
from donabe.errors import SettingsError
from donabe.setting_values import DEFAULT_RPC_PORT, Texts
from donabe.settings import load_settings


@click.command("rpc-server", cls=Command, settings=("home", "backend", "devices"))
@click.option("--host", default="127.0.0.1", metavar="ADDRESS", help="IPv4 address to listen on (default 127.0.0.1)")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_RPC_PORT,
    metavar="PORT",
    help=f"Port to listen on; 0 takes a free one (default {DEFAULT_RPC_PORT})",
)
@click.option("--device", "devices", metavar="NAMES", help="Lend these devices, as `donabe doctor` names them")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads of a CPU that is lent (default: its cores)")
@click.option("--cache", is_flag=True, help="Keep large tensors on disk, so that they are sent once")
@click.option("--insecure", is_flag=True, help="Allow other machines to connect: nobody is asked for a key")
def rpc_server(host: str, port: int, devices: str | None, threads: int | None, cache: bool, insecure: bool) -> None:
    """Lend this machine's devices to donabe on other machines (`donabe serve --rpc`).

    ggml's RPC protocol has no authentication and no encryption, and trusts its peers: whoever can connect can use the
    devices and may be able to run code. Use it in networks that only trusted machines are in.
    """
    settings = load_settings()
    if os.name != "posix":
        raise click.UsageError("rpc-server needs Linux or macOS; a Windows machine can use workers, not be one")
    values = {
        "host": _address(host, insecure=insecure),
        "port": port,
        "backend": settings.backend,
        "devices": settings.devices if devices is None else Texts()(devices),
        "n_threads": threads or 0,
        "cache_dir": str(settings.home / "rpc-cache") if cache else "",
    }
    sys.stdout.flush()
    sys.stderr.flush()
    command = [sys.executable, "-m", "donabe.devices.rpc_server", json.dumps(values)]
    os.execve(sys.executable, command, child_environment())


def _address(host: str, *, insecure: bool) -> str:
    """The address as numbers. Raises SettingsError where it is none, or open to other machines without leave."""
    try:
        address = ipaddress.IPv4Address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise SettingsError(
            f"--host must be an IPv4 address of this machine, not {host!r}", setting="host", source="flag --host"
        ) from None
    if not address.is_loopback and not insecure:
        raise SettingsError(
            f"not listening on {address}: the RPC protocol has no authentication and trusts its peers; whoever can "
            "connect can use this machine",
            setting="host",
            source="flag --host",
            hint="--insecure allows it, for networks that only trusted machines are in",
        )
    return str(address)
