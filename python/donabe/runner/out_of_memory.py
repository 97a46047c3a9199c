"""Whether a failed load failed for lack of memory: the one place that decides it, and marks the error.

llama.cpp reports a failed allocation only in its log. Only C++'s own `bad_alloc` arrives with a type, as MemoryError.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from donabe.errors import LoadError, NativeError
from donabe.runner.plans import CPU, MemoryPlan

# As drivers, ggml and llama.cpp say it, lower case.
_TEXTS = (
    "out of memory",
    "out of device memory",
    "out of host memory",
    "outofmemory",
    "cudamalloc failed",
    "hipmalloc failed",
    "failed to allocate",
    "unable to allocate",
    "cannot allocate memory",
    "allocation failed",
    "bad_alloc",
    "not enough memory",
    "insufficient memory",
    "vk_error_out_of_device_memory",
    "erroroutofdevicememory",
)
SMALLER_HINT = "use a smaller context (num_ctx), fewer requests at once (num_parallel) or a smaller model"


def says_out_of_memory(lines: Iterable[str]) -> bool:
    """Whether one of these lines of a log or error tells of a failed allocation."""
    return any(text in line.lower() for line in lines for text in _TEXTS)


def require_memory(name: str, plan: MemoryPlan) -> None:
    """Refuse a load that the system would end, or that would end others.

    Raises:
        LoadError: Its caches and buffers alone need more memory than there is.
    """
    if plan.exceeds_memory:
        needed, free = next((plan.taken_bytes(part), part.free_bytes) for part in plan.devices if part.name == CPU)
        raise LoadError(
            f"{name} would take {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free",
            hint=SMALLER_HINT,
            is_out_of_memory=True,
        )


@contextmanager
def out_of_memory_marked() -> Iterator[None]:
    """Errors of native code that failed for lack of memory leave the block as a LoadError that is marked so."""
    try:
        yield
    except MemoryError as error:
        raise LoadError("not enough memory for the model", hint=SMALLER_HINT, is_out_of_memory=True) from error
    except NativeError as error:
        if not says_out_of_memory((error.message, *error.log_tail)):
            raise
        raise LoadError(error.message, hint=SMALLER_HINT, log_tail=error.log_tail, is_out_of_memory=True) from error
