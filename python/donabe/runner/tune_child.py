"""The child process of `donabe tune`: `python -m donabe.runner.tune_child`.

Reads one JSON object from stdin: `home`, and `spec` (a ModelSpec) with `options` (LoadOptions, as far as they choose
devices) and `seconds`, or `forget` (a model's name, or null for all). With `is_background` nobody waits for the result:
the process gives way to all others, and where a result is stored or the machine busy, the answer is `{"result":
{"skipped": "stored" or "busy"}}`. Writes JSON lines to stdout: `{"fraction",
"setup", "decode", "batch", "prefill"}` after each measurement, at the end `{"result": ...}` or `{"error", "hint"}`.
Ends with its parent. A native abort ends this process alone.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec

from donabe.engine.tuning import Progress
from donabe.errors import DonabeError
from donabe.runner.load import check_options, model_loader
from donabe.runner.placement import name_devices
from donabe.runner.tune import forget, reason_to_wait, tune_model
from donabe.types import LoadOptions, ModelSpec


class _Request(msgspec.Struct, kw_only=True):
    home: str
    spec: ModelSpec | None = None
    options: LoadOptions = LoadOptions()
    seconds: float = 0.0
    is_background: bool = False
    forget: str | None = None


def main() -> int:
    request = msgspec.json.decode(sys.stdin.readline(), type=_Request)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        _send({"result": _run(request)})
    except DonabeError as error:
        _send({"error": error.message, "hint": error.hint or ""})
        return 1
    except (OSError, MemoryError) as error:
        _send({"error": str(error) or "out of memory", "hint": ""})
        return 1
    return 0


def _run(request: _Request) -> Any:
    if request.spec is None:
        return forget(Path(request.home), request.forget)
    spec = request.spec
    options = msgspec.structs.replace(request.options, prefix_cache_home=request.home)
    check_options(options)
    if request.is_background:
        _step_back()
        reason = reason_to_wait(spec, name_devices(options))
        if reason:
            return {"skipped": reason}
    tuned = tune_model(spec, options, model_loader(spec, options), budget_s=request.seconds, report=_report)
    return {
        "chosen": tuned.chosen,
        "default": tuned.default,
        "setup": tuned.chosen.setup.describe(),
        "gain": tuned.gain,
        "was_cut_short": tuned.was_cut_short,
    }


def _step_back() -> None:
    """Others' work comes first, and when memory is short this process goes first. Where the system has such means."""
    if hasattr(os, "nice"):
        os.nice(19)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _report(progress: Progress) -> None:
    speed = msgspec.structs.asdict(progress.measurement.speed)
    _send({"fraction": progress.fraction, "setup": progress.measurement.setup.describe(), **speed})


def _send(value: dict[str, Any]) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.buffer.flush()


def _exit_with_parent() -> None:
    """The parent holds the other end of stdin until it has our result or is gone."""
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
