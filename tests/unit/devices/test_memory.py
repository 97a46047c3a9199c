"""Free memory within the limits of control groups, of both versions, in and outside of a container."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from donabe.devices.memory import free_memory_bytes

MB = 1_000_000


def write(root: Path, path: str, text: object) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}\n")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = type("Memory", (), {"available": 5000 * MB})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)


def test_machine_without_groups(tmp_path: Path) -> None:
    assert free_memory_bytes(tmp_path) == 5000 * MB


def test_group_and_its_parents_limit_what_is_free(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/user/service")
    write(tmp_path, "sys/fs/cgroup/user/service/memory.max", "max")
    write(tmp_path, "sys/fs/cgroup/user/service/memory.current", 10 * MB)
    assert free_memory_bytes(tmp_path) == 5000 * MB
    write(tmp_path, "sys/fs/cgroup/user/memory.max", 1000 * MB)
    write(tmp_path, "sys/fs/cgroup/user/memory.current", 700 * MB)
    assert free_memory_bytes(tmp_path) == 300 * MB
    write(tmp_path, "sys/fs/cgroup/user/memory.stat", f"anon {200 * MB}\ninactive_file {500 * MB}")
    assert free_memory_bytes(tmp_path) == 800 * MB  # pages of files make way


def test_group_that_is_mounted_at_the_root_of_a_container(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/../../docker/abc")
    write(tmp_path, "sys/fs/cgroup/memory.max", 400 * MB)
    write(tmp_path, "sys/fs/cgroup/memory.current", 100 * MB)
    assert free_memory_bytes(tmp_path) == 300 * MB


def test_first_version(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "12:cpu,cpuacct:/x\n4:memory:/docker/abc")
    write(tmp_path, "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", 2000 * MB)
    write(tmp_path, "sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes", 1900 * MB)
    write(tmp_path, "sys/fs/cgroup/memory/docker/abc/memory.stat", f"inactive_file 7\ntotal_inactive_file {100 * MB}")
    assert free_memory_bytes(tmp_path) == 200 * MB


@pytest.mark.parametrize("text", ["", "nonsense", "0::", "0::/\udcff"])
def test_what_can_not_be_read_is_no_limit(tmp_path: Path, text: str) -> None:
    path = tmp_path / "proc/self/cgroup"
    path.parent.mkdir(parents=True)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    write(tmp_path, "sys/fs/cgroup/memory.max", "a lot")
    assert free_memory_bytes(tmp_path) == 5000 * MB


def test_limit_that_is_exceeded_leaves_nothing(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/a")
    write(tmp_path, "sys/fs/cgroup/a/memory.max", 100)
    write(tmp_path, "sys/fs/cgroup/a/memory.current", 200)
    assert free_memory_bytes(tmp_path) == 0
