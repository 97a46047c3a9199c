"""Tuning results on disk: one small file per machine and model under the home folder, written whole or not at all.

The machine counts by the processors this process may use, its devices and this build; another machine that shares the
folder has its own files.
A file that can't be read is as good as none.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from donabe.engine.fingerprint import file_digest
from donabe.engine.tuning import Setup, Tuned
from donabe.types import LoadOptions

log = logging.getLogger(__name__)

FOLDER = "tuning"


def machine_and_model(native: Any, paths: Sequence[str]) -> str:
    """Names the pair: 32 hex digits. Raises OSError when a model file can't be read."""
    build = native.build_info()
    parts = [
        platform.machine(),
        platform.system(),
        str(n_usable_threads()),
        str(native.n_physical_cores()),
        *(f"{device.name} {device.description} {device.memory_total_bytes}" for device in native.devices()),
        *(str(build[name]) for name in ("build_id", "ggml_version", "cpu_variant")),
        *(file_digest(path) for path in paths),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def n_usable_threads() -> int:
    """Hardware threads this process may use: a container or a mask may leave it fewer than the machine has."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1


class TunedFiles:
    """The results under one home folder."""

    def __init__(self, home: Path) -> None:
        self._folder = home / FOLDER

    def read(self, key: str) -> Tuned | None:
        return _read(self._folder / f"{key}.json")

    def write(self, key: str, tuned: Tuned) -> None:
        """Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._folder / f"{key}.{os.getpid()}.part"
        try:
            partial.write_bytes(msgspec.json.format(msgspec.json.encode(tuned), indent=1) + b"\n")
            os.replace(partial, self._folder / f"{key}.json")
        finally:
            partial.unlink(missing_ok=True)

    def forget(self, model: str | None = None) -> int:
        """Remove the results of a model, or all of them; returns how many there were."""
        paths = [path for path, tuned in self._all() if model is None or (tuned is not None and tuned.model == model)]
        for path in paths:
            path.unlink(missing_ok=True)
        return len(paths)

    def _all(self) -> Iterator[tuple[Path, Tuned | None]]:
        for path in sorted(self._folder.glob("*.json")):
            yield path, _read(path)


def apply_tuned(options: LoadOptions, setup: Setup) -> tuple[LoadOptions, bool]:
    """Fill in what the options leave open, and whether to repack. What the user chose stays."""
    changes: dict[str, Any] = {}
    if options.n_threads is None:
        changes["n_threads"] = setup.n_threads
    if options.n_ubatch is None and (options.n_batch is None or options.n_batch >= setup.n_ubatch):
        changes["n_ubatch"] = setup.n_ubatch
    quantised = any(
        kind is not None and kind not in ("f16", "f32", "bf16") for kind in (options.type_k, options.type_v)
    )
    if options.flash_attention is None and not quantised:  # a quantised cache needs it
        changes["flash_attention"] = setup.flash_attention
    return msgspec.structs.replace(options, **changes), setup.repack


def _read(path: Path) -> Tuned | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Tuned)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        log.warning("%s is not used: %s", path.name, error)
        return None
