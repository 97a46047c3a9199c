"""RPC workers as they are asked before ggml connects: version, deadline, unreachable ones."""

from __future__ import annotations

import socket
import time
from types import SimpleNamespace
from typing import Any

import pytest
from tests.fakes.rpc_peer import count_reply, hello_reply, rpc_peer

from donabe.devices import rpc
from donabe.devices.describe import describe
from donabe.devices.rpc import add_workers, check_worker, lost_workers
from donabe.errors import RunnerStartError, UnsupportedError

OURS = "7.0.0"


@pytest.fixture(autouse=True)
def nothing_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "_added", set())


@pytest.fixture
def closed_address() -> str:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{unused.getsockname()[1]}"


class Native:
    """What add_workers uses of the native module."""

    def __init__(self) -> None:
        self.added: list[str] = []

    def build_info(self) -> dict[str, Any]:
        return {"rpc_protocol": OURS, "version": "0", "build_id": "b", "backend_dl": False}

    def rpc_add_worker(self, address: str) -> None:
        self.added.append(address)

    def init(self, **_plugins: Any) -> None: ...

    def system_info(self) -> str:
        return "CPU : SSE3 = 1"

    def devices(self) -> list[Any]:
        facts = {"pci_id": "", "memory_total_bytes": 1, "memory_free_bytes": 1, "description": "d"}
        remote = [SimpleNamespace(name="RPC0", backend="RPC", kind="gpu", **facts) for _ in self.added]
        return [SimpleNamespace(name="CPU", backend="CPU", kind="cpu", **facts), *remote]


def test_worker_of_this_version_tells_its_devices() -> None:
    with rpc_peer(hello_reply((7, 0, 0)), count_reply(3)) as address:
        assert check_worker(address, OURS) == 3


@pytest.mark.parametrize("version", [(6, 0, 0), (7, 1, 0), (7, 0, 1), (8, 0, 0)])
def test_other_version_is_refused_and_both_are_named(version: tuple[int, int, int]) -> None:
    with rpc_peer(hello_reply(version), count_reply(1)) as address, pytest.raises(RunnerStartError) as error:
        check_worker(address, OURS)
    theirs = ".".join(map(str, version))
    assert error.value.message == (
        f"the RPC worker {address} speaks version {theirs} of ggml's RPC protocol, this donabe {OURS}"
    )
    assert "same version" in str(error.value.hint)


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n" + b" " * 64])
def test_other_programs_are_told_from_workers(reply: bytes) -> None:
    with rpc_peer(reply) as address, pytest.raises(RunnerStartError, match=f"at {address} is no RPC worker"):
        check_worker(address, OURS)


def test_silent_peer_ends_at_the_deadline() -> None:
    started = time.monotonic()
    with rpc_peer() as address, pytest.raises(RunnerStartError, match=r"can't be reached: no answer within 0\.3 s"):
        check_worker(address, OURS, deadline_s=0.3)
    assert time.monotonic() - started < 20


def test_nobody_listening_is_named(closed_address: str) -> None:
    with pytest.raises(RunnerStartError, match=f"the RPC worker {closed_address} can't be reached: connection refused"):
        check_worker(closed_address, OURS)


def test_unknown_name_is_named() -> None:
    with pytest.raises(RunnerStartError, match=r"worker no\.such\.host\.invalid:1 can't be reached: its name"):
        check_worker("no.such.host.invalid:1", OURS)


def test_workers_are_added_once() -> None:
    native = Native()
    with rpc_peer(hello_reply((7, 0, 0)), count_reply(1)) as address:
        add_workers([address], native)
        add_workers([address], native)
    assert native.added == [address]


def test_worker_that_can_not_be_used_is_not_added(closed_address: str) -> None:
    native = Native()
    with pytest.raises(RunnerStartError):
        add_workers([closed_address], native)
    assert native.added == []


def test_build_without_the_backend_is_told() -> None:
    native = Native()
    native.build_info = lambda: {"version": "0"}  # type: ignore[method-assign]
    with pytest.raises(UnsupportedError, match="has no RPC backend"):
        add_workers(["127.0.0.1:1"], native)


def test_lost_workers_are_those_that_take_no_connection(closed_address: str) -> None:
    with rpc_peer(hello_reply((7, 0, 0))) as address:
        assert lost_workers([address, closed_address]) == [closed_address]


def test_doctor_hears_of_each_worker(closed_address: str) -> None:
    native = Native()
    with rpc_peer(hello_reply((7, 0, 0)), count_reply(1)) as address:
        answer = describe(None, [], native, workers=[closed_address, address])
    assert [(item["address"], "connection refused" in item["message"]) for item in answer["lost_workers"]] == [
        (closed_address, True)
    ]
    assert [(item["name"], item["is_chosen"]) for item in answer["devices"]] == [("CPU", True), ("RPC0", True)]


def test_workers_are_left_alone_where_the_cpu_is_set(closed_address: str) -> None:
    native = Native()
    assert describe("cpu", [], native, workers=[closed_address])["lost_workers"] == []
