"""Runs the `donabe` command in the test's process, with its stdin and environment, and returns what came out."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.fakes.http_server import FakeServer

from donabe.cli.app import run_command_line


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


def command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path, server: FakeServer | None
) -> Run:
    """A function that runs a command line against the server (None: an address where nothing answers)."""
    for name in ("OLLAMA_HOST", "DONABE_DEBUG", "DONABE_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DONABE_HOST", server.host if server else "127.0.0.1:1")
    monkeypatch.setenv("DONABE_HOME", str(home))

    def run(*args: str, stdin: str = "") -> Outcome:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as caught:
            run_command_line(args)
        captured = capsys.readouterr()
        return Outcome(int(caught.value.code or 0), captured.out, captured.err)

    return run
