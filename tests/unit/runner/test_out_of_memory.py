"""Which failed loads are marked as out of memory, and that the mark crosses the process boundary."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.fakes.runner import make_spec

from donabe.errors import ComputeError, DonabeError, LoadError, RunnerDiedError, RunnerStartError
from donabe.runner.client import RunnerProcess
from donabe.runner.endings import Ending
from donabe.runner.failures import error_from, failed_from
from donabe.runner.out_of_memory import out_of_memory_marked
from donabe.types import LoadOptions


def raised(error: Exception) -> DonabeError:
    with pytest.raises(DonabeError) as caught, out_of_memory_marked():
        raise error
    return caught.value


@pytest.mark.parametrize(
    "line",
    [
        "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 9.0 MiB on device 0: cudaMalloc failed: out of memory",
        "ggml_vulkan: Device memory allocation of size 1 failed.\nErrorOutOfDeviceMemory",
        "alloc_tensor_range: failed to allocate CPU buffer of size 549755814656",
        "llama_model_load: error loading model: unable to allocate CUDA0 buffer",
        "mmap failed: Cannot allocate memory",
        "std::bad_alloc",
    ],
)
def test_log_lines_mark_any_native_error(line: str) -> None:
    for error in (LoadError("can't be loaded", log_tail=(line,)), ComputeError("failed", log_tail=("x", line))):
        found = raised(error)
        assert isinstance(found, LoadError)
        assert found.is_out_of_memory
        assert "num_ctx" in (found.hint or "")
        assert found.log_tail == error.log_tail


def test_bad_alloc_is_an_error_of_memory() -> None:
    assert raised(MemoryError()).is_out_of_memory


def test_other_errors_stay_as_they_are() -> None:
    error = ComputeError("the backend failed", log_tail=("invalid magic", "failed to open"))
    assert raised(error) is error
    assert not error.is_out_of_memory
    assert not DonabeError("x").is_out_of_memory


@pytest.mark.parametrize("cls", [LoadError, RunnerStartError])
def test_mark_crosses_the_boundary(cls: type[DonabeError]) -> None:
    marked = cls("no", is_out_of_memory=True)  # type: ignore[call-arg]
    assert error_from(failed_from(marked)).is_out_of_memory
    plain = failed_from(cls("no"))
    assert "is_out_of_memory" not in plain.data
    assert not error_from(plain).is_out_of_memory


def ending(**changes: object) -> Ending:
    values = {"exit_reason": "exit 1", "kill_reason": "", "reported": None, "log_tail": (), "is_loading": True}
    return Ending(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "is_marked"),
    [
        ({}, False),
        ({"exit_reason": "signal 9 (SIGKILL)"}, True),
        ({"exit_reason": "signal 9 (SIGKILL)", "kill_reason": "deadline"}, False),
        ({"exit_reason": "signal 6 (SIGABRT)", "log_tail": ("ggml_abort: failed to allocate buffer",)}, True),
        ({"exit_reason": "signal 6 (SIGABRT)", "log_tail": ("GGML_ASSERT(x) failed",)}, False),
    ],
)
def test_ends_of_a_loading_process(changes: dict[str, object], is_marked: bool) -> None:
    error = ending(**changes).error()
    assert isinstance(error, RunnerStartError)
    assert error.is_out_of_memory == is_marked


def test_end_of_a_running_process_is_no_failed_load() -> None:
    error = ending(exit_reason="signal 9 (SIGKILL)", is_loading=False).error()
    assert isinstance(error, RunnerDiedError)
    assert error.hint == "the system may be out of memory"


async def test_killed_child_is_marked() -> None:
    program = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(RunnerStartError) as caught:
        await RunnerProcess.start(make_spec(), LoadOptions(), command=(sys.executable, "-c", program))
    assert caught.value.is_out_of_memory


def test_texts_are_in_one_place() -> None:
    package = Path(__file__).parents[3] / "python" / "donabe"
    users = [path.name for path in package.rglob("*.py") if '"cudamalloc failed"' in path.read_text().lower()]
    assert users == ["out_of_memory.py"]
