"""The module itself: errors, build facts, devices, logs, the stub."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import donabe.errors
from donabe import _core
from donabe.errors import InvalidArgumentError, LoadError, NativeError

REPOSITORY = Path(__file__).resolve().parents[2]


def test_error_codes_and_python_classes_are_the_same_set() -> None:
    classes = {
        name
        for name, value in vars(donabe.errors).items()
        if isinstance(value, type) and issubclass(value, NativeError) and value is not NativeError
    }
    assert set(_core._error_codes()) == classes
    assert sorted(_core._error_codes().values()) == list(range(len(classes)))


def test_native_errors_are_also_value_errors_where_the_tree_says_so() -> None:
    with pytest.raises(ValueError, match="capacity") as caught:
        _core.Batch(0)
    assert isinstance(caught.value, NativeError)


def test_refusals_of_our_own_do_not_carry_older_log_lines(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"junk" * 10)
    with pytest.raises(LoadError) as caught:
        _core.Model(str(tmp_path / "bad.gguf"))
    assert caught.value.log_tail
    with pytest.raises(InvalidArgumentError) as refused:
        _core.Batch(0)
    assert refused.value.log_tail == ()


def test_build_info_tells_what_was_built() -> None:
    info = _core.build_info()
    declared = re.search(r'^version = "(.+)"$', (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
    assert declared is not None
    assert info["version"] == _core.__version__ == declared[1]
    assert set(info) == {
        "version",
        "build_id",
        "llama_version",
        "ggml_version",
        "ggml_commit",
        "compiler",
        "backend_dl",
        "asserts",
        "cpu_variant",
        "rpc_protocol",
    }
    assert len(info["build_id"]) == 16


def test_init_is_idempotent_and_lists_a_cpu() -> None:
    first, second = _core.init(), _core.init()
    assert [d.name for d in first] == [d.name for d in second] == [d.name for d in _core.devices()]
    cpu = next(d for d in first if d.kind == "cpu")
    assert cpu.memory_total_bytes >= cpu.memory_free_bytes > 0
    assert cpu.backend == "CPU"
    assert "CPU" in _core.system_info()


def test_init_takes_absolute_paths_only(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="absolute"):
        _core.init(plugins=["libevil.so"])
    fake = tmp_path / "libggml-fake.so"
    fake.write_bytes(b"not a library")
    with pytest.raises(LoadError, match=r"libggml-fake\.so"):
        _core.init(plugins=[str(fake)])


def test_thread_count_follows_the_affinity_mask() -> None:
    assert 1 <= _core.n_physical_cores() <= len(os.sched_getaffinity(0))
    pin = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])"
    script = f"{pin}; from donabe import _core; print(_core.n_physical_cores())"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=30)
    assert done.stdout.strip() == b"1"


def test_logs_are_drained_once_and_filtered_by_level(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"junk" * 10)
    _core.drain_logs(10**6)
    with pytest.raises(LoadError):
        _core.Model(str(tmp_path / "bad.gguf"))
    first, rest = _core.drain_logs(1), _core.drain_logs()
    assert len(first) == 1
    assert any(level == 4 and "bad.gguf" in line for level, line in rest)
    assert _core.drain_logs() == []
    _core.set_log_level(5)
    try:
        with pytest.raises(LoadError) as caught:
            _core.Model(str(tmp_path / "bad.gguf"))
        assert _core.drain_logs() == []
        assert caught.value.log_tail, "the tail does not depend on the level"
    finally:
        _core.set_log_level(2)
    with pytest.raises(InvalidArgumentError):
        _core.set_log_level(0)


def test_nothing_is_printed_by_a_failing_load(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"junk" * 10)
    script = f"""
from donabe import _core
try:
    _core.Model({str(tmp_path / "bad.gguf")!r})
except Exception:
    pass
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=30)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_abort_leaves_a_report(tmp_path: Path, tiny_model: Callable[[str], str]) -> None:
    """A file with a layer count no model has: one of the assertions that only the file's validator can prevent."""
    report = tmp_path / "report.txt"
    script = f"""
from donabe import _core
_core.set_abort_callback_report({str(report)!r})
_core.Model({tiny_model("llama")!r}, _core.ModelParams(kv_overrides={{"llama.block_count": 100000}}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=30, check=False)
    assert done.returncode == -signal.SIGABRT
    assert "LLAMA_MAX_LAYERS" in report.read_text()
    assert b"LLAMA_MAX_LAYERS" in done.stderr


def test_max_sequences_bounds_n_seq_max() -> None:
    assert _core.max_sequences() == 256


def test_stub_matches_the_module() -> None:
    allowed = REPOSITORY / "tests" / "native" / "stubtest-allow.txt"
    command = [sys.executable, "-m", "mypy.stubtest", "donabe._core", "--concise", "--allowlist", str(allowed)]
    command.append("--ignore-unused-allowlist")
    environment = os.environ | {"MYPYPATH": str(REPOSITORY / "python")}
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()


def test_classes_of_the_stub_exist_and_are_final() -> None:
    stub = ast.parse((REPOSITORY / "python" / "donabe" / "_core.pyi").read_text())
    names = {node.name for node in stub.body if isinstance(node, ast.ClassDef)}
    assert names == {name for name, value in vars(_core).items() if isinstance(value, type)}
    for name in names:
        with pytest.raises(TypeError, match="not an acceptable base type"):
            type("Sub", (getattr(_core, name),), {})


def test_a_cpu_variant_is_only_named_where_there_are_variants() -> None:
    code = "from donabe import _core; _core.init()"
    environment = os.environ | {"DONABE_CPU_VARIANT": "riscv128"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    expected = (
        "no CPU variant 'riscv128'" if _core.build_info()["backend_dl"] else "this build of donabe has no CPU variants"
    )
    assert expected in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit of open files")
def test_folder_of_backends_that_can_not_be_read_is_a_load_error(tmp_path: Path) -> None:
    script = f"""
import os, resource
from donabe import _core
from donabe.errors import LoadError
free = os.open(os.devnull, os.O_RDONLY)
os.close(free)
resource.setrlimit(resource.RLIMIT_NOFILE, (free, free))
try:
    _core.init(backend_dir={str(tmp_path)!r})
except LoadError as error:
    assert "can't be read" in error.message, error.message
    assert "limit of open files" in error.hint, error.hint
else:
    raise SystemExit("nothing was raised")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
