"""Free memory within the limits of control groups, of both versions, in and outside of a container."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from donabe.devices.memory import free_memory_bytes, free_swap_bytes, total_memory_bytes

MB = 1_000_000
STAT = f"anon {200 * MB}\ninactive_file {300 * MB}\nactive_file {200 * MB}"
FIRST_STAT = f"inactive_file 7\nactive_file 8\ntotal_inactive_file {60 * MB}\ntotal_active_file {40 * MB}"


def write(root: Path, path: str, text: object) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}\n")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = type("Memory", (), {"available": 5000 * MB, "total": 8000 * MB})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(psutil, "swap_memory", lambda: type("Swap", (), {"free": 3000 * MB}))


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
    write(tmp_path, "sys/fs/cgroup/user/memory.stat", STAT)
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
    write(tmp_path, "sys/fs/cgroup/memory/docker/abc/memory.stat", FIRST_STAT)
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


def test_all_memory_is_that_of_the_smallest_group(tmp_path: Path) -> None:
    assert total_memory_bytes(tmp_path) == 8000 * MB
    write(tmp_path, "proc/self/cgroup", "0::/user/service")
    write(tmp_path, "sys/fs/cgroup/user/service/memory.max", "max")
    assert total_memory_bytes(tmp_path) == 8000 * MB
    write(tmp_path, "sys/fs/cgroup/user/memory.max", 1000 * MB)
    write(tmp_path, "sys/fs/cgroup/memory.max", 2000 * MB)
    assert total_memory_bytes(tmp_path) == 1000 * MB


def test_all_memory_in_the_first_version(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "4:memory:/docker/abc")
    write(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", 9223372036854771712)  # it has no other word for none
    assert total_memory_bytes(tmp_path) == 8000 * MB
    write(tmp_path, "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", 2000 * MB)
    assert total_memory_bytes(tmp_path) == 2000 * MB


def test_swap_of_a_group(tmp_path: Path) -> None:
    assert free_swap_bytes(tmp_path) == 3000 * MB
    write(tmp_path, "proc/self/cgroup", "0::/a/b")
    write(tmp_path, "sys/fs/cgroup/a/b/memory.swap.max", "max")
    write(tmp_path, "sys/fs/cgroup/a/b/memory.swap.current", 10 * MB)
    assert free_swap_bytes(tmp_path) == 3000 * MB
    write(tmp_path, "sys/fs/cgroup/a/memory.swap.max", 200 * MB)
    write(tmp_path, "sys/fs/cgroup/a/memory.swap.current", 50 * MB)
    assert free_swap_bytes(tmp_path) == 150 * MB
    write(tmp_path, "sys/fs/cgroup/a/b/memory.swap.max", 0)
    assert free_swap_bytes(tmp_path) == 0


def test_swap_in_the_first_version(tmp_path: Path) -> None:
    """Which limits memory and swap together."""
    write(tmp_path, "proc/self/cgroup", "4:memory:/x")
    sizes = {"limit_in_bytes": 1000, "usage_in_bytes": 600, "memsw.limit_in_bytes": 1500}
    for name, size in sizes.items():
        write(tmp_path, f"sys/fs/cgroup/memory/x/memory.{name}", size * MB)
    assert free_swap_bytes(tmp_path) == 3000 * MB
    write(tmp_path, "sys/fs/cgroup/memory/x/memory.memsw.usage_in_bytes", 700 * MB)
    assert free_swap_bytes(tmp_path) == 400 * MB
    for name in ("limit_in_bytes", "memsw.limit_in_bytes"):
        write(tmp_path, f"sys/fs/cgroup/memory/x/memory.{name}", 9223372036854771712)
    assert free_swap_bytes(tmp_path) == 3000 * MB
