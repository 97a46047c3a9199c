"""The draft model of a load: which file, where it goes, and whether it can guess for the large one. Loads and plans ask
here, so that both count the same.
"""

from __future__ import annotations

import logging
import os

import msgspec

from donabe import _core
from donabe.engine.draft_model import why_unfit
from donabe.engine.kinds import memory_kind
from donabe.errors import ModelFileError
from donabe.runner.native_params import model_params
from donabe.types import LoadOptions, ModelSpec

logger = logging.getLogger("donabe.runner")


def draft_path(spec: ModelSpec, options: LoadOptions) -> str | None:
    """The file the options or the model name, if guesses are to be made at all.

    Raises:
        ModelFileError: It does not exist.
    """
    path = spec.draft if options.draft is None else options.draft
    if not path or options.n_draft_max == 0:
        return None
    if not os.path.isfile(path):
        name = os.path.basename(path)
        hint = "pull the model again" if options.draft is None else "give the path of a GGUF file"
        raise ModelFileError(f"draft model file {name} does not exist", path=name, hint=hint)
    return path


def draft_options(options: LoadOptions) -> LoadOptions:
    """How the draft model is loaded: it is small and runs at every step, so all of it is where the large model's layers
    are, whatever their number. It stays off the devices with those."""
    n_gpu_layers = 0 if options.n_gpu_layers == 0 else -1
    return msgspec.structs.replace(options, n_gpu_layers=n_gpu_layers, n_cpu_moe=None)


def open_draft(
    model: _core.Model, spec: ModelSpec, options: LoadOptions, *, no_alloc: bool = False
) -> _core.Model | None:
    """The draft model of a loaded or probed model; None when it has none, or, with a warning, one that can't guess.

    Args:
        no_alloc: Read its head only; no warnings.

    Raises:
        ModelFileError: Its file does not exist.
        LoadError: The native side refused it.
    """
    path = draft_path(spec, options)
    if path is None:
        return None
    level = logging.DEBUG if no_alloc else logging.WARNING
    if not memory_kind(model.memory_kind, model.n_swa).can_draft:
        logger.log(level, "%s: no draft model: the %s memory can't take guesses back", spec.name, model.memory_kind)
        return None
    draft = _core.Model([path], model_params(draft_options(options), no_alloc=no_alloc))
    reason = why_unfit(model, draft)
    if reason is not None:
        logger.log(level, "%s: the draft model %s is not used: %s", spec.name, os.path.basename(path), reason)
        draft.close()
        return None
    return draft
