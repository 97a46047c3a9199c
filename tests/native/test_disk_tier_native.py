"""The disk tier over the real module: an engine closed, another built in the same folder, the same answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from donabe import _core
from donabe.engine.build import build_engine
from donabe.engine.disk_tier import FOLDER
from donabe.engine.request import EngineRequest, SequenceOutput
from donabe.types import LoadOptions

KINDS = {
    "dense": "llama",
    "iswa": "gemma3",
    "recurrent": "mamba2",
    "hybrid": "minimax-01",
    "hybrid_iswa": "lfm2",
    "opaque": "deepseek32",
}
N_PROMPT = 320


def prompt(n: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(3, 128, n).tolist()


class Life:
    """One engine, from its load to its close."""

    def __init__(self, path: str, home: Path | None, **options) -> None:
        self.outputs: list[SequenceOutput] = []
        load = LoadOptions(
            n_threads=1,
            n_ctx=2048,
            n_parallel=2,
            flash_attention=options.pop("flash_attention", False),
            prefix_cache_home=None if home is None else str(home),
            **options,
        )
        self.engine = build_engine(_core.Model(path), load, self.outputs.extend, paths=(path,), n_draft_max=0)

    def __enter__(self) -> Life:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()

    def answer(self, tokens, **fields) -> tuple[list[int], int, list[dict[int, float]]]:
        """Tokens, cached prompt tokens, and log probabilities of the best tokens."""
        self.outputs.clear()
        request = EngineRequest(
            request_id="r",
            tokens=np.asarray(tokens, np.int32),
            max_tokens=8,
            ignore_eos=True,
            sampler_params={"temperature": 0.0, "n_logprobs": 16},
            **fields,
        )
        self.engine.submit(request)
        while self.engine.has_work():
            self.engine.step()
            self.engine.check()
        usage = self.outputs[-1].usage
        assert usage is not None
        best = [dict(top) for output in self.outputs for _, _, top in output.logprobs or []]
        return [token for output in self.outputs for token in output.tokens], usage.n_cached_tokens, best


TOLERANCE = 5e-3  # a wrong prefix shows as 0.09 or more; sparse attention picks other cells at near ties


def assert_same(got, expected) -> None:
    assert got[0] == expected[0]
    for a, b in zip(got[2], expected[2], strict=True):
        assert max(abs(a[token] - b[token]) for token in a.keys() & b.keys()) < TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_a_prefix_survives_an_unload(kind, tiny_model: Callable[[str], str], tmp_path):
    path = tiny_model(KINDS[kind])
    first = prompt(N_PROMPT)
    with Life(path, tmp_path) as life:
        answer = life.answer(first, boundaries=(280,))
    again = [*first, *answer[0], *prompt(20, 2)]
    branch = [*first[:280], *prompt(30, 3)]
    with Life(path, None) as plain:
        expected = [plain.answer(tokens, use_cache=False, boundaries=(280,)) for tokens in (again, branch, first)]
    with Life(path, tmp_path) as life:
        got = life.answer(again, boundaries=(280,))
        assert got[1] >= N_PROMPT
        assert_same(got, expected[0])
    for tokens, wanted, n_cached in ((branch, expected[1], 280), (first, expected[2], 280)):
        with Life(path, tmp_path) as life:
            got = life.answer(tokens, boundaries=(280,))
            assert_same(got, wanted)
            if kind != "opaque":  # which can only go on where a stored prefix ends
                assert got[1] >= n_cached


def test_a_state_from_another_layout_is_not_used(tiny_model: Callable[[str], str], tmp_path):
    path = tiny_model("llama")
    with Life(path, tmp_path) as life:
        expected = life.answer(prompt(N_PROMPT))
    for options in ({"flash_attention": True}, {"type_k": "f32"}, {"type_v": "f32"}):
        with Life(path, tmp_path, **options) as life:
            assert life.answer(prompt(N_PROMPT))[1] == 0
    with Life(path, tmp_path) as life:
        got = life.answer(prompt(N_PROMPT))
        assert got[1] == N_PROMPT - 1
        assert_same(got, expected)


@pytest.mark.parametrize("position", [3, 40, 2000, -50_000, -1])
def test_a_changed_file_never_reaches_the_native_module(position, tiny_model: Callable[[str], str], tmp_path):
    path = tiny_model("llama")
    with Life(path, tmp_path) as life:
        expected = life.answer(prompt(N_PROMPT))
    (file,) = tmp_path.glob(f"{FOLDER}/*/*")
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)
    with Life(path, tmp_path) as life:
        got = life.answer(prompt(N_PROMPT))
        assert got[1] == 0
        assert_same(got, expected)
    assert not file.exists()


def test_turned_off_it_writes_nothing(tiny_model: Callable[[str], str], tmp_path):
    with Life(tiny_model("llama"), tmp_path, prefix_cache_disk_bytes=0) as life:
        life.answer(prompt(N_PROMPT))
    assert not list(tmp_path.iterdir())
