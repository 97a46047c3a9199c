"""A model file to something that runs: native model, engine, embedder, prompt builder. One of the modules of the
runner that import the native extension.

Blocks while the weights are read; progress is reported from a helper thread. Numbers that the user gave are taken as
they are or refused; what is left automatic is chosen by `build_engine` and may be smaller than the model's maximum.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from donabe import _core
from donabe.chat.prompt import PromptBuilder
from donabe.devices.selection import BACKEND_NAMES
from donabe.engine.api import EngineApi, Publish
from donabe.engine.build import N_PARALLEL, build_engine
from donabe.engine.engine import Engine
from donabe.errors import InvalidRequestError, ModelFileError
from donabe.runner.describe import describe_model
from donabe.runner.draft import open_draft
from donabe.runner.embedder import Embedder
from donabe.runner.embedding_lane import embedding_n_ctx
from donabe.runner.native_params import model_params
from donabe.runner.out_of_memory import out_of_memory_marked
from donabe.runner.placement import count_layers, name_devices, place
from donabe.runner.tune import tuned_setup, with_setup
from donabe.setting_values import Workers
from donabe.settings import default_home
from donabe.types import LoadOptions, ModelSpec

logger = logging.getLogger("donabe.runner")

ReportProgress = Callable[[float, str], None]  # fraction 0..1, stage

LOADS_PROJECTORS = False  # this version runs text only
_PROGRESS_INTERVAL_S = 0.1
_INFO_LEVEL = 2
_POOLINGS = ("none", "mean", "cls", "last", "rank")

# Inclusive ranges; None is automatic.
_RANGES: dict[str, tuple[float, float]] = {
    "n_ctx": (8, 1 << 24),
    "n_ctx_per_request": (4, 1 << 24),
    "n_batch": (1, 1 << 16),
    "n_ubatch": (1, 1 << 16),
    "n_parallel": (1, 256),
    "n_gpu_layers": (-1, 1 << 16),
    "n_cpu_moe": (-1, 1 << 16),
    "main_gpu": (0, 255),
    "n_threads": (1, 1024),
    "prefix_cache_pool_bytes": (0, 1 << 50),
    "prefix_cache_ram_bytes": (0, 1 << 50),
    "prefix_cache_disk_bytes": (0, 1 << 50),
    "n_waiting_max": (0, 1 << 30),
    "max_step_latency_s": (0.001, 3600.0),
    "n_draft_max": (0, 64),
}


class Loaded:
    """A loaded model with its engine made; implements `donabe.runner.core.LoadedModel`."""

    def __init__(
        self,
        model: _core.Model,
        spec: ModelSpec,
        options: LoadOptions,
        embedding_options: LoadOptions,
        notes: Sequence[str] = (),
    ) -> None:
        self._model = model
        self._spec = spec
        self._pieces: dict[int, bytes] = {}
        self._outputs = _Outlet()
        self._engine = self._make_engine(options)
        self.embedder = Embedder(model, embedding_options, self._open_context, _core.Batch)
        n_ctx = embedding_n_ctx(model, embedding_options) if self._engine is None else self._engine.n_ctx_per_request
        self.prompts = PromptBuilder(
            model,
            spec,
            load_templates=lambda source: _core.ChatTemplates(model, source),
            make_parser=_core.ChatParser,
            make_grammar=_core.json_schema_to_grammar,
            n_ctx=n_ctx,
        )
        self.info = describe_model(
            model,
            spec,
            options,
            self._engine,
            n_parallel=options.n_parallel or N_PARALLEL,
            n_ctx_per_request=n_ctx,
            notes=notes,
        )

    def make_engine(self, publish: Publish) -> EngineApi | None:
        self._outputs.publish = publish
        return self._engine

    def piece(self, token: int) -> bytes:
        data = self._pieces.get(token)
        if data is None:
            data = self._pieces[token] = self._model.vocab.piece(token, special=True)
        return data

    def close(self) -> None:
        self._engine = None
        self._model.close()

    def _make_engine(self, options: LoadOptions) -> Engine | None:
        model = self._model
        if options.embedding or model.memory_kind == "none" or not model.has_decoder:
            return None
        draft = open_draft(model, self._spec, options)
        adapters = tuple((model.load_adapter(adapter.path), adapter.scale) for adapter in self._spec.adapters)
        if options.prefix_cache_home is None:
            options = msgspec.structs.replace(options, prefix_cache_home=str(default_home()))
        paths = self._spec.paths
        return build_engine(model, options, self._outputs, adapters=adapters, paths=paths, draft=draft)

    def _open_context(self, arguments: dict[str, Any]) -> _core.Context:
        return _core.Context(self._model, _core.ContextParams(**arguments))


class _Outlet:
    """Where the engine publishes: made before the output thread that listens."""

    def __init__(self) -> None:
        self.publish: Publish = lambda _outputs: None

    def __call__(self, outputs: list[Any]) -> None:
        self.publish(outputs)


def load_model(spec: ModelSpec, options: LoadOptions, report: ReportProgress | None = None) -> Loaded:
    """Load a model and make its engine.

    Raises:
        InvalidRequestError: A load option is out of range.
        ModelFileError: A file is missing.
        LoadError: The native side refused the file, or there was not enough memory; the error says which.
    """
    check_options(options)
    if spec.projector and not LOADS_PROJECTORS:
        logger.warning("%s: its vision part is not used: this version runs text only", spec.name)
    for path in spec.paths:
        if not os.path.isfile(path):
            name = os.path.basename(path)
            raise ModelFileError(f"model file {name} does not exist", path=name, hint="pull the model again")
    _core.set_log_level(_INFO_LEVEL)
    with out_of_memory_marked():
        return _load(spec, options, report)


def _load(spec: ModelSpec, options: LoadOptions, report: ReportProgress | None) -> Loaded:
    options, note = place(options)  # before the tuned settings, which are kept by device
    setup = tuned_setup(spec, options, model_loader(spec, options), report)
    tuned, repack = with_setup(options, setup)
    # of what was tuned for generation only threads count for embeddings: a micro-batch bounds their inputs
    embedding_options = msgspec.structs.replace(options, n_threads=tuned.n_threads)
    tuned = count_layers(spec, tuned, repack=repack)
    progress = _core.LoadProgress()
    with _reporting(progress, report):
        model = _core.Model(list(spec.paths), model_params(tuned, repack=repack), progress)
    if report is not None:
        report(1.0, "context")
    return Loaded(model, spec, tuned, embedding_options, (note,) if note else ())


def model_loader(spec: ModelSpec, options: LoadOptions) -> Callable[[bool], _core.Model]:
    """Loads the model's weights, repacked for the CPU or not, and nothing else."""
    named = name_devices(options)

    def load(repack: bool) -> _core.Model:
        return _core.Model(list(spec.paths), model_params(count_layers(spec, named, repack=repack), repack=repack))

    return load


def check_options(options: LoadOptions) -> None:
    """Raises InvalidRequestError naming the first option that is out of range."""
    for name, (low, high) in _RANGES.items():
        value = getattr(options, name)
        if value is not None and not (math.isfinite(value) and low <= value <= high):
            raise InvalidRequestError(f"{name} must be between {low:g} and {high:g}, not {value}", field=name)
    if options.pooling is not None and options.pooling not in _POOLINGS:
        known = ", ".join(_POOLINGS)
        raise InvalidRequestError(f"pooling must be one of {known}, not {options.pooling!r}", field="pooling")
    if any(not math.isfinite(share) or share < 0 for share in options.tensor_split):
        raise InvalidRequestError("tensor_split must hold numbers of 0 or more", field="tensor_split")
    try:
        Workers()(list(options.rpc))
    except ValueError as error:
        raise InvalidRequestError(f"rpc {error}", field="rpc") from None
    if options.backend is not None and options.backend not in BACKEND_NAMES:
        known = ", ".join(BACKEND_NAMES)
        raise InvalidRequestError(f"backend must be one of {known}, not {options.backend!r}", field="backend")


def drain_native_logs() -> list[tuple[int, str]]:
    """Native log lines since the last call, (level, text)."""
    return _core.drain_logs()


@contextmanager
def _reporting(progress: _core.LoadProgress, report: ReportProgress | None) -> Iterator[None]:
    """Calls `report` from a helper thread whenever the loaded fraction has grown."""
    if report is None:
        yield
        return
    done = threading.Event()

    def watch() -> None:
        last = -1.0
        while not done.wait(_PROGRESS_INTERVAL_S):
            value = progress.value
            if value > last:
                last = value
                report(value, "weights")

    report(0.0, "weights")
    watcher = threading.Thread(target=watch, name="donabe-progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
