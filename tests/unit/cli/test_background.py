from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from donabe.cli import background
from donabe.cli.background import start_background_server, stop_background_server
from donabe.errors import ServerUnavailableError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DONABE_HOME", str(tmp_path))
    monkeypatch.delenv("DONABE_CONFIG", raising=False)
    return tmp_path


def program(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def ready_after(n_calls: int) -> Callable[[], None]:
    calls = []

    def heartbeat() -> None:
        calls.append(1)
        if len(calls) < n_calls:
            raise ServerUnavailableError("not yet")

    return heartbeat


def never() -> None:
    raise ServerUnavailableError("no")


def test_returns_the_process_once_it_answers(home: Path) -> None:
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_DFL); signal.pause()"
    started = start_background_server(ready_after(2), command=program(code))
    assert started is not None
    assert started.log == home / "logs" / "server.log"
    process = psutil.Process(started.process.pid)
    assert process.cwd() == str(home)
    assert os.getsid(process.pid) == process.pid, "a hang-up of the terminal must not reach it"
    started.process.terminate()
    assert started.process.wait(5) != 0


def test_stop_ends_the_server_that_was_started(home: Path) -> None:
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_DFL); signal.pause()"
    started = start_background_server(ready_after(2), command=(*program(code), "serve"))
    assert started is not None
    assert stop_background_server() == started.process.pid
    assert not psutil.pid_exists(started.process.pid)
    started.process.wait(5)
    with pytest.raises(ServerUnavailableError, match="no server runs"):
        stop_background_server()


def test_stop_leaves_a_process_alone_that_took_over_the_number(home: Path) -> None:
    (home / "server.pid").write_text(str(os.getpid()))
    with pytest.raises(ServerUnavailableError, match="no server runs"):
        stop_background_server()


def test_server_that_ends_at_start_reports_its_last_line() -> None:
    code = "import sys; sys.stderr.write('Error: port 1 is taken\\n'); sys.exit(3)"
    with pytest.raises(ServerUnavailableError, match=r"ended at start \(exit code 3\): port 1 is taken"):
        start_background_server(never, command=program(code))


def test_server_that_is_never_ready_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "READY_TIMEOUT_S", 0.2)
    with pytest.raises(ServerUnavailableError, match="not ready within") as caught:
        start_background_server(never, command=program("import time; time.sleep(60)"))
    assert "server.log" in str(caught.value.hint)


def test_relative_paths_reach_the_server_absolute(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OLLAMA_MODELS", "my-models")
    with pytest.raises(ServerUnavailableError, match=f"{tmp_path}/my-models"):
        start_background_server(never, command=program("import os; print(os.environ['DONABE_MODELS'])"))
