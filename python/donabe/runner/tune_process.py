"""Measuring a model in a child of its own, for a server that has nothing else to do. Runs on the server's event loop.

The child (`tune_child`) has the lowest priority, is the first to go when memory is short, and ends with its parent.
Cancelling the call ends it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from donabe.child_process import child_environment, describe_exit, group_options, kill_group, python_command
from donabe.types import LoadOptions, ModelSpec

CHILD_COMMAND = (python_command(), "-m", "donabe.runner.tune_child")
BUDGET_S = 60.0  # no new measurement is begun after it
DEADLINE_S = 300.0  # loading a large model counts too
_LINE_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class TuneOutcome:
    """What became of an attempt.

    Attributes:
        kind: `measured` now, `stored` before, the machine was `busy`, or it `failed`.
        text: The settings found with their gain, or why it failed.
    """

    kind: Literal["measured", "stored", "busy", "failed"]
    text: str = ""


async def measure_in_child(
    spec: ModelSpec,
    options: LoadOptions,
    *,
    home: str,
    budget_s: float = BUDGET_S,
    deadline_s: float = DEADLINE_S,
    command: Sequence[str] = CHILD_COMMAND,
) -> TuneOutcome:
    """Measure the model with the devices of these options, unless that was done before or the machine is busy.

    Args:
        home: Folder of the results.
        command: The program to run.
    """
    request = {
        "home": home,
        "spec": spec,
        "options": _of_devices(options),
        "seconds": budget_s,
        "is_background": True,
    }
    try:
        process = await asyncio.create_subprocess_exec(
            command[0],
            *command[1:],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=child_environment(),
            limit=_LINE_LIMIT_BYTES,
            **group_options(),
        )
    except OSError as error:
        return TuneOutcome("failed", f"can't start a process: {error.strerror or error}")
    try:
        return await asyncio.wait_for(_converse(process, msgspec.json.encode(request)), deadline_s)
    except asyncio.TimeoutError:
        return TuneOutcome("failed", f"no result within {deadline_s:g} s")
    finally:
        if process.returncode is None:
            kill_group(process.pid)
        await process.wait()


def _of_devices(options: LoadOptions) -> LoadOptions:
    """Of the options those that say where the model goes; the others are what is measured, or change no speed."""
    return LoadOptions(
        backend=options.backend,
        devices=options.devices,
        n_gpu_layers=options.n_gpu_layers,
        n_cpu_moe=options.n_cpu_moe,
        main_gpu=options.main_gpu,
        tensor_split=options.tensor_split,
    )


async def _converse(process: asyncio.subprocess.Process, request: bytes) -> TuneOutcome:
    assert process.stdin is not None and process.stdout is not None  # asked for pipes
    with contextlib.suppress(ConnectionError):  # the child is gone: its end says why
        process.stdin.write(request + b"\n")
        await process.stdin.drain()
    # Its stdin stays open meanwhile: that is how the child knows that we live.
    async for line in process.stdout:
        outcome = _outcome_of(line)
        if outcome is not None:
            return outcome
    await process.wait()
    return TuneOutcome("failed", f"the process ended early: {describe_exit(process.returncode)}")


def _outcome_of(line: bytes) -> TuneOutcome | None:
    """None for a line of progress."""
    message: dict[str, Any] = msgspec.json.decode(line)
    if "error" in message:
        return TuneOutcome("failed", str(message["error"]))
    result = message.get("result")
    if result is None:
        return None
    if result.get("skipped") == "busy":
        return TuneOutcome("busy")
    if result.get("skipped") == "stored":
        return TuneOutcome("stored")
    return TuneOutcome("measured", f"{result['setup']} ({result['gain']:+.0%})")
