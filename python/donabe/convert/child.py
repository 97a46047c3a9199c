"""The child process of one quantisation: `python -m donabe.convert.child`.

Reads one JSON object from stdin (source, target, ftype, tensor_types, n_threads), writes JSON lines to stdout: progress
as `{"done": n, "total": m}`, at the end `{"result": "ok"}` or `{"error": text, "log": [...]}`. Nothing else goes to
stdout.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import threading
from typing import Any

from donabe.errors import DonabeError, NativeError

_POLL_S = 0.1
_TENSOR_LINE = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")  # "[  12/ 273]  blk.0.attn_k.weight - ..."
_NICENESS = 5  # answering requests goes before converting


def main() -> int:
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    with contextlib.suppress(OSError, AttributeError):
        os.nice(_NICENESS)
    try:
        _quantize(request)
    except NativeError as error:
        _send({"error": error.message, "log": list(error.log_tail)})
        return 1
    except (DonabeError, OSError, MemoryError) as error:
        _send({"error": str(error) or type(error).__name__, "log": []})
        return 1
    _send({"result": "ok"})
    return 0


def _exit_with_parent() -> None:
    """The parent holds the other end of stdin until it has our result or is gone."""
    sys.stdin.read()
    os._exit(1)


def _quantize(request: dict[str, Any]) -> None:
    from donabe import _core

    _core.init()
    params = _core.QuantizeParams(
        ftype=request["ftype"],
        n_threads=request["n_threads"],
        tensor_types=[(pattern, kind) for pattern, kind in request["tensor_types"]],
        allow_requantize=True,
    )
    stop = threading.Event()
    reporter = threading.Thread(target=_report, args=(stop,), daemon=True)
    reporter.start()
    try:
        _core.quantize(request["source"], request["target"], params)
    finally:
        stop.set()
        reporter.join()


def _report(stop: threading.Event) -> None:
    """Turn the native log's tensor lines into progress until told to stop."""
    from donabe import _core

    last = None
    while True:
        is_over = stop.wait(_POLL_S)
        for _level, line in _core.drain_logs():
            match = _TENSOR_LINE.search(line)
            if match:
                last = {"done": int(match[1]), "total": int(match[2])}
        if last is not None:
            _send(last)
            last = None
        if is_over:
            return


def _send(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
