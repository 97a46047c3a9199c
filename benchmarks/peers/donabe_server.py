"""donabe's own server, with a folder of its own so that no setting or cache of the user's takes part."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.load import Target
from benchmarks.peers.base import Setup, free_port, running

FACTS = {
    "steps": "donabe_engine_steps_total",
    "forks": "donabe_prefix_forks_total",
    "preempted": "donabe_preemptions_total",
    "step ms": "donabe_engine_step_seconds_total",
    "python ms": "donabe_engine_python_seconds_total",  # of these, outside native code
}


class DonabeServer:
    """`donabe serve` of the Python that runs the benchmark."""

    name = "donabe"
    can_restart = True

    def prepare(self) -> None:
        """Nothing: without donabe the benchmark itself would not run."""

    def version(self) -> str:
        from donabe import _core

        return str(_core.__version__)

    @contextmanager
    def start(self, model: Path, setup: Setup) -> Iterator[Target]:
        url = f"http://127.0.0.1:{free_port()}"
        with tempfile.TemporaryDirectory() as scratch:
            env = {
                "DONABE_HOST": url,
                "DONABE_HOME": str(setup.home or scratch),
                "DONABE_NUM_PARALLEL": str(setup.n_parallel),
                "DONABE_CONTEXT_LENGTH": str(setup.n_ctx // setup.n_parallel),
                "DONABE_KEEP_ALIVE": "-1",
            }
            if setup.home is None:
                env["DONABE_PREFIX_CACHE_DISK"] = "0"
            if setup.cache_ram:
                env["DONABE_PREFIX_CACHE_RAM"] = setup.cache_ram
            with running([sys.executable, "-m", "donabe", "serve"], f"{url}/", env) as process:
                yield Target(
                    self.name, url, str(model), "native", pid=process.pid, metrics=FACTS, guesses=setup.guesses
                )
