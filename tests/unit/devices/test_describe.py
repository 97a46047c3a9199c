"""What `donabe doctor` is told about devices."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from donabe.devices import start
from donabe.devices.describe import describe
from donabe.devices.plugins import Refused


class Native:
    def init(self, plugins: Any = ()) -> None: ...

    def build_info(self) -> dict[str, Any]:
        return {"version": "1", "build_id": "x"}

    def system_info(self) -> str:
        return "CUDA : ARCHS = 860 | NO_VMM = 1 | CPU : SSE3 = 1 | AVX2 = 0 | FMA = 1 | REPACK = 1 | "

    def devices(self) -> list[Any]:
        memory = {"memory_total_bytes": 2, "memory_free_bytes": 1}
        pci_id = "0000:03:00.0"
        return [
            SimpleNamespace(name="CPU", description="c", backend="CPU", kind="cpu", pci_id="", **memory),
            SimpleNamespace(name="Vulkan0", description="g", backend="Vulkan", kind="gpu", pci_id=pci_id, **memory),
        ]


@pytest.fixture(autouse=True)
def no_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "find_plugins", lambda _build: ([], []))


def test_everything_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("donabe.devices.describe.driver_of", {"": "", "0000:03:00.0": "amdgpu 6.1"}.__getitem__)
    answer = describe(None, [], Native())
    assert answer["features"] == ["SSE3", "FMA", "REPACK"]
    assert [(item["name"], item["is_chosen"]) for item in answer["devices"]] == [("CPU", True), ("Vulkan0", True)]
    assert answer["devices"][1]["memory_free_bytes"] == 1
    assert [(item["pci_id"], item["driver"]) for item in answer["devices"]] == [
        ("", ""),
        ("0000:03:00.0", "amdgpu 6.1"),
    ]


def test_plugins_are_told_with_their_state(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = Refused("cuda12", "it is old", "pip install it")
    monkeypatch.setattr(start, "find_plugins", lambda _build: ([], [refused]))
    [told] = describe(None, [], Native())["refused"]
    assert told == {"name": "cuda12", "message": "it is old", "hint": "pip install it", "kind": "broken"}


def test_setting_that_can_not_be_met_does_not_hide_the_devices() -> None:
    answer = describe("cuda", [], Native())
    assert answer["setting_error"] == "backend cuda has no device here"
    assert answer["setting_hint"] == "backends with devices: vulkan, cpu"
    assert len(answer["devices"]) == 2
