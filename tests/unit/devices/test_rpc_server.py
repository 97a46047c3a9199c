"""The front of an RPC worker: each connection gets a process, and all of them end with it."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from donabe.devices import rpc_server
from donabe.devices.rpc_server import Settings, Worker, check_lending
from donabe.errors import RunnerStartError, SettingsError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="a Windows machine can't be a worker")

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def fake_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(rpc_server, "WORKER_COMMAND", (sys.executable, "-m", "tests.fakes.rpc_worker_child"))


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(Settings("127.0.0.1", 0))
    thread = threading.Thread(target=run, args=(worker,), daemon=True)
    thread.start()
    yield worker
    worker.close()
    thread.join(30)
    assert not thread.is_alive()


def run(worker: Worker) -> None:
    with contextlib.suppress(OSError):  # the listener was closed
        worker.run()


def connect(worker: Worker) -> socket.socket:
    return socket.create_connection(("127.0.0.1", worker.port), timeout=30)


def children() -> list[psutil.Process]:
    def is_ours(process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):  # ended, and waited for or not
            return "tests.fakes.rpc_worker_child" in process.cmdline()
        return False

    return [process for process in psutil.Process().children() if is_ours(process)]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


def test_each_connection_is_served_by_a_process_of_its_own(worker: Worker) -> None:
    with connect(worker) as one, connect(worker) as two:
        for connection in (one, two):
            connection.sendall(b"?")
            assert len(connection.recv(64)) == 36
        assert len(children()) == 2
    wait_until(lambda: not children())


def test_crash_ends_one_connection_alone(worker: Worker, capfd: pytest.CaptureFixture[str]) -> None:
    with connect(worker) as good, connect(worker) as bad:
        bad.sendall(b"!")
        assert bad.recv(1) == b""
        good.sendall(b"?")
        assert good.recv(64)
    wait_until(lambda: not children())
    text = ""

    def is_told() -> bool:
        nonlocal text
        text += capfd.readouterr().err
        return "its process ended with signal 6 (SIGABRT)" in text and text.count(" left\n") == 1

    wait_until(is_told)


def test_processes_end_with_the_worker(worker: Worker) -> None:
    with connect(worker) as connection:
        connection.sendall(b"?")
        assert connection.recv(64)
        running = children()
        worker.close()
        assert connection.recv(64) == b""
    _, left = psutil.wait_procs(running, timeout=30)
    assert left == []


def test_too_many_connections_are_refused(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_server, "N_CONNECTIONS_MAX", 1)
    with connect(worker) as first:
        first.sendall(b"?")
        assert first.recv(64)
        with connect(worker) as second:
            assert second.recv(64) == b""


def test_port_in_use_is_told(worker: Worker) -> None:
    with pytest.raises(SettingsError, match=f"can't listen on 127.0.0.1:{worker.port}"):
        Worker(Settings("127.0.0.1", worker.port))


def test_what_is_lent_is_checked_first() -> None:
    assert check_lending(Settings("127.0.0.1", 0)) == {"devices": ["FAKE0 (none)"], "protocol": "7.0.0"}
    with pytest.raises(RunnerStartError, match="there is no device ABSENT") as error:
        check_lending(Settings("127.0.0.1", 0, devices=("ABSENT",)))
    assert error.value.hint == "devices here: FAKE0"


def test_native_part_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_server, "WORKER_COMMAND", (sys.executable, "-c", "raise SystemExit(3)"))
    with pytest.raises(RunnerStartError, match="the native part can't be loaded"):
        check_lending(Settings("127.0.0.1", 0))
