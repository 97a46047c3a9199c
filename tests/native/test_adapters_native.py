"""LoRA sets and cached prefixes: what one set computed is never used with another, nor with none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from donabe import _core
from donabe.engine.build import build_engine
from donabe.engine.request import EngineRequest, SequenceOutput
from donabe.types import LoadOptions

PROMPT = np.random.default_rng(0).integers(3, 128, 320).astype(np.int32)
Answer = tuple[int, list[dict[int, float]]]  # cached prompt tokens; log probabilities of the best tokens


@pytest.fixture
def answer(tiny_model: Callable[[str], str], adapter_path: str, tmp_path: Path) -> Callable[..., Answer]:
    """Answer the prompt in an engine of its own, made with these scales of the adapter; the folder is shared."""

    def run(*scales: float) -> Answer:
        path = tiny_model("llama")
        model = _core.Model(path)
        adapters = tuple((model.load_adapter(adapter_path), scale) for scale in scales)
        outputs: list[SequenceOutput] = []
        options = LoadOptions(
            n_threads=1, n_ctx=1024, n_parallel=2, flash_attention=False, prefix_cache_home=str(tmp_path)
        )
        engine = build_engine(model, options, outputs.extend, adapters=adapters, paths=(path,), n_draft_max=0)
        params = {"temperature": 0.0, "n_logprobs": 16}
        engine.submit(
            EngineRequest(request_id="r", tokens=PROMPT, max_tokens=4, ignore_eos=True, sampler_params=params)
        )
        while engine.has_work():
            engine.step()
        engine.close()
        usage = outputs[-1].usage
        assert usage is not None
        return usage.n_cached_tokens, [dict(top) for output in outputs for _, _, top in output.logprobs or []]

    return run


def difference(a: Answer, b: Answer) -> float:
    return max(abs(x[token] - y[token]) for x, y in zip(a[1], b[1], strict=True) for token in x.keys() & y.keys())


def test_stored_prefix_is_used_with_its_own_set_only(answer: Callable[..., Answer]) -> None:
    sets: tuple[tuple[float, ...], ...] = ((), (10.0,), (50.0,))
    firsts = {scales: answer(*scales) for scales in sets}
    assert [first[0] for first in firsts.values()] == [0, 0, 0]  # each computed its own
    assert difference(firsts[()], firsts[(10.0,)]) > 2e-4
    assert difference(firsts[(50.0,)], firsts[(10.0,)]) > 2e-4
    for scales, first in firsts.items():
        again = answer(*scales)
        assert again[0] >= len(PROMPT) - 1
        assert difference(again, first) < 1e-4
