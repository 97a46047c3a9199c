"""How many layers, and whose experts, go to devices: the arithmetic, with a made-up model."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from donabe.errors import InvalidRequestError
from donabe.runner import placement
from donabe.runner.load import check_options
from donabe.runner.native_params import model_params
from donabe.runner.placement import MARGIN_BYTES, count_layers, fit_layers, name_devices
from donabe.runner.plans import CPU
from donabe.types import LoadOptions, ModelDetails, ModelSpec

N_LAYER = 10
LAYER, EXPERTS, OUTPUT = 100, 900, 50
SPEC = ModelSpec(name="x", paths=("/none.gguf",), details=ModelDetails())


def place(spec: ModelSpec, options: LoadOptions) -> LoadOptions:
    return count_layers(spec, name_devices(options))


def need(n_gpu_layers: int, n_cpu_moe: int) -> dict[str, int]:
    """The last layers go to devices first; the first ones keep their experts in main memory."""
    first = max(N_LAYER + 1 - n_gpu_layers, 0) if n_gpu_layers else N_LAYER
    on_device = range(min(first, N_LAYER), N_LAYER)
    total = sum(LAYER + (EXPERTS if layer >= n_cpu_moe else 0) for layer in on_device)
    return {"CUDA0": total + (OUTPUT if n_gpu_layers else 0)}


@pytest.mark.parametrize(
    ("free", "has_experts", "expected"),
    [
        (10 * 1000 + 50, True, (11, 0)),  # all of it
        (10 * 1000 + 49, True, (11, 1)),  # the experts of one layer have to go
        (10 * 100 + 3 * 900 + 50, True, (11, 7)),
        (10 * 100 + 50, True, (11, 10)),  # every expert
        (10 * 100 + 49, True, (10, 10)),  # then layers
        (5 * 100 + 50, True, (6, 10)),
        (5 * 1000 + 50, False, (6, 0)),
        (49, False, (0, 0)),
        (0, True, (0, 10)),
    ],
)
def test_as_much_as_fits(free: int, has_experts: bool, expected: tuple[int, int]) -> None:
    found = fit_layers(need, {"CUDA0": MARGIN_BYTES + free}, N_LAYER, has_experts=has_experts)
    assert found == expected


def test_given_experts_are_kept() -> None:
    found = fit_layers(need, {"CUDA0": MARGIN_BYTES + 650}, N_LAYER, has_experts=True, n_cpu_moe=10)
    assert found == (7, 10)


def test_every_device_keeps_its_margin() -> None:
    def halves(n_gpu_layers: int, _n_cpu_moe: int) -> dict[str, int]:
        return {"A": n_gpu_layers * 10, "B": n_gpu_layers * 20}

    free = {"A": MARGIN_BYTES + 1000, "B": MARGIN_BYTES + 100}
    assert fit_layers(halves, free, N_LAYER, has_experts=False) == (5, 0)


def test_without_devices_a_model_is_placed_on_the_cpu_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def choose(backend: object, names: object) -> tuple[tuple[str, ...], str]:
        asked.append((backend, names))
        return (), ""

    monkeypatch.setattr(placement, "choose_devices", choose)
    placed = place(SPEC, LoadOptions())
    assert placed.devices == (CPU,)
    assert place(SPEC, placed) == placed
    place(SPEC, LoadOptions(n_gpu_layers=0))
    assert asked == [(None, ()), ("cpu", (CPU,)), ("cpu", ())]


def test_given_layers_are_not_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "choose_devices", lambda *_: (("CUDA0", "CUDA1"), ""))
    placed = place(SPEC, LoadOptions(n_gpu_layers=7, main_gpu=1, tensor_split=(1.0, 2.0)))
    assert (placed.devices, placed.n_gpu_layers, placed.main_gpu) == (("CUDA0", "CUDA1"), 7, 1)
    with pytest.raises(InvalidRequestError, match="main_gpu 2 is not there"):
        place(SPEC, LoadOptions(n_gpu_layers=7, main_gpu=2))
    with pytest.raises(InvalidRequestError, match="3 shares for 2 devices"):
        place(SPEC, LoadOptions(n_gpu_layers=7, tensor_split=(1.0, 1.0, 1.0)))


def test_only_what_did_not_fit_is_warned_of(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Experts that the user keeps in main memory are his choice."""
    free = [10 * 1000 + 50]
    head = SimpleNamespace(n_layer=N_LAYER, n_expert=8)
    monkeypatch.setattr(placement, "choose_devices", lambda *_: (("CUDA0",), ""))
    probe = SimpleNamespace(
        head=head,
        ask=lambda trial: SimpleNamespace(device_bytes=lambda: need(trial.n_gpu_layers, trial.n_cpu_moe)),
    )
    monkeypatch.setattr(placement, "Probe", lambda *_, **__: probe)
    monkeypatch.setattr(
        placement._core,
        "devices",
        lambda: [SimpleNamespace(name="CUDA0", memory_free_bytes=MARGIN_BYTES + free[0])],
    )
    assert place(SPEC, LoadOptions(n_cpu_moe=4)).n_gpu_layers == N_LAYER + 1
    assert not caplog.records
    free[0] -= 1
    assert place(SPEC, LoadOptions()).n_cpu_moe == 1
    assert "11 of 11 layers there, experts of 1 layers in main memory" in caplog.text


def test_cpu_takes_no_device_options() -> None:
    """What only devices know would be refused by llama.cpp, or slow the CPU down."""
    options = LoadOptions(devices=(CPU,), main_gpu=0, tensor_split=(1.0,), n_cpu_moe=-1)
    assert model_params(options) is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (LoadOptions(backend="tpu"), "backend must be one of cuda, rocm, metal, vulkan, sycl, cpu"),
        (LoadOptions(n_cpu_moe=-2), "n_cpu_moe must be between"),
        (LoadOptions(n_gpu_layers=-2), "n_gpu_layers must be between"),
        (LoadOptions(main_gpu=256), "main_gpu must be between"),
        (LoadOptions(tensor_split=(-1.0,)), "tensor_split must hold"),
    ],
)
def test_options_are_range_checked(options: LoadOptions, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        check_options(options)
