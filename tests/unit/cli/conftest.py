from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.command_line import Run, command_line
from tests.fakes.http_server import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.close()


@pytest.fixture
def donabe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, server: FakeServer
) -> Run:
    """Runs the command line against `server`."""
    return command_line(monkeypatch, capsys, tmp_path, server)


@pytest.fixture
def donabe_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs the command line where no server answers."""
    return command_line(monkeypatch, capsys, tmp_path, None)
