"""What an RPC worker lends, and how it serves."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from donabe.devices import start
from donabe.devices.rpc_worker import choose_lent, serve_connection
from donabe.errors import InvalidRequestError


class Native:
    def __init__(self, *gpus: str) -> None:
        self.gpus = gpus
        self.served: list[tuple[Any, ...]] = []

    def init(self, **_plugins: Any) -> None: ...

    def build_info(self) -> dict[str, Any]:
        return {"rpc_protocol": "7.0.0", "version": "0", "build_id": "b", "backend_dl": False}

    def devices(self) -> list[Any]:
        def device(name: str, backend: str, kind: str) -> Any:
            return SimpleNamespace(
                name=name,
                backend=backend,
                kind=kind,
                description=f"a {backend}",
                memory_total_bytes=8 * 10**9,
                memory_free_bytes=10**9,
            )

        return [device("CPU", "CPU", "cpu"), *(device(name, name.rstrip("0123456789"), "gpu") for name in self.gpus)]

    def n_physical_cores(self) -> int:
        return 3

    def rpc_serve_connection(self, connection: int, devices: tuple[str, ...], n_threads: int, cache_dir: str) -> None:
        self.served.append((connection, devices, n_threads, cache_dir))

    def rpc_cache_file_is_sound(self, path: str) -> bool:
        return True


@pytest.fixture(autouse=True)
def no_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "find_plugins", lambda build: ([], []))


@pytest.mark.parametrize(
    ("gpus", "backend", "names", "expected"),
    [
        ((), None, [], ("CPU",)),
        (("CUDA0", "CUDA1"), None, [], ("CUDA0", "CUDA1")),
        (("CUDA0", "Vulkan0"), None, [], ("CUDA0",)),
        (("CUDA0", "Vulkan0"), "vulkan", [], ("Vulkan0",)),
        (("CUDA0",), "cpu", [], ("CPU",)),
        (("CUDA0", "CUDA1"), None, ["CUDA1", "CPU"], ("CUDA1", "CPU")),
    ],
)
def test_what_is_lent(gpus: tuple[str, ...], backend: str | None, names: list[str], expected: tuple[str, ...]) -> None:
    lending = choose_lent(backend, names, Native(*gpus))
    assert (lending.devices, lending.protocol) == (expected, "7.0.0")
    assert all("8.0 GB" in text for text in lending.described)


def test_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="there is no device CUDA7"):
        choose_lent(None, ["CUDA7"], Native())


def test_connection_is_served_with_what_was_asked_for(tmp_path: Path) -> None:
    native = Native()
    serve_connection({"connection": 5}, native)
    folder = str(tmp_path / "cache")
    serve_connection({"connection": 6, "devices": ["CPU"], "n_threads": 1, "cache_dir": folder}, native)
    assert native.served == [(5, ("CPU",), 3, ""), (6, ("CPU",), 1, folder)]
