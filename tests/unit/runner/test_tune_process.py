"""The child that measures for an idle server: what it is told, what its answers mean, how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest
from tests.fakes.runner import make_spec

from donabe.runner.tune_process import TuneOutcome, measure_in_child
from donabe.types import LoadOptions

SPEC = make_spec("A")
RESULT = {"setup": "3 threads", "gain": 0.123}


async def run(program: str, options: LoadOptions | None = None, **changes: object) -> TuneOutcome:
    command = (sys.executable, "-c", f"import json, os, sys, time\n{program}")
    return await measure_in_child(SPEC, options or LoadOptions(), home="/home", command=command, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lines", "outcome"),
    [
        ([{"fraction": 0.5}, {"result": RESULT}], TuneOutcome("measured", "3 threads (+12%)")),
        ([{"result": {"skipped": "stored"}}], TuneOutcome("stored")),
        ([{"result": {"skipped": "busy"}}], TuneOutcome("busy")),
        ([{"error": "no such model", "hint": ""}], TuneOutcome("failed", "no such model")),
        ([{"fraction": 0.5}], TuneOutcome("failed", "the process ended early: exit 3")),
    ],
)
async def test_answers(lines, outcome):
    text = "\n".join(map(json.dumps, lines))
    assert await run(f"print({text!r}, flush=True); sys.exit(3)") == outcome


async def test_child_is_told_the_devices_and_no_other_option(tmp_path: Path):
    asked = tmp_path / "asked"
    options = LoadOptions(n_ctx=99, n_gpu_layers=3, backend="cpu", auto_tune="idle", use_mlock=True)
    await run(f"open({str(asked)!r}, 'w').write(sys.stdin.readline())", options, budget_s=7.0)
    request = json.loads(asked.read_text())
    assert request["options"] == {"n_gpu_layers": 3, "backend": "cpu"}
    assert (request["seconds"], request["home"], request["is_background"]) == (7.0, "/home", True)
    assert request["spec"]["name"] == "A"


async def test_program_that_does_not_start_is_a_failure():
    outcome = await measure_in_child(SPEC, LoadOptions(), home="/", command=("/nonexistent",))
    assert (outcome.kind, "can't start" in outcome.text) == ("failed", True)


async def test_child_that_takes_too_long_is_ended():
    assert await run("time.sleep(60)", deadline_s=0.3) == TuneOutcome("failed", "no result within 0.3 s")


async def test_cancelling_ends_the_child_before_it_returns(tmp_path: Path):
    seen = tmp_path / "pid"
    os.mkfifo(seen)  # opening it waits for the child
    program = f"with open({str(seen)!r}, 'w') as out: out.write(str(os.getpid()))\ntime.sleep(60)"
    task = asyncio.create_task(run(program))
    pid = int(await asyncio.wait_for(asyncio.to_thread(seen.read_text), 20))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
