"""What children get and how their end is told."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from donabe.child_process import (
    ChildSocket,
    child_environment,
    describe_exit,
    group_options,
    kill_group,
    python_command,
)

ROOT = Path(__file__).parents[3]
# Answers in capitals until its socket ends; what it was told where the socket is comes last on its command line.
ECHO = """
import sys
from donabe.child_process import socket_from_parent
sock = socket_from_parent(sys.argv[-1])
while data := sock.recv(100):
    sock.sendall(data.upper())
"""


@pytest.mark.parametrize(
    ("returncode", "text"),
    [
        (None, ""),
        (0, "exit 0"),
        (3, "exit 3"),
        (-9, "signal 9 (SIGKILL)"),
        (-250, "signal 250"),
        (0xC0000005, "exit 0xC0000005"),
    ],
)
def test_end_is_told_in_words(returncode: int | None, text: str) -> None:
    assert describe_exit(returncode) == text


def test_child_imports_our_donabe_and_nothing_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "donabe.py").write_text("raise SystemExit('the wrong one')")
    command = [python_command(), "-c", "import donabe; print(donabe.__file__)"]
    done = subprocess.run(
        command, cwd=tmp_path, env=child_environment(), capture_output=True, text=True, timeout=60, check=True
    )
    import donabe

    assert Path(done.stdout.strip()).samefile(donabe.__file__)


def test_search_path_of_the_user_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    assert child_environment()["PYTHONPATH"].split(os.pathsep)[-1] == "/somewhere"


async def test_child_gets_its_end_of_the_socket() -> None:
    link = ChildSocket()
    process = await asyncio.create_subprocess_exec(
        python_command(), "-c", ECHO, *link.arguments, env=child_environment(), **link.options
    )
    await link.deliver(process)
    link.close_theirs()
    reader, writer = await asyncio.open_connection(sock=link.ours)
    writer.write(b"hello")
    assert await asyncio.wait_for(reader.read(100), 30) == b"HELLO"
    writer.close()  # ours was the only other end: the child's one ends with it
    assert await asyncio.wait_for(process.wait(), 30) == 0


def test_whole_group_is_killed(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    script = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
with open({str(told) + ".new"!r}, "w") as file:
    file.write(str(child.pid))
import os
os.rename({str(told) + ".new"!r}, {str(told)!r})
time.sleep(120)
"""
    leader = subprocess.Popen([sys.executable, "-c", script], **group_options())
    deadline = time.monotonic() + 60
    while not told.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    grandchild = psutil.Process(int(told.read_text()))
    kill_group(leader.pid)
    assert describe_exit(leader.wait(timeout=30)).startswith("signal 9" if os.name == "posix" else "exit")
    while grandchild.is_running() and grandchild.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    kill_group(leader.pid)  # gone already: nothing happens


@pytest.mark.skipif(sys.platform != "win32", reason="a virtual environment's python is the real one elsewhere")
def test_child_of_a_virtual_environment_has_the_id_of_the_real_interpreter() -> None:
    process = subprocess.Popen(
        [python_command(), "-c", "import os; print(os.getpid())"], stdout=subprocess.PIPE, env=child_environment()
    )
    output, _ = process.communicate(timeout=60)
    assert int(output) == process.pid


def test_module_is_right_for_windows_too() -> None:
    """Its branches for Windows are only type-checked where Windows is not."""
    pytest.importorskip("mypy")
    module = ROOT / "python" / "donabe" / "child_process.py"
    command = [sys.executable, "-m", "mypy", "--platform", "win32", "--strict", "--follow-imports=silent", str(module)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout
