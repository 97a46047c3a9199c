"""The `donabe` command from outside: its own background server, a real model, the examples of the README."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.model_store import ensure_model, shared_store

pytestmark = pytest.mark.models

README = Path(__file__).parents[2] / "README.md"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    ensure_model("smollm2:latest")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("DONABE_", "OLLAMA_"))}
    return clean | {
        "DONABE_HOST": f"127.0.0.1:{free_port()}",
        "DONABE_HOME": str(tmp_path_factory.mktemp("home")),
        "DONABE_MODELS": str(shared_store().layout.root),
        "DONABE_OFFLINE": "on",
    }


@pytest.fixture(scope="module")
def donabe(environment: dict[str, str]) -> Iterator[Run]:
    def run(*args: str, stdin: str = "", timeout: float = 120) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "donabe", *args]
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, env=environment, timeout=timeout, check=False
        )

    yield run
    run("stop", "--server")


def test_without_server_commands_say_how_to_start_one(donabe: Run) -> None:
    done = donabe("list")
    assert (done.returncode, done.stdout) == (1, "")
    assert "run 'donabe serve' to start it" in done.stderr


def test_run_starts_a_server_once_and_answers(donabe: Run) -> None:
    first = donabe("run", "smollm2", "What is the capital of France?")
    assert first.returncode == 0, first.stderr
    assert len(first.stdout.split()) >= 1, "the answer is drawn at random, but never empty"
    assert "started a donabe server in the background" in first.stderr
    second = donabe("run", "smollm2", "--verbose", "Say hello.")
    assert (second.returncode, "background" in second.stderr) == (0, False)
    assert re.search(r"^eval rate: +\d+\.\d\d tokens/s$", second.stderr, re.MULTILINE)


def test_pipe_is_part_of_the_prompt(donabe: Run) -> None:
    done = donabe("run", "smollm2", "What is the name of the cat in this text?", stdin="The cat is called Mimi.\n")
    assert done.returncode == 0, done.stderr
    assert "Mimi" in done.stdout


def test_format_json_gives_an_object(donabe: Run) -> None:
    import json

    schema = '{"type":"object","properties":{"age":{"type":"integer"}},"required":["age"],"additionalProperties":false}'
    done = donabe("run", "smollm2", "--format", schema, "How old is a cat?")
    assert isinstance(json.loads(done.stdout)["age"], int)


def test_loaded_model_is_listed_and_stopped(donabe: Run) -> None:
    assert donabe("run", "smollm2").returncode == 0
    assert "smollm2:latest" in donabe("list").stdout
    assert "smollm2:latest" in donabe("ps").stdout
    assert "llama" in donabe("show", "smollm2").stdout
    stopped = donabe("stop", "smollm2")
    assert (stopped.returncode, stopped.stderr) == (0, "")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("run", "no-such-model", "hi"), "Error: no-such-model"),
        (("show", "no-such-model"), "Error: model 'no-such-model:latest' not found"),
        (("rm", "no-such-model"), "Error: model 'no-such-model' not found"),
        (("run", "smollm2", "--keepalive", "5", "hi"), "Error: time: missing unit"),
    ],
)
def test_bad_input_is_one_line(donabe: Run, args: tuple[str, ...], message: str) -> None:
    done = donabe(*args)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


def test_python_examples_of_the_readme_run(donabe: Run, environment: dict[str, str]) -> None:
    donabe("run", "smollm2")  # a server for the client's example
    for block in re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL):
        done = subprocess.run(
            [sys.executable, "-c", block], capture_output=True, text=True, env=environment, timeout=120, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.strip()


def test_taken_port_is_named(donabe: Run, environment: dict[str, str]) -> None:
    donabe("run", "smollm2")
    done = donabe("serve")
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: can't listen on {environment['DONABE_HOST']}: the port is taken by")
    assert done.stderr.count("\n") == 1
