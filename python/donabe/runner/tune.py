"""Tuning seen from a load: what was measured for this model on this machine, and measuring it.

Blocks; loads the model by itself, so nothing else should be loaded meanwhile. Imports the native module.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from donabe import _core
from donabe.engine.tuned import TunedFiles, apply_tuned, machine_and_model, n_usable_threads
from donabe.engine.tuning import LEAST_BUDGET_S, MOST_BUDGET_S, Progress, Setup, Tuned, Tuner
from donabe.engine.tuning_bench import NativeBench
from donabe.errors import CapabilityError, DonabeError, InvalidRequestError, ModelFileError
from donabe.settings import default_home
from donabe.types import LoadOptions, ModelSpec

log = logging.getLogger(__name__)

AT_LOAD_S = 20.0  # auto_tune on: the first load may take so much longer
REPACK_BYTES = 4 << 30  # larger models are not loaded a second time to try their weights unpacked

Load = Callable[[bool], _core.Model]  # with repacked weights or not


def tune_model(
    spec: ModelSpec,
    options: LoadOptions,
    load: Load,
    *,
    budget_s: float,
    report: Callable[[Progress], None] = lambda _: None,
) -> Tuned:
    """Measure and store the result.

    Raises:
        InvalidRequestError: The time is out of range.
        CapabilityError: The model generates no text.
        ModelFileError, LoadError, NativeError: It can't be loaded.
        OSError: The result can't be written.
    """
    if not LEAST_BUDGET_S <= budget_s <= MOST_BUDGET_S:
        limits = f"{LEAST_BUDGET_S:g} and {MOST_BUDGET_S:g}"
        raise InvalidRequestError(f"seconds must be between {limits}, not {budget_s:g}", field="seconds")
    for path in spec.paths:
        if not os.path.isfile(path):
            name = os.path.basename(path)
            raise ModelFileError(f"model file {name} does not exist", path=name, hint="pull the model again")

    def load_decoder(repack: bool) -> _core.Model:
        model = load(repack)
        if model.memory_kind == "none" or not model.has_decoder:
            raise CapabilityError(f"{spec.name} generates no text", capability="completion", hint="it needs no tuning")
        return model

    size = sum(os.path.getsize(path) for path in spec.paths)
    bench = NativeBench(_core, load_decoder, can_repack=size <= REPACK_BYTES)
    n_cores = _core.n_physical_cores()
    tuner = Tuner(bench, n_cores=n_cores, n_logical=max(n_usable_threads(), n_cores), budget_s=budget_s, report=report)
    try:
        tuned = tuner.run(spec.name)
    finally:
        bench.close()
    _files(options).write(machine_and_model(_core, spec.paths), tuned)
    return tuned


def reason_to_wait(spec: ModelSpec, options: LoadOptions) -> str:
    """Why measuring unasked, with devices named in the options, should not begin: `stored`, `busy`, or "".

    Raises:
        OSError: A model file can't be read.
    """
    if _files(options).read(machine_and_model(_core, spec.paths)) is not None:
        return "stored"
    return "busy" if _is_busy() else ""


def stored_setup(spec: ModelSpec, options: LoadOptions) -> Setup | None:
    """What was measured for this model on this machine, with the devices named in the options. Measures nothing, and
    never fails a load."""
    if options.auto_tune == "off":
        return None
    try:
        stored = _files(options).read(machine_and_model(_core, spec.paths))
    except OSError as error:
        log.warning("%s is not tuned: %s", spec.name, error)
        return None
    return stored.chosen.setup if stored is not None else None


def tuned_setup(
    spec: ModelSpec, options: LoadOptions, load: Load, report: Callable[[float, str], None] | None = None
) -> Setup | None:
    """What a load should use: the stored result, a new one with auto_tune "on", or None. Never fails a load."""
    setup = stored_setup(spec, options)
    if setup is not None:
        log.info("%s: tuned for this machine: %s", spec.name, setup.describe())
        return setup
    if options.auto_tune != "on" or options.embedding:
        return None
    if _is_busy():
        log.warning("%s is not tuned: the machine is busy", spec.name)
        return None

    def tell(progress: Progress) -> None:
        if report is not None:
            report(progress.fraction, "tuning")

    try:
        return tune_model(spec, options, load, budget_s=AT_LOAD_S, report=tell).chosen.setup
    except (DonabeError, OSError) as error:
        log.warning("%s is not tuned: %s", spec.name, error)
        return None


def with_setup(options: LoadOptions, setup: Setup | None) -> tuple[LoadOptions, bool]:
    """The options with what was measured where they leave a choice, and whether to repack weights."""
    return apply_tuned(options, setup) if setup is not None else (options, True)


def forget(home: Path, model: str | None = None) -> int:
    """Remove stored results: of one model, or all. Returns how many."""
    return TunedFiles(home).forget(model)


def _files(options: LoadOptions) -> TunedFiles:
    return TunedFiles(Path(options.prefix_cache_home) if options.prefix_cache_home else default_home())


def _is_busy() -> bool:
    """Figures taken beside other work would be kept for good."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > _core.n_physical_cores() / 2
