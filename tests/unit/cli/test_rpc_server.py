"""`donabe rpc-server` refuses what it should before it becomes the worker; `run --rpc` reaches a new server only."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import pytest
from tests.fakes.command_line import Run
from tests.fakes.http_server import FakeServer


class BecameError(Exception):
    """In place of the program that replaces the process."""


@pytest.fixture
def became(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    seen: list[Any] = []

    def execve(path: str, command: list[str], environment: dict[str, str]) -> None:
        seen.append((path, command, environment))
        raise BecameError

    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.delenv("DONABE_DEVICES", raising=False)
    return seen


def test_becomes_the_worker_with_what_was_asked_for(became: list[Any], donabe_alone: Run) -> None:
    donabe_alone("rpc-server", "--port", "0", "--device", "CPU", "--threads", "2", "--cache")
    [(path, command, environment)] = became
    assert (path, command[:3]) == (sys.executable, [sys.executable, "-m", "donabe.devices.rpc_server"])
    values = json.loads(command[3])
    assert (values["host"], values["port"], values["devices"], values["n_threads"]) == ("127.0.0.1", 0, ["CPU"], 2)
    assert values["cache_dir"].endswith("rpc-cache")
    assert environment["PYTHONSAFEPATH"] == "1"


def test_defaults_are_loopback_and_no_cache(became: list[Any], donabe_alone: Run) -> None:
    donabe_alone("rpc-server", "--host", "localhost")
    values = json.loads(became[0][1][3])
    assert (values["host"], values["port"], values["devices"], values["cache_dir"]) == ("127.0.0.1", 50052, [], "")


@pytest.mark.parametrize("host", ["0.0.0.0", "10.1.2.3", "192.168.0.1"])
def test_open_address_needs_leave(host: str, became: list[Any], donabe_alone: Run) -> None:
    outcome = donabe_alone("rpc-server", "--host", host)
    assert (outcome.code, became) == (1, [])
    assert f"not listening on {host}: the RPC protocol has no authentication and trusts its peers" in outcome.err
    assert "--insecure allows it" in outcome.err
    donabe_alone("rpc-server", "--host", host, "--insecure")
    assert json.loads(became[0][1][3])["host"] == host


@pytest.mark.parametrize("host", ["::1", "box-2", "1.2.3", "127.0.0.1:5", ""])
def test_address_must_be_of_ipv4(host: str, became: list[Any], donabe_alone: Run) -> None:
    outcome = donabe_alone("rpc-server", "--host", host, "--insecure")
    assert (outcome.code, became) == (1, [])
    assert "--host must be an IPv4 address" in outcome.err


def test_run_refuses_workers_for_a_server_that_runs(server: FakeServer, donabe: Run) -> None:
    outcome = donabe("run", "m", "hi", "--rpc", "10.0.0.2:1")
    assert outcome.code == 1
    assert "--rpc is for a server that is started now, and one runs at" in outcome.err


def test_run_checks_the_addresses(donabe_alone: Run) -> None:
    outcome = donabe_alone("run", "m", "hi", "--rpc", "10.0.0.2:99999")
    assert (outcome.code, "--rpc must have a port" in outcome.err) == (1, True)
