"""Quantises a model file in a child process: progress as it goes, cancelled by closing the iterator.

A malformed file or a native abort ends the child, not the server. Runs on the caller's asyncio loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from donabe.child_process import child_environment, describe_exit, group_options, kill_group, python_command
from donabe.errors import LoadError

CHILD_COMMAND = (python_command(), "-m", "donabe.convert.child")
STALL_S = 1800.0  # one tensor of a very large model takes minutes
_MAX_LINE_BYTES = 1 << 20
_N_TAIL_LINES = 20


@dataclass(frozen=True, slots=True)
class QuantizeJob:
    """What to make. Paths are absolute; `tensor_types` are (regular expression, type) pairs."""

    source: Path
    target: Path
    ftype: str
    tensor_types: tuple[tuple[str, str], ...] = ()
    n_threads: int = 0  # 0 = all physical cores


async def quantize(
    job: QuantizeJob, *, command: Sequence[str] = CHILD_COMMAND
) -> AsyncGenerator[tuple[int, int], None]:
    """Run a job to its end; yields (tensors done, tensors in all).

    Raises:
        LoadError: the file can't be quantised, or the child died; the native log's tail is attached.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=child_environment(),
        limit=_MAX_LINE_BYTES,
        **group_options(),
    )
    tail: deque[str] = deque(maxlen=_N_TAIL_LINES)
    errors = asyncio.ensure_future(_keep_tail(process, tail))
    is_done = False
    try:
        await _send_job(process, job)
        async for message in _messages(process):
            if "error" in message:
                raise LoadError(str(message["error"]), log_tail=tuple(map(str, message.get("log") or ())))
            if message.get("result") == "ok":
                is_done = True
                break
            yield int(message["done"]), int(message["total"])
        await process.wait()
        if not is_done:
            raise LoadError(f"quantizing ended early ({describe_exit(process.returncode)})", log_tail=tuple(tail))
    finally:
        if process.returncode is None:
            kill_group(process.pid)
            await process.wait()
        await asyncio.wait({errors}, timeout=1.0)
        errors.cancel()
        if process.stdin is not None:
            process.stdin.close()
        if not is_done:
            job.target.unlink(missing_ok=True)


async def _send_job(process: asyncio.subprocess.Process, job: QuantizeJob) -> None:
    """Write the job; the pipe stays open, because its end tells the child that we are gone."""
    request = {
        "source": str(job.source),
        "target": str(job.target),
        "ftype": job.ftype,
        "tensor_types": job.tensor_types,
        "n_threads": job.n_threads,
    }
    assert process.stdin is not None  # asked for a pipe
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died at once: its end says why
        process.stdin.write(json.dumps(request).encode() + b"\n")
        await process.stdin.drain()


async def _messages(process: asyncio.subprocess.Process) -> AsyncIterator[dict[str, Any]]:
    assert process.stdout is not None  # asked for a pipe
    while True:
        try:
            line = await asyncio.wait_for(process.stdout.readline(), STALL_S)
        except asyncio.TimeoutError:
            raise LoadError(f"quantizing made no progress for {STALL_S:.0f} s") from None
        if not line:
            return
        message = json.loads(line)
        if isinstance(message, dict):
            yield message


async def _keep_tail(process: asyncio.subprocess.Process, tail: deque[str]) -> None:
    assert process.stderr is not None  # asked for a pipe
    while line := await process.stderr.readline():
        tail.append(line.decode("utf-8", "replace").rstrip())
