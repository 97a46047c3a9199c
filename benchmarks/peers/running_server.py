"""Any server with Ollama's API that runs already, given by its URL. Its model is `--peer-model`."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.load import BenchmarkError, Target
from benchmarks.peers.base import Setup


class RunningServer:
    """A server that is neither started nor stopped here, so nothing of its processes is measured."""

    can_restart = False

    def __init__(self, url: str, model: str) -> None:
        self.name = urlsplit(url).netloc
        self._url = url.rstrip("/")
        self._model = model

    def prepare(self) -> None:
        if not self._model:
            raise BenchmarkError(f"--peer {self._url} needs --peer-model NAME, the same model under that server's name")
        self._get("/api/version")

    def version(self) -> str:
        return str(self._get("/api/version").get("version", "unknown"))

    def _get(self, path: str) -> dict[str, object]:
        try:
            with urllib.request.urlopen(self._url + path, timeout=5) as reply:
                found: dict[str, object] = json.load(reply)
        except (urllib.error.URLError, OSError, ValueError) as error:
            raise BenchmarkError(f"no server with Ollama's API answers at {self._url}: {error}") from error
        return found

    @contextmanager
    def start(self, model: Path, setup: Setup) -> Iterator[Target]:
        yield Target(self.name, self._url, self._model, "native", ignores_eos=False)
