"""The operating-system side of a runner child: spawn with one end of a socket pair, watch, explain its end, kill.

The child is spawned, never forked (forking a process with native threads is undefined), leads its own session, and
notices its parent's death because the socket closes. Runs on the parent's asyncio loop; knows no messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Sequence

from donabe.child_process import (
    ChildSocket,
    child_environment,
    describe_exit,
    group_options,
    kill_group,
    python_command,
)
from donabe.errors import RunnerStartError
from donabe.runner.log_format import parse_line

logger = logging.getLogger("donabe.runner")

CHILD_COMMAND = (python_command(), "-m", "donabe.runner.child")
N_TAIL_LINES = 40
_STREAM_LIMIT_BYTES = 1 << 20


class ChildProcess:
    """A spawned child and the socket to it."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.output_tail: deque[str] = deque(maxlen=N_TAIL_LINES)  # stdout and stderr: tracebacks, native aborts
        self._process = process
        self._output_task = asyncio.ensure_future(self._read_output())

    @classmethod
    async def spawn(cls, command: Sequence[str] = CHILD_COMMAND) -> ChildProcess:
        """Start `command --fd N`. Cancelling this call ends what was started.

        Raises:
            RunnerStartError: The program could not be started.
        """
        starting = asyncio.ensure_future(cls._spawn(command))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            # A start can't be undone halfway: between its steps nobody would own the process.
            with contextlib.suppress(RunnerStartError):
                await (await starting).dispose()
            raise

    @classmethod
    async def _spawn(cls, command: Sequence[str]) -> ChildProcess:
        try:
            link = ChildSocket()
        except OSError as error:  # no file descriptors left
            raise RunnerStartError(f"can't start a runner process: {error.strerror or error}") from error
        try:
            process = await asyncio.create_subprocess_exec(
                command[0],
                *command[1:],
                *link.arguments,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=child_environment(),
                **link.options,
                **group_options(),
            )
            await link.deliver(process)
        except OSError as error:
            link.ours.close()
            raise RunnerStartError(f"can't start a runner process: {error.strerror or error}") from error
        finally:
            link.close_theirs()
        link.ours.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=link.ours, limit=_STREAM_LIMIT_BYTES)
        return cls(process, reader, writer)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    @property
    def exit_reason(self) -> str:
        """`exit 1`, `signal 9 (SIGKILL)`, or "" while it runs."""
        return describe_exit(self._process.returncode)

    def kill(self) -> None:
        """End the child and whatever it started, at once."""
        if self.running:
            kill_group(self._process.pid)

    async def wait(self, timeout_s: float) -> bool:
        """Whether the process ended within this time."""
        try:
            await asyncio.wait_for(asyncio.shield(self._process.wait()), timeout_s)
        except asyncio.TimeoutError:
            return False
        return True

    async def dispose(self) -> None:
        """Kill if needed, reap, and close the pipes."""
        self.kill()
        await self._process.wait()
        with contextlib.suppress(asyncio.TimeoutError):
            # A grandchild that left the session could hold the pipe open: don't wait for it.
            await asyncio.wait_for(asyncio.shield(self._output_task), 1.0)
        self._output_task.cancel()
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    async def _read_output(self) -> None:
        assert self._process.stdout is not None  # asked for a pipe
        while True:
            try:
                line = await self._process.stdout.readline()
            except ValueError:  # a line over the stream's limit: asyncio has dropped it
                continue
            if not line:
                return
            text = line.decode("utf-8", "replace").rstrip()
            level, request_id, said = parse_line(text)
            if level is None or level > logging.INFO:  # what is only told is not a reason for its end
                self.output_tail.append(said)
            extra = {"request_id": request_id}
            logger.log(level or logging.INFO, "runner %d: %s", self._process.pid, said, extra=extra)
