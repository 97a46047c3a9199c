"""`donabe doctor`: the port where a server would listen, and the places models come from."""

from __future__ import annotations

import gc
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.fakes.command_line import Run
from tests.fakes.registry_http import FakeServer, Reply, fake_server
from tests.fakes.registry_packages import use_index
from tests.fakes.registry_tls import make_authority

from donabe.errors import RunnerDiedError

Findings = Callable[..., dict[str, tuple[str, str]]]


@pytest.fixture
def findings(donabe_alone: Run, monkeypatch: pytest.MonkeyPatch) -> Findings:
    """Runs the command; (level, message) by subject."""
    answer = {"build": {}, "features": [], "devices": [], "lost_workers": [], "plugins": [], "refused": [], "hint": ""}
    monkeypatch.setattr("donabe.cli.health.ask_child", lambda *_args, **_kwargs: answer)

    def run(*args: str) -> dict[str, tuple[str, str]]:
        done = donabe_alone("doctor", "--json", *args)
        found = json.loads(done.out)["findings"]
        assert done.code == any(item["level"] == "problem" for item in found)
        return {item["subject"]: (item["level"], item["message"]) for item in found}

    return run


def test_free_port_is_said_to_be_free(findings: Findings, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    monkeypatch.setenv("DONABE_HOST", f"127.0.0.1:{port}")
    assert findings()["server"] == ("ok", f"none is running, port {port} is free")


def test_port_held_by_something_else_is_named_with_its_holder(
    findings: Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as other:
        port = other.getsockname()[1]
        monkeypatch.setenv("DONABE_HOST", f"127.0.0.1:{port}")
        monkeypatch.setattr("donabe.cli.health._SERVER_TIMEOUT_S", 0.05)
        level, message = findings()["server"]
    assert level == "warning"
    assert "the port is taken by" in message
    assert f"pid {os.getpid()}" in message


# --- the network -----------------------------------------------------------------------------------------------------


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    with fake_server() as server:
        use_index(monkeypatch, server)
        yield server


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    """A registry that wants a login, in place of the ones asked by default."""
    ca_file, context = make_authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    with fake_server(tls=context) as server:
        server.routes["/v2/"] = lambda _: Reply(401, b"who are you?")
        monkeypatch.setattr("donabe.registry.reach.REGISTRIES", (server.host,))
        monkeypatch.setenv("DONABE_PRIVATE_REGISTRIES", server.host)
        yield server


def test_nobody_is_asked_unless_told_to(findings: Findings, index: FakeServer, registry: FakeServer) -> None:
    findings()
    assert index.requests == registry.requests == []


def test_places_that_answer_are_reachable(findings: Findings, index: FakeServer, registry: FakeServer) -> None:
    found = findings("--store", "--network")
    assert found["package index"] == ("ok", "can be reached")
    assert found[registry.host] == ("ok", "can be reached")
    assert not any("authorization" in request.headers for request in registry.requests)


def test_places_that_do_not_answer_are_named(
    findings: Findings, registry: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_index(monkeypatch, None)
    found = findings("--store", "--network")
    level, message = found["package index"]
    assert (level, "can't be reached" in message) == ("warning", True)
    assert "network" not in found
    monkeypatch.delenv("SSL_CERT_FILE")
    found = findings("--store", "--network")
    assert found[registry.host][0] == "warning"
    assert found["network"] == ("problem", "models can be pulled from nowhere")


# The HTTP library leaves the socket of a handshake that is given up to the collector, which says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_silent_places_are_given_up_at_the_deadline(
    findings: Findings, monkeypatch: pytest.MonkeyPatch, registry: FakeServer
) -> None:
    monkeypatch.setattr("donabe.cli.health.NETWORK_DEADLINE_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr("donabe.registry.reach.REGISTRIES", (host,))
        monkeypatch.setenv("DONABE_PRIVATE_REGISTRIES", host)
        found = findings("--store", "--network")
        gc.collect()
    assert found[host] == ("warning", "did not answer within 0.5 s")


def test_offline_asks_nobody(
    findings: Findings, index: FakeServer, registry: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DONABE_OFFLINE", "1")
    assert findings("--store", "--network")["network"] == ("ok", "not asked: donabe is offline")
    assert index.requests == registry.requests == []


@pytest.mark.usefixtures("index", "registry")
def test_bad_setting_hides_no_other_finding(findings: Findings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DONABE_MAX_QUEUE", "many")
    found = findings("--network")
    assert found["settings"][0] == found["store"][0] == "problem"
    assert found["engine"][0] == "ok"


# --- devices ---------------------------------------------------------------------------------------------------------


def test_devices_are_told_with_the_reason(findings: Findings, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = {"memory_total_bytes": 8_000_000_000, "memory_free_bytes": 6_000_000_000}
    gpu = {"name": "Vulkan0", "description": "a GPU", "backend": "Vulkan", "kind": "gpu", **memory}
    gpu |= {"pci_id": "0000:03:00.0", "driver": "amdgpu 6.1"}
    answer = {
        "build": {"llama_version": "b1", "build_id": "abc", "backend_dl": True, "cpu_variant": "haswell"},
        "features": ["AVX2", "FMA"],
        "devices": [gpu | {"is_chosen": False, "reason": "backend is set to cpu"}],
        "lost_workers": [{"address": "box:50052", "message": "it can't be reached", "hint": "start it"}],
        "plugins": ["vulkan"],
        "refused": [{"name": "cuda12", "message": "it is of version 1", "hint": "pip install it", "kind": "broken"}],
        "hint": "pip install 'donabe[vulkan]'",
    }
    monkeypatch.setattr("donabe.cli.health.ask_child", lambda *_args, **_kwargs: answer)
    found = findings()
    assert found["engine"] == ("ok", "llama.cpp b1, build abc, CPU variant haswell")
    assert found["processor"] == ("ok", "uses AVX2, FMA")
    expected = "a GPU (Vulkan), PCI 0000:03:00.0, driver amdgpu 6.1, 6 GB of 8 GB free; not used: backend is set to cpu"
    assert found["device Vulkan0"] == ("ok", expected)
    assert found["worker box:50052"] == ("problem", "it can't be reached")
    assert found["plug-in cuda12"] == ("problem", "it is of version 1")
    assert found["devices"] == ("warning", "a GPU is not used")


@pytest.mark.parametrize(
    ("kind", "used", "level"),
    [
        ("broken", None, "problem"),
        ("idle", None, "problem"),
        ("outdone", None, "ok"),
        ("broken", "Vulkan", "warning"),
        ("idle", "Vulkan", "ok"),  # a GPU of another make is used
        ("outdone", "CUDA", "ok"),
        ("broken", "RPC", "problem"),  # a device of another machine is no reason to leave this one's unused
    ],
)
def test_plugin_that_is_not_used_is_a_problem_only_where_no_gpu_is(
    donabe_alone: Run, monkeypatch: pytest.MonkeyPatch, kind: str, used: str | None, level: str
) -> None:
    device = {"name": "X0", "description": "x", "backend": used, "kind": "gpu", "pci_id": "", "driver": ""}
    device |= {"memory_total_bytes": 2, "memory_free_bytes": 1, "is_chosen": True, "reason": "the best there is"}
    refused = {"name": "cuda12", "message": "it is not used", "hint": "do this", "kind": kind}
    answer = {
        "build": {"llama_version": "b1"},
        "features": [],
        "devices": [device] if used else [],
        "lost_workers": [],
        "plugins": ["vulkan"],
        "refused": [refused],
        "hint": "",
    }
    monkeypatch.setattr("donabe.cli.health.ask_child", lambda *_args, **_kwargs: answer)
    done = donabe_alone("doctor", "--json")
    value = json.loads(done.out)
    [found] = [item for item in value["findings"] if item["subject"] == "plug-in cuda12"]
    assert (found["level"], done.code) == (level, 1 if level == "problem" else 0)
    assert value["build"] == {"llama_version": "b1"}
    assert value["devices"] == ([device] if used else [])
    assert value["plugins"] == [
        {"name": "vulkan", "state": "used", "message": "", "hint": ""},
        {"name": "cuda12", "state": kind, "message": "it is not used", "hint": "do this"},
    ]


def test_machine_that_can_not_be_asked_has_no_facts(donabe_alone: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise RunnerDiedError("the child process failed: no module")

    monkeypatch.setattr("donabe.cli.health.ask_child", fail)
    done = donabe_alone("doctor", "--json")
    value = json.loads(done.out)
    assert (value["build"], value["devices"], value["plugins"], done.code) == ({}, [], [], 1)
    assert "plugins" not in json.loads(donabe_alone("doctor", "--store", "--json").out)


def test_real_devices_of_this_machine(donabe_alone: Run) -> None:
    done = donabe_alone("doctor", "--json")
    found = {item["subject"]: item for item in json.loads(done.out)["findings"]}
    assert "used: computes everything" in found["device CPU"]["message"]
    assert found["processor"]["level"] == "ok"
    value = json.loads(done.out)
    [cpu] = [device for device in value["devices"] if device["kind"] == "cpu"]
    assert cpu["is_chosen"]
    assert cpu["memory_total_bytes"] >= cpu["memory_free_bytes"] > 0
    assert value["build"]["build_id"]


def test_device_that_is_not_there_is_a_problem(donabe_alone: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DONABE_DEVICES", "CUDA7")
    done = donabe_alone("doctor", "--json")
    found = {item["subject"]: item for item in json.loads(done.out)["findings"]}
    assert done.code == 1
    assert found["devices"]["message"] == "there is no device CUDA7"
