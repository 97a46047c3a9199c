"""Two real replicas on one machine: answers, affinity, cancelling, death. Run by ci/ray, where Ray is installed."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from tests.fakes.server_process import ROOT, started
from tests.native.replicas_program import FOUND, LOAD, N_FOLLOW_UPS, N_SAME, N_TOPICS
from tests.native_sampling.text_model import write_text_model

from donabe.replicas.options import MAX_IMBALANCE
from donabe.runner.local import LocalRunner
from donabe.store.resolve import resolve_model
from donabe.types import Delta, GenerateRequest, OutputOptions, SamplingOptions

PROMPTS = ["the name of the stop is ", '{"name": "ab', "abc" * 30, "true or false? "]
END_S = 60.0

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed; see ci/ray"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def model(tiny_model: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_text_model(Path(tiny_model("llama")), path)
    return path


@dataclass
class Program:
    found: dict[str, Any]
    process: subprocess.Popen[str]


@pytest.fixture(scope="module")
def program(model: Path) -> Iterator[Program]:
    """What `replicas_program` found; it still runs."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "python")]))
    command = [sys.executable, "-m", "tests.native.replicas_program", str(model), json.dumps(PROMPTS)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            line = next((line for line in process.stdout if line.startswith(FOUND)), None)
            assert line, f"the program ended with {process.wait(END_S)}"
            yield Program(json.loads(line.removeprefix(FOUND)), process)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def found(program: Program) -> dict[str, Any]:
    return program.found


def test_answers_are_those_of_one_engine(found: dict[str, Any], model: Path) -> None:
    async def answers() -> tuple[list[list[int]], list[int]]:
        runner = await LocalRunner.start(resolve_model(str(model), pull=False), LOAD)
        made = []
        for prompt in PROMPTS:
            output = OutputOptions(max_tokens=12, ignore_eos=True)
            request = GenerateRequest(prompt=prompt, sampling=SamplingOptions(temperature=0.0), output=output)
            events = [event async for event in runner.generate(request)]
            made.append([token for event in events if isinstance(event, Delta) for token in event.tokens])
        tokens = await runner.tokenize("the name")
        await runner.close()
        return made, tokens

    expected, tokens = asyncio.run(answers())
    assert [len(answer) for answer in expected] == [12] * len(PROMPTS)
    assert found["answers"] == expected
    assert (found["tokens"], found["text"]) == (tokens, "the name")


def test_two_replicas_are_shown_as_one_larger_runner(found: dict[str, Any]) -> None:
    assert found["info"] == [2 * 4, 2 * 8192, 4096]


def test_prompts_that_begin_alike_meet_the_same_cache(found: dict[str, Any]) -> None:
    usages = found["affinity"]["usages"]
    first = [(n_prompt, n_cached) for turn, n_prompt, n_cached in usages if turn == 0]
    later = [(n_prompt, n_cached) for turn, n_prompt, n_cached in usages if turn > 0]
    assert len(first) == N_TOPICS
    assert len(later) == N_TOPICS * N_FOLLOW_UPS
    # Of a follow-up only the few tokens that are new are computed; elsewhere it would be all of the topic.
    assert max(n_prompt - n_cached for n_prompt, n_cached in later) < 16
    assert min(n_prompt for n_prompt, _ in first) > 100


def test_different_prompts_are_spread_over_the_replicas(found: dict[str, Any]) -> None:
    low, high = found["affinity"]["evaluated"]
    assert high < 2 * low, "each has computed about half of the topics"


def test_replica_with_many_more_requests_is_passed_over(found: dict[str, Any]) -> None:
    low, high = found["imbalance"]
    assert low + high == N_SAME
    assert 0 < high - low <= MAX_IMBALANCE


def test_closed_streams_stop_and_free_their_cells(found: dict[str, Any]) -> None:
    assert found["cancelling"]["before"] == 2  # and the program has waited until nothing ran and all cells were free
    assert found["cancelling"]["output_tokens"] < 2 * 3000


def test_death_of_a_replica_ends_its_own_requests_alone(found: dict[str, Any]) -> None:
    death = found["death"]
    assert len(death["failed"]) == 2
    for kind, message, hint in death["failed"]:
        assert kind == "RunnerDiedError"
        assert "ended unexpectedly" in message
        assert "try again" in hint
    assert death["others"] == ["Delta", "Delta"]
    assert death["at_once"] == "Finished"
    assert death["recovered"] == ["Finished"] * 4
    assert death["n_requests"] == [True, True], "the new replica gets its share"


def test_errors_are_the_models_own(found: dict[str, Any]) -> None:
    errors = found["errors"]
    assert errors["too_long"]["kind"] == "ContextLengthError"
    assert errors["too_long"]["data"]["n_ctx"] == 4096
    assert errors["unsendable"]["kind"] == "InvalidRequestError"
    assert errors["embedding"][0] in ("CapabilityError", "InvalidRequestError")
    assert errors["load"] == ["ModelFileError", "model file missing.gguf does not exist"]


def test_closed_runner_leaves_no_replica(found: dict[str, Any]) -> None:
    assert found["alive"] is False  # and the program has waited until their processes were gone
    assert found["after_close"]["kind"] == "RunnerError"


def test_nothing_survives_a_killed_server(program: Program) -> None:
    left = psutil.Process(program.process.pid).children(recursive=True)
    assert sum("ServeReplica" in name_of(process) or "raylet" in name_of(process) for process in left) > 0
    program.process.kill()
    program.process.wait(END_S)
    # Two agents of Ray's, which hold no model, take a minute or two to see that the rest is gone.
    assert survivors([process for process in left if "Agent" not in name_of(process)]) == []


def survivors(processes: list[psutil.Process]) -> list[str]:
    """Those that still run after the deadline. One that nobody has reaped yet does not."""
    deadline = time.monotonic() + END_S
    while (running := [name for process in processes if (name := name_of(process))]) and time.monotonic() < deadline:
        time.sleep(0.1)
    return running


def name_of(process: psutil.Process) -> str:
    """The command of a process; "" when it has ended."""
    try:
        return "" if process.status() == psutil.STATUS_ZOMBIE else " ".join(process.cmdline()[:3])
    except psutil.NoSuchProcess:
        return ""


async def test_server_answers_over_replicas(model: Path, tmp_path: Path) -> None:
    environment = {
        "DONABE_REPLICAS": "2",
        "DONABE_REPLICA_CPUS": "1",
        "DONABE_CONTEXT_LENGTH": "4096",
        "DONABE_NUM_PARALLEL": "4",
        "DONABE_PREFIX_CACHE_DISK": "0",
    }
    command = (sys.executable, "-m", "donabe", "serve")
    async with (
        started(tmp_path, command=command, start_s=180, **environment) as server,
        httpx.AsyncClient(base_url=server.url, timeout=120) as client,
    ):
        body: dict[str, Any] = {"model": str(model), "prompt": "the name ", "raw": True, "shift": True}
        body["options"] = {"num_predict": 20, "temperature": 0}
        whole = (await client.post("/api/generate", json=body | {"stream": False})).json()
        async with client.stream("POST", "/api/generate", json=body) as response:
            lines = [json.loads(line) async for line in response.aiter_lines()]
        assert whole["response"]
        assert "".join(line["response"] for line in lines) == whole["response"]
        assert len(lines) > 2

        endless = body | {"options": {"num_predict": 100_000, "temperature": 0, "ignore_eos": True}}
        async with client.stream("POST", "/api/generate", json=endless) as response:
            lines_of_answer = response.aiter_lines()  # kept: when it goes, the connection is closed
            await anext(lines_of_answer)
            await until_running(client, 1)
            await lines_of_answer.aclose()
        await until_running(client, 0)

        [shown] = (await client.get("/api/ps")).json()["models"]
        assert shown["context_length"] == 256  # it was trained for so many
        children = psutil.Process(server.process.pid).children(recursive=True)
        assert sum("ServeReplica" in name_of(child) for child in children) == 2
        server.send_signal(signal.SIGTERM)
        await server.ended(END_S)
        assert survivors(children) == []


async def until_running(client: httpx.AsyncClient, n: int) -> None:
    """Wait until the replicas say that they work on so many requests; they may be too busy to say anything."""
    deadline = time.monotonic() + END_S
    while True:
        lines = (await client.get("/metrics")).text.splitlines()
        counts = [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("donabe_running_requests{")]
        if counts == [n]:
            return
        assert time.monotonic() < deadline, f"{counts} and not {n} requests run"
        await asyncio.sleep(0.1)
