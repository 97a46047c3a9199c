"""Times small requests from a process of its own, so that the load generator's loop and lock are not measured."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from types import TracebackType

INTERVAL_S = 0.1


class Probe:
    """`GET /api/version` ten times a second while the block runs.

    Args:
        base_url: The server.
    """

    def __init__(self, base_url: str) -> None:
        self._url = f"{base_url}/api/version"
        self._process: subprocess.Popen[str] | None = None
        self.seconds: list[float] = []

    def __enter__(self) -> Probe:
        command = [sys.executable, "-m", "benchmarks.responsiveness", self._url]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process is not None
        self._process.terminate()
        output, _ = self._process.communicate(timeout=30)
        self.seconds = [float(line) for line in output.splitlines()]

    def quantile_s(self, share: float) -> float:
        """The time that this share of the requests took at most; infinite when none was answered."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("inf")


def main() -> None:
    while True:
        started = time.perf_counter()
        with urllib.request.urlopen(sys.argv[1], timeout=30) as reply:
            reply.read()
        print(time.perf_counter() - started, flush=True)
        time.sleep(INTERVAL_S)


if __name__ == "__main__":
    main()
