"""Which devices are chosen, and what is said when none is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from donabe.devices.hardware import Accelerator, driver_of, find_accelerators, suggestion
from donabe.devices.plugins import Plugin, Refused
from donabe.devices.selection import offload_names, select_devices
from donabe.devices.start import Started, _warn_once, choose_devices, fallback_line, start_backends
from donabe.errors import InvalidRequestError, LoadError


@dataclass
class Device:
    name: str
    backend: str
    kind: str
    memory_free_bytes: int = 8 << 30


CPU = Device("CPU", "CPU", "cpu")
CUDA = Device("CUDA0", "CUDA", "gpu")
CUDA_1 = Device("CUDA1", "CUDA", "gpu")
METAL = Device("MTL0", "MTL", "gpu")
VULKAN = Device("Vulkan0", "Vulkan", "gpu")
VULKAN_IGPU = Device("Vulkan1", "Vulkan", "igpu")
RPC = Device("RPC0", "RPC", "gpu")


@pytest.mark.parametrize(
    ("devices", "backend", "names", "expected"),
    [
        ([CPU], None, None, ()),
        ([CPU, VULKAN, CUDA, CUDA_1], None, None, ("CUDA0", "CUDA1")),
        ([CPU, VULKAN, METAL], None, None, ("MTL0",)),
        ([CPU, VULKAN_IGPU], None, None, ("Vulkan1",)),
        ([CPU, VULKAN, VULKAN_IGPU], None, None, ("Vulkan0",)),
        ([CPU, VULKAN, CUDA], "vulkan", None, ("Vulkan0",)),
        ([CPU, VULKAN, CUDA], "cpu", None, ()),
        ([CPU, CUDA, RPC], None, None, ("RPC0", "CUDA0")),
        ([CPU, RPC], None, None, ("RPC0",)),
        ([CPU, CUDA, RPC], "cpu", None, ()),
        ([CPU, CUDA, CUDA_1], None, ("CUDA1",), ("CUDA1",)),
        ([CPU, CUDA, CUDA_1], None, ("CUDA1", "CUDA0"), ("CUDA1", "CUDA0")),
        ([CPU, CUDA, RPC], None, ("CUDA0", "CPU", "RPC0"), ("CUDA0", "RPC0")),
        ([CPU, CUDA], None, ("CUDA0", "CUDA0"), ("CUDA0",)),
        ([CPU, CUDA], None, ("CPU",), ()),
    ],
)
def test_choice(devices: list[Device], backend: str | None, names: Any, expected: tuple[str, ...]) -> None:
    verdicts = select_devices(devices, backend, names)
    assert offload_names(devices, verdicts, names) == expected
    assert all(verdict.reason for verdict in verdicts)


def test_what_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequestError, match="backend cuda has no device here") as error:
        select_devices([CPU, VULKAN], "cuda")
    assert error.value.hint == "backends with devices: vulkan, cpu"
    with pytest.raises(InvalidRequestError, match="no device CUDA7") as error:
        select_devices([CPU], None, ["CUDA7"])
    assert error.value.hint == "devices here: CPU"


def pci(root: Path, index: int, vendor: str, kind: str = "0x030000") -> None:
    folder = root / "sys/bus/pci/devices" / f"0000:0{index}:00.0"
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(vendor + "\n")
    (folder / "class").write_text(kind + "\n")


def test_hardware_is_read_from_the_system(tmp_path: Path) -> None:
    assert find_accelerators(tmp_path, "linux") == []
    pci(tmp_path, 1, "0x8086")
    pci(tmp_path, 2, "0x10de", "0x020000")  # a network card
    assert find_accelerators(tmp_path, "linux") == [Accelerator("Intel")]
    pci(tmp_path, 3, "0x10de")
    assert find_accelerators(tmp_path, "linux") == [Accelerator("NVIDIA", has_driver=False), Accelerator("Intel")]
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text("580")
    assert find_accelerators(tmp_path, "linux")[0] == Accelerator("NVIDIA")
    assert find_accelerators(tmp_path, "darwin") == []


@pytest.mark.parametrize(
    ("accelerators", "installed", "expected"),
    [
        ([], [], ""),
        ([Accelerator("NVIDIA")], [], "pip install 'donabe[cuda]' to use the NVIDIA GPU"),
        ([Accelerator("NVIDIA", has_driver=False)], [], "install the driver of the NVIDIA GPU"),
        ([Accelerator("AMD")], [], "pip install 'donabe[vulkan]' to use the AMD GPU"),
        ([Accelerator("NVIDIA")], ["cuda12"], ""),
        (
            [Accelerator("NVIDIA"), Accelerator("Intel")],
            ["cuda12"],
            "pip install 'donabe[vulkan]' to use the Intel GPU",
        ),
    ],
)
def test_suggestion_names_the_extra(accelerators: list[Accelerator], installed: list[str], expected: str) -> None:
    assert suggestion(accelerators, installed).startswith(expected)
    assert bool(suggestion(accelerators, installed)) == bool(expected)


def test_driver_is_told_with_its_version(tmp_path: Path) -> None:
    def drive(pci_id: str, driver: str) -> None:
        (tmp_path / "sys/bus/pci/drivers" / driver).mkdir(parents=True, exist_ok=True)
        device = tmp_path / "sys/bus/pci/devices" / pci_id
        device.mkdir(parents=True)
        (device / "driver").symlink_to(tmp_path / "sys/bus/pci/drivers" / driver)

    drive("0000:01:00.0", "nvidia")
    drive("0000:03:00.0", "amdgpu")
    assert driver_of("0000:03:00.0", tmp_path) == "amdgpu"
    (tmp_path / "sys/module/nvidia").mkdir(parents=True)
    (tmp_path / "sys/module/nvidia/version").write_text("580.65.06\n")
    (tmp_path / "proc/sys/kernel").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/osrelease").write_text("6.1.0-13-amd64\n")
    assert driver_of("0000:01:00.0", tmp_path) == driver_of("0000:01:00.0-v1", tmp_path) == "nvidia 580.65.06"
    assert driver_of("0000:03:00.0", tmp_path) == "amdgpu of Linux 6.1.0-13-amd64"
    assert driver_of("0000:09:00.0", tmp_path) == ""  # no such device
    assert driver_of("../../module", tmp_path) == driver_of("", tmp_path) == ""


def test_fallback_is_one_line_and_silent_without_a_gpu() -> None:
    assert fallback_line(Started({})) == ""
    line = fallback_line(Started({}, refused=(Refused("vulkan", "it is old", "pip install x"),), hint="pip install y"))
    assert line == "running on the CPU: plug-in vulkan: it is old; pip install x; pip install y"


BROKEN, IDLE = Refused("cuda12", "it is old", "fix it"), Refused("cuda12", "no device", "drop it", "idle")
NVIDIA, AMD = [Accelerator("NVIDIA")], [Accelerator("AMD")]


@pytest.mark.parametrize(
    ("chosen", "refused", "accelerators", "line"),
    [
        ((), (BROKEN,), [], "running on the CPU: plug-in cuda12: it is old; fix it; pip install y"),
        (("Vulkan0",), (BROKEN,), [], "running on Vulkan0: plug-in cuda12: it is old; fix it"),
        (("Vulkan0",), (IDLE,), NVIDIA, "running on Vulkan0: plug-in cuda12: no device; drop it"),
        (("Vulkan0",), (IDLE,), AMD, ""),  # an NVIDIA plug-in has nothing to do there
        (("Vulkan0",), (Refused("sycl", "it is old", "fix it"),), [], ""),  # would come after it
        (("CUDA0",), (Refused("cuda12", "cuda13 does its work", "drop it", "outdone"),), NVIDIA, ""),
        (("RPC0",), (BROKEN,), [], "running on RPC0: plug-in cuda12: it is old; fix it; pip install y"),
        (("RPC0", "CUDA0"), (), [], ""),
    ],
)
def test_better_backend_that_is_not_used_is_told(
    monkeypatch: pytest.MonkeyPatch, chosen: tuple[str, ...], refused: tuple[Refused, ...], accelerators: Any, line: str
) -> None:
    monkeypatch.setattr("donabe.devices.start.find_accelerators", lambda: accelerators)
    hint = "" if set(chosen) & {"Vulkan0", "CUDA0"} else "pip install y"
    devices: Any = (CPU, CUDA, VULKAN, RPC)
    assert fallback_line(Started({}, refused=refused, hint=hint, devices=devices), chosen) == line


def test_device_of_another_machine_hides_no_hint(
    installed: Callable[..., None], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed("rpcstub")
    monkeypatch.setattr("donabe.devices.start.find_accelerators", lambda: NVIDIA)
    bring: dict[str, Any] = {"/rpcstub.so": RPC}
    names, note = choose_devices(native=Native(bring))
    assert names == ("RPC0",)
    assert note.startswith("running on RPC0: pip install 'donabe[cuda]'")
    assert caplog.messages == [note]
    assert choose_devices(native=Native(bring))[1] == note  # told to each model, logged once
    assert caplog.messages == [note]


class Native:
    """Counts what is opened; a library named `bad` is refused. `bring` are the devices that a library shows once it is
    open: none where its driver is missing."""

    def __init__(self, bring: dict[str, Device] | None = None) -> None:
        self.opened: list[str] = []
        self.bring = bring or {}

    def init(self, plugins: Any = ()) -> None:
        for path in plugins:
            if "bad" in path:
                raise LoadError("the backend plugin can't be loaded", hint="check its driver")
            self.opened.append(path)

    def build_info(self) -> dict[str, Any]:
        return {"version": "0.1.0", "build_id": "x", "backend_dl": True}

    def devices(self) -> list[Any]:
        return [CPU, *(self.bring[path] for path in self.opened if path in self.bring)]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    _warn_once.cache_clear()

    def install(*names: str) -> None:
        found = [Plugin(name, "0.1.0", Path(f"/{name}.so")) for name in names]
        monkeypatch.setattr("donabe.devices.start.find_plugins", lambda _build: (found, []))
        monkeypatch.setattr("donabe.devices.start.find_accelerators", list)

    return install


def test_plugin_that_can_not_be_opened_is_reported_and_the_others_are_used(installed: Callable[..., None]) -> None:
    installed("bad", "vulkan")
    native = Native({"/vulkan.so": VULKAN})
    started = start_backends(native=native)
    assert native.opened == ["/vulkan.so"]
    assert started.plugins == ("vulkan",)
    assert started.refused == (Refused("bad", "the backend plugin can't be loaded", "check its driver"),)


@pytest.mark.parametrize(
    ("plugin", "wanted"),
    [("cuda12", "NVIDIA's driver of version 525"), ("cuda13", "version 580"), ("vulkan", "Vulkan driver")],
)
def test_plugin_without_a_device_is_told_in_one_line_and_the_cpu_computes(
    installed: Callable[..., None], caplog: pytest.LogCaptureFixture, plugin: str, wanted: str
) -> None:
    installed(plugin)
    assert choose_devices(native=Native())[0] == ()
    (record,) = caplog.records
    line = record.getMessage()
    assert line.startswith(f"running on the CPU: plug-in {plugin}: it finds no device it could use; install ")
    assert wanted in line
    assert line.endswith(f"or pip uninstall donabe-{plugin}")
    assert "\n" not in line


def test_backend_that_has_no_device_is_refused_with_the_reason(installed: Callable[..., None]) -> None:
    installed("cuda13")
    with pytest.raises(InvalidRequestError, match="backend cuda has no device here") as error:
        choose_devices("cuda", native=Native())
    assert (error.value.hint or "").startswith("backends with devices: cpu; plug-in cuda13: it finds no device")


def test_plugin_without_a_device_is_no_matter_where_another_has_one(
    installed: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    installed("cuda12", "vulkan")
    assert choose_devices(native=Native({"/vulkan.so": VULKAN}))[0] == ("Vulkan0",)
    assert caplog.records == []


def test_of_two_releases_of_cuda_the_newest_that_has_devices_is_used(installed: Callable[..., None]) -> None:
    installed("cuda12", "cuda13")
    native = Native({"/cuda12.so": CUDA, "/cuda13.so": CUDA})
    started = start_backends(native=native)
    assert native.opened == ["/cuda13.so"]
    assert started.plugins == ("cuda13",)
    assert [(item.name, item.hint) for item in started.refused] == [("cuda12", "pip uninstall donabe-cuda12")]
    old_driver = Native({"/cuda12.so": CUDA})
    started = start_backends(native=old_driver)
    assert old_driver.opened == ["/cuda13.so", "/cuda12.so"]
    assert started.plugins == ("cuda12",)


def test_plugin_of_an_unknown_backend_is_not_judged_by_its_devices(installed: Callable[..., None]) -> None:
    installed("blas")
    assert start_backends(native=Native()).plugins == ("blas",)


def test_cpu_backend_opens_no_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("donabe.devices.start.find_plugins", lambda _build: pytest.fail("looked for plug-ins"))
    assert start_backends("cpu", Native()).plugins == ()
