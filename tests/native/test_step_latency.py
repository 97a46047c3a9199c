"""The latency bound on real native code. Times are CPU seconds of the one thread that computes, so that a busy machine
does not matter; what the engine learns from are seconds of the clock, which only makes it more careful.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np
import pytest
from tests.native.engine_bench import KINDS, Bench, prompt

from donabe.engine.copies import Copies

BOUND_S = 0.03
N_PROMPT = int(os.environ.get("DONABE_LATENCY_TOKENS", "8192"))
N_BATCH = 2048
SLOW_RATE = 10e6  # bytes per second of a machine with slow copies


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["dense", "iswa", "hybrid", "hybrid_iswa"])
def test_gap_of_a_stream_stays_bounded_while_a_long_prompt_comes_in(
    kind: str, tiny_model: Callable[[str], str]
) -> None:
    bench = Bench(
        tiny_model(KINDS[kind]),
        n_ctx=N_PROMPT + 4 * N_BATCH,
        n_batch=N_BATCH,
        n_seq_max=4,
        n_parallel=2,
        max_step_latency_s=BOUND_S,
        flash_attention="auto",
    )
    bench.submit("stream", prompt(50), max_tokens=1 << 20, sampler_params={"temperature": 0.0})
    for _ in range(10):
        bench.engine.step()
    bench.submit("long", prompt(N_PROMPT, 1), max_tokens=1, sampler_params={"temperature": 0.0})
    gaps = []
    while "long" not in bench.finals:
        n_tokens = len(bench.tokens["stream"][0])
        started = time.thread_time()
        bench.engine.step()
        gaps.append(time.thread_time() - started)
        assert len(bench.tokens["stream"][0]) == n_tokens + 1, "a step without a token of the stream"
    print(f"{kind}: {len(gaps)} steps, gaps {np.percentile(gaps, [50, 99, 100]) * 1e3} ms of {BOUND_S * 1e3}")
    assert bench.n_evaluated >= N_PROMPT
    # Twice: CPU seconds, too, grow where something else fills the caches. Without the bound it was 76 to 654 ms.
    assert np.percentile(gaps, 99) <= 2 * BOUND_S
    assert max(gaps) <= 4 * BOUND_S
    assert sum(gaps) > 4 * BOUND_S, "the prompt is too short to need more than one step"


@pytest.mark.parametrize("kind", ["dense", "iswa", "hybrid", "hybrid_iswa"])
def test_copies_beside_a_stream_take_no_more_than_the_bound_leaves(
    kind: str, tiny_model: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_model(KINDS[kind])
    bench = Bench(path, n_ctx=2048, n_seq_max=16, n_parallel=3, max_step_latency_s=0.05, headroom_tokens=4)
    copies, n_copied = bench.engine._cache.copies, []

    def count(self: Copies, rate, n_bytes: int, started: float) -> None:
        rate.observe(n_bytes, n_bytes / SLOW_RATE)
        self.spent_s += n_bytes / SLOW_RATE
        n_copied.append(n_bytes)

    monkeypatch.setattr(Copies, "_count", count)
    for i in range(6):
        bench.answer(prompt(300, i), max_tokens=2, boundaries=(150,))
    copies.begin_step(None)
    bench.engine._cache.eviction.evict_one(0.0)  # so that sizes and rates are known
    bench.submit("stream", prompt(50, 50), max_tokens=120)
    for _ in range(5):
        bench.engine.step()
    for i in range(6):
        bench.submit(str(i), prompt(500, 10 + i), max_tokens=3, boundaries=(250,))
    while "stream" not in bench.finals:
        n_copied.clear()
        bench.engine.step()
        bench.engine.check()
        assert sum(n_copied) <= 1.05 * 0.05 * SLOW_RATE, "more than a whole step's time"
    bench.run()
    assert bench.engine._cache.eviction.n_evictions > 3
    plain = Bench(path, prefix_cache=False)
    for i in range(6):
        expected = plain.answer(prompt(500, 10 + i), max_tokens=3)
        bench.answers[str(i)][0].assert_equals(expected)
