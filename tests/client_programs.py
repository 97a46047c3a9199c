"""The client libraries that `ci/clients` installs, in environments of their own (DONABE_CLIENTS names their folder)."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

import pytest

CHECKS = Path(__file__).parent / "clients"
PINS = ("requirements.txt", "package.json", "package-lock.json")
IN_TEST_EXTRA = ("ollama", "openai", "anthropic")


def folder() -> Path:
    return Path(os.environ.get("DONABE_CLIENTS") or Path.home() / ".cache" / "donabe" / "clients")


def are_installed() -> bool:
    """Whether they are there, whole, in the versions that tests/clients names."""
    stamp = folder() / "installed"
    pins = "".join((CHECKS / name).read_text(encoding="utf-8") for name in PINS)
    return stamp.exists() and stamp.read_text(encoding="utf-8").strip() == pins.strip()


def missing() -> NoReturn:
    """End the test: skipped, but failed where the clients have to be there (CI)."""
    message = "the client libraries are not installed, or not as pinned: run ci/clients"
    if os.environ.get("DONABE_REQUIRE_CLIENTS") == "1":
        pytest.fail(message)
    pytest.skip(message)


def program(name: str) -> Path:
    """An installed program, like `schemathesis`; ends the test without it."""
    if not are_installed():
        missing()
    return folder() / "python" / "bin" / name


def command(check: str) -> tuple[list[str], Path]:
    """How to run a script of tests/clients, and where; ends the test without its client.

    The clients of the `test` extra run without `ci/clients`, too, in whatever version is there.
    """
    if check == "node":
        if not are_installed():
            missing()
        return ["node", str(CHECKS / "check_node.mjs")], folder() / "node"
    if check in IN_TEST_EXTRA and not are_installed() and os.environ.get("DONABE_REQUIRE_CLIENTS") != "1":
        return [sys.executable, str(CHECKS / f"check_{check}.py")], CHECKS
    return [str(program("python")), str(CHECKS / f"check_{check}.py")], CHECKS
