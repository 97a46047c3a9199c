"""Many short requests from two threads with random cancels, on a real context: nobody is stuck, nothing stays behind.

DONABE_SOAK_REQUESTS sets how many (default 300). `ci/soak` sends 10,000 and prints what each kind of memory held and
gave back.
"""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Callable

import numpy as np
import psutil
import pytest
from tests.native.engine_bench import check_cells

from donabe import _core
from donabe.engine.engine import Engine
from donabe.engine.options import EngineOptions
from donabe.engine.request import EngineRequest, SequenceOutput
from donabe.errors import ServerBusyError

N_REQUESTS = int(os.environ.get("DONABE_SOAK_REQUESTS", "300"))


def make_request(i: int, random_: random.Random) -> EngineRequest:
    trunk = np.random.default_rng(random_.randrange(6)).integers(3, 128, 120)[: random_.randrange(120)]
    own = np.random.default_rng(i).integers(3, 128, random_.randrange(1, 40))
    return EngineRequest(
        request_id=str(i),
        tokens=np.concatenate((trunk, own)).astype(np.int32),
        sampler_params={"temperature": 1.0},
        max_tokens=random_.randrange(1, 16),
        caller=str(random_.randrange(3)),
        priority=random_.randrange(2),
        n=random_.choice((1, 1, 1, 2)),
        boundaries=(len(trunk) or 1,),
    )


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("architecture", ["llama", "gemma3", "mamba2", "minimax-01", "lfm2", "deepseek32"])
def test_every_request_ends_once_and_memory_stays_flat(architecture: str, tiny_model: Callable[[str], str]) -> None:
    n_requests = (
        N_REQUESTS if architecture != "deepseek32" else max(N_REQUESTS // 10, 40)
    )  # its states are copied whole
    model = _core.Model(tiny_model(architecture))
    params = _core.ContextParams(
        n_ctx=768, n_batch=64, n_ubatch=64, n_seq_max=10, n_outputs_max=32, n_threads=1, n_threads_batch=1
    )
    context = _core.Context(model, params)
    lasts: Counter[str] = Counter()

    def publish(outputs: list[SequenceOutput]) -> None:
        lasts.update(output.request_id for output in outputs if output.last)

    options = EngineOptions(n_parallel=6, n_waiting_max=20, cache_ram_bytes=1 << 20, headroom_tokens=4)
    engine = Engine(model, context, _core.SamplerSet(model, 1), options, publish)
    accepted: list[int] = []

    def send(ids: range) -> None:
        random_ = random.Random(ids.start)
        for i in ids:
            request = make_request(i, random_)
            while True:
                try:
                    engine.submit(request)
                    break
                except ServerBusyError:
                    threading.Event().wait(0.001)
            accepted.append(i)
            if random_.random() < 0.2:
                engine.cancel(str(random_.choice(accepted[-10:])))

    half = n_requests // 2
    senders = [threading.Thread(target=send, args=(ids,)) for ids in (range(half), range(half, n_requests))]
    for sender in senders:
        sender.start()
    process = psutil.Process()
    sizes: list[int] = []  # resident bytes, about every sixteenth step
    while engine.has_work() or any(sender.is_alive() for sender in senders):
        if engine.wait_for_work(0.1):
            engine.step()
        if engine.status().n_steps % 16 == 0:
            engine.check()
            sizes.append(process.memory_info().rss)
    assert len(accepted) == n_requests
    assert lasts == Counter(str(i) for i in range(n_requests))
    status = engine.status()
    assert status.n_running == status.n_waiting == 0
    assert status.n_cells_used == status.n_cells_cached
    check_cells(engine)
    free_everything(engine)
    first, last = max(sizes[: len(sizes) // 2]), max(sizes[len(sizes) // 2 :])
    print(
        f"{architecture}: {n_requests} requests, {status.n_steps} steps, {status.n_preemptions} preemptions, "
        f"{status.n_forks} forks; resident {sizes[0] / 1e6:.1f} MB at first, at most {first / 1e6:.1f} MB in the first "
        f"half and {last / 1e6:.1f} MB in the second; {status.n_cells_used} cells of idle prefixes, all freed"
    )
    assert last <= first + (16 << 20)


def free_everything(engine: Engine) -> None:
    """Drop what idle prefixes hold: then the whole pool can be filled again."""
    for branch in list(engine._cache.tree.branches):
        assert branch.is_idle
        engine._cache.drop(branch)
    assert engine.status().n_cells_used == 0
    assert engine._cache.seq_ids.used() == []
    check_cells(engine)
