"""`donabe serve` as a process of its own over fake runner children: `server_process.py BEHAVIOUR`.

Settings come from the environment, as for the command.

Python programs import `started`, which runs it and waits until it listens.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RUNNER_CHILD = Path(__file__).with_name("runner_child.py")


@dataclass
class ServerProcess:
    """A running server. `log` grows by what it writes."""

    process: asyncio.subprocess.Process
    url: str
    log: list[str] = field(default_factory=list)

    def send_signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self, timeout_s: float = 30.0) -> int:
        """The return code, once it has ended."""
        return await asyncio.wait_for(self.process.wait(), timeout_s)


@asynccontextmanager
async def started(
    home: Path, behaviour: str = "answer", *, command: tuple[str, ...] = (), start_s: float = 60.0, **environment: str
) -> AsyncIterator[ServerProcess]:
    """A server of this process's donabe on a free port; killed at the end if it still runs.

    Args:
        command: Runs instead of this file, without any fake.
        start_s: Until it has to listen.
    """
    path = os.pathsep.join([str(ROOT), str(ROOT / "python"), os.environ.get("PYTHONPATH", "")])
    own = {name: value for name, value in os.environ.items() if not name.startswith(("DONABE_", "OLLAMA_", "OTEL_"))}
    own |= {"PYTHONPATH": path, "DONABE_HOME": str(home), "DONABE_HOST": "127.0.0.1:0", **environment}
    program = command or (sys.executable, __file__, behaviour)
    process = await asyncio.create_subprocess_exec(*program, env=own, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    server = ServerProcess(process, "")
    listening = asyncio.Event()
    reader = asyncio.create_task(_read_log(process.stderr, server, listening))
    try:
        await asyncio.wait_for(listening.wait(), start_s)
        assert server.url, f"the server ended at start: {server.log}"
        yield server
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reader


async def _read_log(stream: asyncio.StreamReader, server: ServerProcess, listening: asyncio.Event) -> None:
    while line := (await stream.readline()).decode():
        server.log.append(line)
        if found := re.search(r"listening on (\S+)", line):
            server.url = found[1]
            listening.set()
    listening.set()


def main() -> None:
    from tests.fakes.server import MODELS
    from tests.fakes.store import FakePull, FakeStore, read_fake_header

    from donabe.runner.admission import Admission
    from donabe.runner.api import ModelRunner
    from donabe.runner.client import RunnerProcess
    from donabe.runner.spare import SpareRunner
    from donabe.server.app import Collaborators
    from donabe.server.main import serve
    from donabe.settings import load_settings
    from donabe.types import LoadOptions, ModelSpec

    command = (sys.executable, str(RUNNER_CHILD), sys.argv[1])
    settings = load_settings()
    spare = SpareRunner(command) if settings.spare_runner else None

    async def start_runner(spec: ModelSpec, options: LoadOptions, *, admission: Admission | None = None) -> ModelRunner:
        return await RunnerProcess.start(spec, options, command=command, spare=spare, admission=admission)

    collaborators = Collaborators(
        store=FakeStore(*MODELS),
        pull=FakePull(),
        read_metadata=read_fake_header,
        start_runner=start_runner,
        spare=spare,
    )
    serve(settings, collaborators)


if __name__ == "__main__":
    main()
