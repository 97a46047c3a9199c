"""The comparison of a wheel with a native build: how pairs are made, what counts, what is refused."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from benchmarks import variants
from benchmarks.load import BenchmarkError

PACKAGING = Path(__file__).parents[3] / "packaging"
NATIVE = {"backend_dl": False, "version": "1", "build_id": "a", "cpu_variant": "", "threads": 1}
WHEEL = NATIVE | {"backend_dl": True, "cpu_variant": "haswell"}


class FakeSide:
    def __init__(self, name: str, build: dict, rates: list[float], order: list[str]) -> None:
        self.name, self.build, self.rates, self.order = name, build, iter(rates), order

    def measure(self, *_n_tokens: int) -> dict[str, float]:
        self.order.append(self.name)
        rate = next(self.rates)
        return {"prefill tok/s": 10 * rate, "decode tok/s": rate}

    def __enter__(self):
        return self

    def __exit__(self, *_exception: object) -> None: ...


def test_both_are_warmed_up_and_the_order_turns() -> None:
    order: list[str] = []
    wheel = FakeSide("wheel", WHEEL, [0.5, 98, 99, 97], order)
    native = FakeSide("native", NATIVE, [0.5, 100, 100, 100], order)
    found = variants.compare(wheel, native, 3, (1, 1))
    assert order == ["wheel", "native", "wheel", "native", "native", "wheel", "wheel", "native"]
    assert found["decode tok/s"] == [(98, 100), (99, 100), (97, 100)]
    assert variants.ratios(found) == {figure: pytest.approx(0.98) for figure in variants.FIGURES}
    assert variants.table(found).splitlines()[2] == "| prefill tok/s | 980.0 | 1000.0 | 0.980 |"


@pytest.mark.parametrize(("speed", "code"), [(99, 0), (97, 1)])
def test_a_slow_wheel_is_a_failure(speed: float, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def side(python: str, *_rest: object) -> FakeSide:
        return FakeSide(python, *((NATIVE, [100] * 9) if python == sys.executable else (WHEEL, [speed] * 9)), [])

    monkeypatch.setattr(variants, "Side", side)
    assert variants.main(["other-python", "--pairs", "2", "--model", str(tmp_path)]) == code


@pytest.mark.parametrize(
    ("wheel", "native", "message"),
    [
        (NATIVE, NATIVE, "not installed from a wheel"),
        (WHEEL, WHEEL, "checkout's build has CPU variants"),
        (WHEEL | {"build_id": "b"}, NATIVE, "build_id differs"),
        (WHEEL | {"version": "2"}, NATIVE, "version differs"),
    ],
)
def test_only_a_wheel_and_a_native_build_of_the_same_source_are_compared(
    wheel: dict, native: dict, message: str
) -> None:
    variants.check_builds(WHEEL, NATIVE)
    with pytest.raises(BenchmarkError, match=message):
        variants.check_builds(wheel, native)


def test_a_real_process_measures_and_one_that_ends_is_told(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("tiny_model", PACKAGING / "tiny_model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.write_tiny_model(tmp_path / "tiny.gguf")
    with variants.Side(sys.executable, model, 1) as side:
        assert side.build["threads"] == 1
        assert set(side.measure(600, 4)) == set(variants.FIGURES)
    with pytest.raises(BenchmarkError, match="ended with 1"):
        variants.Side(sys.executable, tmp_path / "none.gguf", 1)
