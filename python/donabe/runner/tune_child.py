"""The child process of `donabe tune`: `python -m donabe.runner.tune_child`.

Reads one JSON object from stdin: `home`, and `spec` (a ModelSpec) with `options` (LoadOptions, as far as they choose
devices) and `seconds`, or `forget` (a model's name, or null for all). Writes JSON lines to stdout: `{"fraction",
"setup", "decode", "batch", "prefill"}` after each measurement, at the end `{"result": ...}` or `{"error", "hint"}`.
Ends with its parent. A native abort ends this process alone.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec

from donabe.engine.tuning import Progress
from donabe.errors import DonabeError
from donabe.runner.load import check_options, model_loader
from donabe.runner.tune import forget, tune_model
from donabe.types import LoadOptions, ModelSpec


class _Request(msgspec.Struct, kw_only=True):
    home: str
    spec: ModelSpec | None = None
    options: LoadOptions = LoadOptions()
    seconds: float = 0.0
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
    tuned = tune_model(spec, options, model_loader(spec, options), budget_s=request.seconds, report=_report)
    return {
        "chosen": tuned.chosen,
        "default": tuned.default,
        "setup": tuned.chosen.setup.describe(),
        "gain": tuned.gain,
        "was_cut_short": tuned.was_cut_short,
    }


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
