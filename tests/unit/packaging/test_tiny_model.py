"""The model that checks make where there is no other."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from donabe import _core
from donabe.store.gguf import GgufReader

PACKAGING = Path(__file__).parents[3] / "packaging"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    spec = importlib.util.spec_from_file_location("tiny_model", PACKAGING / "tiny_model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    first, second = (module.write_tiny_model(tmp_path / f"{n}.gguf") for n in range(2))
    assert first.read_bytes() == second.read_bytes()
    return first


def greedy(path: Path, *, use_extra_bufts: bool) -> list[int]:
    """The likeliest tokens after a prompt of several, and how clearly they are it."""
    model = _core.Model(str(path), _core.ModelParams(use_extra_bufts=use_extra_bufts))
    context = _core.Context(model, _core.ContextParams(n_ctx=256, n_batch=64, n_ubatch=64, n_threads=1))
    batch = _core.Batch(64)
    new, position, tokens = model.vocab.tokenize("1, 2, 3, 4, 5, 6, 7, 8, 9,"), 0, []
    for _ in range(24):
        batch.clear()
        batch.add_tokens(0, new, position, "last")
        context.decode(batch)
        position += len(new)
        logits = context.logits_view()[-1].copy()
        best, second = np.sort(logits)[[-1, -2]]
        assert best - second > 0.05 * logits.std()  # what an addition in another order could turn
        tokens.append(int(logits.argmax()))
        new = np.array(tokens[-1:], np.int32)
    context.close()
    model.close()
    return tokens


def test_weights_laid_out_for_this_cpu_say_what_plain_ones_say(model: Path) -> None:
    tokens = greedy(model, use_extra_bufts=True)
    assert tokens == greedy(model, use_extra_bufts=False)
    assert len(set(tokens)) > 12


def test_it_is_a_sound_file(model: Path) -> None:
    reader = GgufReader(model)
    assert len(reader.tensors) == 3 + 2 * 9
    reader.close()


def test_check_of_an_installation_answers_with_it() -> None:
    command = [sys.executable, str(PACKAGING / "check_installed.py"), "--tiny"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "the same greedy text" in done.stdout
