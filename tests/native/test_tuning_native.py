"""`donabe tune` on a real (tiny) model, and loads that use what it stored."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from donabe import _core
from donabe.cli.app import root
from donabe.cli.commands import tune as command
from donabe.engine.tuned import TunedFiles, machine_and_model
from donabe.engine.tuning import Measurement, Setup, Speed, Tuned
from donabe.engine.tuning_bench import NativeBench
from donabe.errors import InvalidRequestError, RunnerDiedError, RunnerError
from donabe.runner.load import load_model, model_loader
from donabe.runner.memory_plan import Planner
from donabe.runner.probe import Probe
from donabe.runner.tune import tune_model
from donabe.runner.tune_process import TuneOutcome, measure_in_child
from donabe.store.resolve import resolve_model
from donabe.types import LoadOptions, ModelSpec

TinyModel = Callable[[str], str]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DONABE_HOME", str(tmp_path))
    monkeypatch.setenv("DONABE_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("DONABE_HOST", "127.0.0.1:1")  # no server
    return tmp_path


@pytest.fixture
def spec(tiny_model: TinyModel, home: Path) -> ModelSpec:
    return resolve_model(tiny_model("llama"), pull=False)


def options(home: Path, **given: object) -> LoadOptions:
    return msgspec.convert({"n_ctx": 512, "n_parallel": 2, "prefix_cache_home": str(home), **given}, LoadOptions)


def store(home: Path, spec: ModelSpec, setup: Setup) -> None:
    one = Measurement(setup=setup, speed=Speed(decode=1, batch=1, prefill=1))
    tuned = Tuned(model=spec.name, chosen=one, default=one, tried=(one,), measured_at=0.0)
    TunedFiles(home).write(machine_and_model(_core, spec.paths), tuned)


def n_ubatch_of_load(spec: ModelSpec, load_options: LoadOptions) -> int:
    loaded = load_model(spec, load_options)
    try:
        assert loaded._engine is not None
        return loaded._engine._context.n_ubatch
    finally:
        loaded.close()


def test_command_measures_stores_and_forgets(spec: ModelSpec, home: Path) -> None:
    runner = CliRunner()
    done = runner.invoke(root, ["tune", spec.paths[0], "--seconds", "2", "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["chosen"]["speed"]["decode"] > 0
    assert "2 thread" in done.stderr or "1 thread" in done.stderr
    stored = TunedFiles(home).read(machine_and_model(_core, spec.paths))
    assert stored is not None
    assert msgspec.to_builtins(stored.chosen) == found["chosen"]
    forgotten = runner.invoke(root, ["tune", spec.paths[0], "--forget"], catch_exceptions=False)
    assert forgotten.stdout == "forgot 1 result\n"
    assert TunedFiles(home).read(machine_and_model(_core, spec.paths)) is None


def test_load_uses_the_result_unless_told_otherwise(spec: ModelSpec, home: Path) -> None:
    plain = n_ubatch_of_load(spec, options(home))
    store(home, spec, Setup(n_threads=1, n_ubatch=64, repack=False))
    assert plain != 64
    assert n_ubatch_of_load(spec, options(home)) == 64
    assert n_ubatch_of_load(spec, options(home, auto_tune="off")) == plain
    assert n_ubatch_of_load(spec, options(home, n_ubatch=32)) == 32


def test_plan_uses_the_result_as_a_load_does(spec: ModelSpec, home: Path) -> None:
    def compute_bytes(**given: object) -> int:
        plan = Planner(spec, options(home, **given)).plan()
        return sum(device.compute_bytes for device in plan.devices)

    plain = compute_bytes()
    store(home, spec, Setup(n_threads=1, n_ubatch=64, flash_attention=False, repack=False))
    tuned = compute_bytes()
    assert tuned < plain / 2
    loaded = load_model(spec, options(home))
    try:
        assert loaded._engine is not None
        real = sum(row[3] for row in loaded._engine.memory_breakdown())
    finally:
        loaded.close()
    assert tuned == pytest.approx(real, rel=0.02)
    assert compute_bytes(auto_tune="off") == plain
    assert compute_bytes(n_ubatch=512, flash_attention=True) == plain


def test_layers_are_counted_with_the_result(spec: ModelSpec, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many layers fit on a device depends on the micro-batch and on flash attention."""
    counted: list[tuple[int | None, bool | None, bool]] = []

    def count(_spec: ModelSpec, given: LoadOptions, *, repack: bool = True, probe: Probe | None = None) -> LoadOptions:
        counted.append((given.n_ubatch, given.flash_attention, repack if probe is None else probe._repack))
        return given

    for module in ("load", "memory_plan"):
        monkeypatch.setattr(f"donabe.runner.{module}.count_layers", count)
    store(home, spec, Setup(n_threads=1, n_ubatch=64, flash_attention=False, repack=False))
    load_model(spec, options(home)).close()
    Planner(spec, options(home)).plan()
    assert counted == [(64, False, False)] * 2


def test_plan_never_measures(spec: ModelSpec, home: Path) -> None:
    Planner(spec, options(home, auto_tune="on")).plan()
    assert not (home / "tuning").exists()


def test_results_are_kept_by_the_processors_a_process_may_use(spec: ModelSpec) -> None:
    one = min(os.sched_getaffinity(0))
    script = f"""
import os
os.sched_setaffinity(0, [{one}])
from donabe import _core
from donabe.engine.tuned import machine_and_model
print(machine_and_model(_core, {spec.paths!r}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True, timeout=60)
    is_same = done.stdout.strip() == machine_and_model(_core, spec.paths)
    assert is_same == (len(os.sched_getaffinity(0)) == 1)


def test_only_auto_tune_on_measures_unasked(spec: ModelSpec, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("donabe.runner.tune.AT_LOAD_S", 2.0)
    monkeypatch.setattr("donabe.runner.tune._is_busy", lambda: False)
    stages: list[str] = []
    load_model(spec, options(home)).close()
    assert not (home / "tuning").exists()
    load_model(spec, options(home, auto_tune="on"), lambda _fraction, stage: stages.append(stage)).close()
    assert "tuning" in stages
    assert len(list((home / "tuning").iterdir())) == 1


def test_busy_machine_is_not_measured_at_a_load(spec: ModelSpec, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("donabe.runner.tune._is_busy", lambda: True)
    load_model(spec, options(home, auto_tune="on")).close()
    assert not (home / "tuning").exists()


@pytest.mark.parametrize("seconds", [0.0, 1e9, float("nan")])
def test_time_is_range_checked(spec: ModelSpec, home: Path, seconds: float) -> None:
    with pytest.raises(InvalidRequestError, match="seconds must be between"):
        tune_model(spec, options(home), model_loader(spec, options(home)), budget_s=seconds)


def test_childs_error_and_death_are_told(spec: ModelSpec, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = {"home": str(home), "spec": msgspec.to_builtins(spec), "seconds": 0.5}
    with pytest.raises(RunnerError, match="seconds must be between"):
        list(command._ask(request))
    monkeypatch.setattr(command, "CHILD_COMMAND", (command.python_command(), "-c", "raise SystemExit('no luck')"))
    with pytest.raises(RunnerDiedError, match="no luck"):
        list(command._ask(request))


def test_names_get_through_whatever_the_locale(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    spec = {"name": "m", "paths": ["/nowhere/modèle.gguf"], "details": {}}
    with pytest.raises(RunnerError, match=r"model file modèle\.gguf does not exist"):
        list(command._ask({"home": str(home), "spec": spec, "seconds": 2.0}))


def test_command_measures_on_the_devices_of_the_settings(
    spec: ModelSpec, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results are found by the devices that a load sees, so a load with the same settings has to see the same."""
    asked: list[dict[str, object]] = []

    def ask(request: dict[str, object]) -> list[dict[str, object]]:
        asked.append(request)
        raise RunnerError("enough")

    monkeypatch.setattr(command, "_ask", ask)
    monkeypatch.setenv("DONABE_BACKEND", "cpu")
    monkeypatch.setenv("DONABE_MAIN_GPU", "0")
    with pytest.raises(RunnerError, match="enough"):
        CliRunner().invoke(root, ["tune", spec.paths[0]], catch_exceptions=False, standalone_mode=False)
    chosen = msgspec.convert(asked[0]["options"], LoadOptions)
    assert (chosen.backend, chosen.main_gpu, chosen.n_gpu_layers) == ("cpu", 0, None)


def test_child_takes_the_devices_it_is_told(spec: ModelSpec, home: Path) -> None:
    request = {"home": str(home), "spec": msgspec.to_builtins(spec), "seconds": 2.0}
    with pytest.raises(RunnerError, match="there is no device GPU9"):
        list(command._ask({**request, "options": {"devices": ["GPU9"]}}))


def test_model_with_few_positions_is_measured_within_them(tiny_model: TinyModel) -> None:
    bench = NativeBench(
        _core,
        lambda repack: _core.Model([tiny_model("gpt2")], _core.ModelParams(use_extra_bufts=repack)),
        can_repack=False,
    )
    try:
        assert bench.measure(Setup(n_threads=1)).decode > 0
    finally:
        bench.close()


def test_model_is_needed_to_measure(home: Path) -> None:
    with pytest.raises(InvalidRequestError, match="a model is missing"):
        CliRunner().invoke(root, ["tune"], catch_exceptions=False, standalone_mode=False)


# --- unasked, by a server that idles ---------------------------------------------------------------------------------


async def measure(spec: ModelSpec, home: Path, **program: object) -> TuneOutcome:
    return await measure_in_child(spec, LoadOptions(n_threads=1), home=str(home), budget_s=2.0, **program)  # type: ignore[arg-type]


def child(*, is_busy: bool, before: str = "") -> tuple[str, ...]:
    """The measuring child on a machine that is busy or not; `before` runs first."""
    lines = [
        "import os, sys",
        "from donabe.runner import tune, tune_child",
        f"tune._is_busy = lambda: {is_busy}",
        before,
        "sys.exit(tune_child.main())",
    ]
    return (sys.executable, "-c", "\n".join(lines))


async def test_model_is_measured_once_for_machine_and_model(spec: ModelSpec, home: Path) -> None:
    first = await measure(spec, home, command=child(is_busy=False))
    assert (first.kind, "thread" in first.text) == ("measured", True)
    stored = TunedFiles(home).read(machine_and_model(_core, spec.paths))
    assert stored is not None
    assert await measure(spec, home, command=child(is_busy=False)) == TuneOutcome("stored")
    assert TunedFiles(home).read(machine_and_model(_core, spec.paths)) == stored
    assert n_ubatch_of_load(spec, options(home, auto_tune="idle")) == stored.chosen.setup.n_ubatch


async def test_busy_machine_is_not_measured(spec: ModelSpec, home: Path) -> None:
    assert await measure(spec, home, command=child(is_busy=True)) == TuneOutcome("busy")
    assert not (home / "tuning").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="how a process stands back is the system's")
async def test_measuring_child_stands_back(spec: ModelSpec, home: Path) -> None:
    seen = home / "seen"
    before = f"""
measure = tune_child.tune_model
def noting(*arguments, **options):
    with open("/proc/self/oom_score_adj") as file, open({str(seen)!r}, "w") as out:
        out.write(f"{{os.nice(0)}} {{file.read()}}")
    return measure(*arguments, **options)
tune_child.tune_model = noting
"""
    assert (await measure(spec, home, command=child(is_busy=False, before=before))).kind == "measured"
    assert seen.read_text().split() == ["19", "1000"]
