"""Runs the child processes in which commands ask the native part: a crash there ends the child and not the command.

One JSON object goes to the child's stdin, one comes back from its stdout.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from donabe.child_process import child_environment, describe_exit, python_command
from donabe.errors import RunnerDiedError, RunnerError
from donabe.types import JsonObject

if TYPE_CHECKING:
    from donabe.settings import Settings


def device_options(settings: Settings, stored: Mapping[str, Any]) -> JsonObject:
    """Load options that say where a model goes, as the server would have them: the settings, and over them the model's
    stored parameters."""
    n_layers, main_gpu = stored.get("num_gpu"), stored.get("main_gpu")
    return {
        "backend": settings.backend,
        "devices": settings.devices,
        "n_gpu_layers": n_layers if n_layers is not None and n_layers >= 0 else settings.gpu_layers,
        "n_cpu_moe": settings.cpu_moe,
        "main_gpu": settings.main_gpu if main_gpu is None else main_gpu,
        "tensor_split": settings.tensor_split,
        "rpc": settings.rpc,
    }


def ask_child(module: str, request: JsonObject, *, timeout_s: float) -> JsonObject:
    """The answer of `python -m module`.

    Raises:
        RunnerError: What the child reported.
        RunnerDiedError: It ended without an answer, or not in time.
    """
    try:
        done = subprocess.run(
            [python_command(), "-m", module],
            input=json.dumps(request),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            check=False,
            env=child_environment(),
        )
        answer: Any = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise RunnerDiedError(f"no answer after {timeout_s:g} s", exit_reason="timeout") from None
    except ValueError:
        tail = done.stderr.strip().splitlines()
        reason = describe_exit(done.returncode)
        raise RunnerDiedError(f"the child process failed: {tail[-1] if tail else reason}", exit_reason=reason) from None
    if "error" in answer:
        raise RunnerError(str(answer["error"]), hint=str(answer.get("hint", "")) or None)
    return dict(answer)
