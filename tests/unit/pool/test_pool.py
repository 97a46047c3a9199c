"""The pool: loading once, sharing, keep-alive, eviction, reload, crash, queue bounds, shutdown."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

import msgspec
import pytest
from tests.fakes.runner import RunnerFactory, make_spec

from donabe.errors import LoadError, ServerBusyError
from donabe.pool.pool import ModelPool, PoolLimits
from donabe.types import AdapterSpec, LoadOptions, ModelSpec

A, B, C = make_spec("a:latest"), make_spec("b:latest"), make_spec("c:latest")
AUTO = LoadOptions()


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def factory() -> RunnerFactory:
    return RunnerFactory()


@pytest.fixture
def make_pool(factory, clock):
    def make(**limits) -> ModelPool:
        return ModelPool(factory, limits=PoolLimits(**limits), clock=clock)

    return make


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + 5
    while not is_so():
        assert time.monotonic() < deadline, "it never came to it"
        await asyncio.sleep(0)


def names(pool: ModelPool) -> list[str]:
    return sorted(r.spec.name for r in pool.residents())


async def test_lease_loads_once_and_shares(make_pool, factory):
    pool = make_pool()
    first, second = await asyncio.gather(pool.lease(A, AUTO), pool.lease(A, AUTO))
    assert first.runner is second.runner
    assert len(factory.loads) == 1
    assert pool.residents()[0].n_leases == 2


async def test_two_names_of_one_file_share_a_runner(make_pool, factory):
    pool = make_pool()
    await pool.lease(A, AUTO)
    await pool.lease(make_spec("alias:latest", paths=A.paths), AUTO)
    assert len(factory.loads) == 1


async def test_loads_run_one_at_a_time(make_pool, factory):
    pool = make_pool()
    await asyncio.gather(*(pool.lease(spec, AUTO) for spec in (A, B, C)))
    assert factory.max_loading == 1
    assert names(pool) == ["a:latest", "b:latest", "c:latest"]


async def test_load_error_reaches_every_waiter_and_the_next_request_tries_again(make_pool, factory):
    pool = make_pool()
    factory.error = LoadError("out of memory")
    results = await asyncio.gather(pool.lease(A, AUTO), pool.lease(A, AUTO), return_exceptions=True)
    assert [type(r) for r in results] == [LoadError, LoadError]
    factory.error = None
    await pool.lease(A, AUTO)
    assert len(factory.loads) == 2


async def test_cancelled_waiter_does_not_undo_the_load(make_pool, factory):
    pool = make_pool()
    factory.gate = asyncio.Event()
    waiter = asyncio.create_task(pool.lease(A, AUTO))
    await settle()
    waiter.cancel()
    factory.gate.set()
    await settle()
    assert names(pool) == ["a:latest"]
    assert pool.residents()[0].n_leases == 0


async def test_idle_model_expires_after_keep_alive(make_pool, factory, clock):
    pool = make_pool(keep_alive_s=300)
    (await pool.lease(A, AUTO)).release()
    clock.now += 299
    pool.expire_idle()
    assert names(pool) == ["a:latest"]
    clock.now += 1
    pool.expire_idle()
    await settle()
    assert names(pool) == []
    assert factory.last.n_closes == 1


async def test_timer_lets_go_of_an_idle_model(factory):
    pool = ModelPool(factory, limits=PoolLimits(keep_alive_s=0.01))
    lease = await pool.lease(A, AUTO)
    await asyncio.sleep(0.03)
    assert factory.last.n_closes == 0  # in use, whatever the time
    lease.release()
    for _ in range(1000):
        if factory.last.n_closes:
            break
        await asyncio.sleep(0.005)
    assert factory.last.n_closes == 1
    assert names(pool) == []


async def test_timer_waits_for_the_last_of_several_models(factory):
    pool = ModelPool(factory, limits=PoolLimits(keep_alive_s=math.inf))
    (await pool.lease(A, AUTO, keep_alive_s=0.01)).release()
    (await pool.lease(B, AUTO, keep_alive_s=0.02)).release()
    (await pool.lease(C, AUTO)).release()
    for _ in range(1000):
        if names(pool) == ["c:latest"]:
            break
        await asyncio.sleep(0.005)
    assert names(pool) == ["c:latest"]


async def test_busy_model_does_not_expire(make_pool, clock):
    pool = make_pool(keep_alive_s=1)
    lease = await pool.lease(A, AUTO)
    clock.now += 100
    pool.expire_idle()
    assert names(pool) == ["a:latest"]
    lease.release()
    assert pool.residents()[0].expires_in_s == 1


async def test_keep_alive_zero_unloads_after_the_request(make_pool, factory):
    pool = make_pool()
    lease = await pool.lease(A, AUTO, keep_alive_s=0)
    assert factory.last.n_closes == 0
    lease.release()
    await settle()
    assert factory.last.n_closes == 1


async def test_model_that_is_not_kept_alive_serves_the_request_it_was_loaded_for(factory):
    pool = ModelPool(factory, limits=PoolLimits(keep_alive_s=0))
    lease = await asyncio.wait_for(pool.lease(A, AUTO), 5)
    assert len(factory.loads) == 1
    lease.release()
    await settle()
    assert names(pool) == []


async def test_keep_alive_of_a_request_stays_with_the_model(make_pool):
    pool = make_pool()
    (await pool.lease(A, AUTO, keep_alive_s=math.inf)).release()
    (await pool.lease(A, AUTO)).release()
    assert pool.residents()[0].expires_in_s == math.inf


async def test_release_twice_counts_once(make_pool):
    pool = make_pool()
    first, _second = await pool.lease(A, AUTO), await pool.lease(A, AUTO)
    first.release()
    first.release()
    assert pool.residents()[0].n_leases == 1


async def test_full_pool_evicts_the_least_recently_used_idle_model(make_pool, clock):
    pool = make_pool(max_loaded=2)
    for spec in (A, B, A):
        clock.now += 1
        (await pool.lease(spec, AUTO)).release()
    await pool.lease(C, AUTO)
    assert names(pool) == ["a:latest", "c:latest"]


async def test_full_pool_of_busy_models_waits_for_the_first_to_end(make_pool):
    pool = make_pool(max_loaded=2)
    _busy, ending = await pool.lease(A, AUTO), await pool.lease(B, AUTO)
    waiter = asyncio.create_task(pool.lease(C, AUTO))
    await settle()
    assert not waiter.done()
    ending.release()
    await waiter
    assert names(pool) == ["a:latest", "c:latest"]


async def test_other_context_size_reloads_when_idle(make_pool, factory):
    pool = make_pool()
    running = await pool.lease(A, AUTO)
    waiter = asyncio.create_task(pool.lease(A, LoadOptions(n_ctx_per_request=1024)))
    await settle()
    assert not waiter.done()
    running.release()
    await waiter
    assert [options.n_ctx_per_request for _, options in factory.loads] == [None, 1024]
    assert factory.runners[0].n_closes == 1


CHOSEN = LoadOptions(  # what donabe made of the options it was free in
    n_batch=512,
    n_ubatch=512,
    n_parallel=4,
    n_gpu_layers=31,
    main_gpu=0,
    n_threads=6,
    use_mmap=True,
    flash_attention=True,
    type_k="f16",
    type_v="f16",
    draft="/models/draft.gguf",
    n_draft_max=8,
)


@pytest.mark.parametrize(
    ("loaded", "wanted", "reloads"),
    [
        (AUTO, AUTO, False),
        (AUTO, LoadOptions(n_ctx_per_request=4096), False),  # what the automatic choice came to
        (LoadOptions(n_ctx_per_request=8192), LoadOptions(n_ctx_per_request=100_000), False),  # clamped to the trained
        (LoadOptions(n_ctx_per_request=6000), AUTO, False),
        (LoadOptions(n_ctx_per_request=64), AUTO, True),
        (LoadOptions(n_ctx_per_request=64), LoadOptions(n_ctx_per_request=65), True),
        (AUTO, LoadOptions(n_batch=256), True),
        (AUTO, LoadOptions(n_batch=512), False),
        (LoadOptions(n_batch=256), AUTO, False),
        (LoadOptions(n_batch=4096), LoadOptions(n_batch=4096), False),  # asked for alike, whatever it came to
        (AUTO, LoadOptions(n_ubatch=512), False),
        (AUTO, LoadOptions(n_ubatch=64), True),
        (AUTO, LoadOptions(n_parallel=4), False),
        (AUTO, LoadOptions(n_parallel=2), True),
        (AUTO, LoadOptions(n_gpu_layers=-1), False),
        (AUTO, LoadOptions(n_gpu_layers=31), False),
        (AUTO, LoadOptions(n_gpu_layers=99), False),  # it has no more
        (AUTO, LoadOptions(n_gpu_layers=3), True),
        (AUTO, LoadOptions(n_gpu_layers=0), True),
        (AUTO, LoadOptions(main_gpu=0), False),
        (AUTO, LoadOptions(main_gpu=1), True),
        (LoadOptions(main_gpu=1), LoadOptions(main_gpu=1), False),
        (LoadOptions(main_gpu=1), AUTO, False),
        (AUTO, LoadOptions(n_threads=6), False),
        (AUTO, LoadOptions(n_threads=5), True),
        (LoadOptions(n_threads=5), AUTO, False),
        (AUTO, LoadOptions(use_mmap=True), False),
        (AUTO, LoadOptions(use_mmap=False), True),
        (LoadOptions(use_mmap=False), AUTO, False),  # unset matches
        (AUTO, LoadOptions(use_mlock=True), True),
        (AUTO, LoadOptions(flash_attention=True), False),
        (AUTO, LoadOptions(flash_attention=False), True),
        (AUTO, LoadOptions(type_k="f16", type_v="f16"), False),
        (AUTO, LoadOptions(type_k="q8_0", type_v="q8_0"), True),
        (LoadOptions(type_k="q8_0", type_v="q8_0"), AUTO, False),
        (AUTO, LoadOptions(draft="/models/draft.gguf"), False),
        (AUTO, LoadOptions(draft="/models/other.gguf"), True),
        (AUTO, LoadOptions(draft=""), True),
        (LoadOptions(draft="/models/other.gguf"), AUTO, False),
        (AUTO, LoadOptions(n_draft_max=8), False),
        (AUTO, LoadOptions(n_draft_max=0), True),
        (AUTO, LoadOptions(swa_full=True), True),
        (AUTO, LoadOptions(pooling="mean"), True),
        (AUTO, LoadOptions(prefix_cache=False), True),
    ],
)
async def test_reload_rules(factory, clock, loaded, wanted, reloads):
    given = {name: value for name in CHOSEN.__struct_fields__ if (value := getattr(loaded, name)) not in (None, False)}
    factory.info = {"loaded": msgspec.structs.replace(CHOSEN, **given), "n_layers": 31, "n_gpu_layers": 31}
    pool = ModelPool(factory, limits=PoolLimits(), clock=clock)
    (await pool.lease(A, loaded)).release()
    await pool.lease(A, wanted)
    assert len(factory.loads) == 1 + reloads
    assert len(pool.residents()) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"projector": "/models/mmproj.gguf"},
        {"draft": "/models/draft.gguf"},
        {"adapters": (AdapterSpec(path="/models/a.gguf"),)},
        {"adapters": (AdapterSpec(path="/models/a.gguf", scale=0.5),)},
        {"template": "{{ .Prompt }}"},
        {"parser": "qwen3"},
    ],
)
async def test_other_files_and_templates_are_another_runner(make_pool, factory, changes):
    pool = make_pool()
    (await pool.lease(A, AUTO)).release()
    await pool.lease(make_spec("a:latest", **changes), AUTO)
    assert len(factory.loads) == 2
    await pool.lease(make_spec("other:latest", paths=A.paths, **changes), AUTO)
    assert len(factory.loads) == 2


@pytest.mark.parametrize("changes", [{"system": "Be brief."}, {"parameters": {"temperature": 0}}, {"name": "b:latest"}])
async def test_what_only_requests_are_made_of_shares_the_runner(make_pool, factory, changes):
    pool = make_pool()
    await pool.lease(A, AUTO)
    await pool.lease(make_spec(**{"name": "a:latest", "paths": A.paths} | changes), AUTO)
    assert len(factory.loads) == 1


async def test_embedding_and_generation_runners_live_side_by_side(make_pool, factory):
    pool = make_pool()
    await pool.lease(A, AUTO)
    await pool.lease(A, LoadOptions(embedding=True))
    assert len(pool.residents()) == 2


async def test_crashed_runner_is_replaced_at_once_then_with_growing_delay(make_pool, factory, clock):
    pool = make_pool()
    lease = await pool.lease(A, AUTO)
    factory.last.alive = False
    fresh = await asyncio.wait_for(pool.lease(A, AUTO), 1)
    assert fresh.runner is factory.runners[1]
    lease.release()
    factory.last.alive = False
    waiter = asyncio.create_task(pool.lease(A, AUTO))
    await settle()
    assert not waiter.done()
    clock.now += 0.5
    await asyncio.wait_for(waiter, 2)


async def test_crash_of_one_model_leaves_another_alone(make_pool, factory):
    pool = make_pool()
    (await pool.lease(A, AUTO)).release()
    kept = await pool.lease(B, AUTO)
    factory.runners[0].alive = False
    await pool.lease(A, AUTO)
    assert kept.runner.alive


async def test_full_queue_is_refused_with_retry_after(make_pool, factory):
    pool = make_pool(max_queue=0)
    factory.gate = asyncio.Event()
    waiter = asyncio.create_task(pool.lease(A, AUTO))
    await settle()
    with pytest.raises(ServerBusyError, match="maximum pending requests exceeded") as caught:
        await pool.lease(B, AUTO)
    assert caught.value.retry_after_s > 0
    factory.gate.set()
    await waiter


async def test_requests_queued_in_a_runner_are_bounded(make_pool):
    pool = make_pool(max_queue=1)
    for _ in range(4 + 1):  # the scripted runner works on four at once
        await pool.lease(A, AUTO)
    with pytest.raises(ServerBusyError):
        await pool.lease(A, AUTO)


async def test_unload_waits_for_running_requests(make_pool, factory):
    pool = make_pool()
    lease = await pool.lease(A, AUTO)
    pool.unload(A)
    await settle()
    assert factory.last.n_closes == 0
    lease.release()
    await settle()
    assert factory.last.n_closes == 1


async def test_close_drains_then_stops_runners(make_pool, factory):
    pool = make_pool()
    lease = await pool.lease(A, AUTO)
    closing = asyncio.create_task(pool.close(drain_s=5))
    await settle()
    assert factory.last.n_closes == 0
    with pytest.raises(ServerBusyError, match="shutting down"):
        await pool.lease(A, AUTO)
    lease.release()
    await asyncio.wait_for(closing, 1)
    assert factory.last.n_closes == 1


async def test_close_does_not_wait_longer_than_asked(make_pool, factory):
    pool = make_pool()
    await pool.lease(A, AUTO)
    await asyncio.wait_for(pool.close(drain_s=0.01), 1)
    assert factory.last.n_closes == 1


async def test_close_ends_a_load_that_is_under_way(make_pool, factory):
    pool = make_pool()
    factory.gate = asyncio.Event()
    waiter = asyncio.create_task(pool.lease(A, AUTO))
    await settle()
    await asyncio.wait_for(pool.close(), 1)
    with pytest.raises(ServerBusyError):
        await waiter


async def test_load_errors_do_not_show_where_files_are(make_pool, factory):
    pool = make_pool()
    factory.error = LoadError("failed to load model '/models/a:latest.gguf': bad magic")
    with pytest.raises(LoadError, match=r"^failed to load model 'a:latest\.gguf': bad magic$"):
        await pool.lease(A, AUTO)


# --- more models than slots ------------------------------------------------------------------------------------------


async def use(pool: ModelPool, spec: ModelSpec, seconds: float = 0.0) -> None:
    lease = await pool.lease(spec, AUTO)
    await asyncio.sleep(seconds)
    lease.release()


@pytest.mark.parametrize("keep_alive_s", [300, 0])
@pytest.mark.parametrize("n_slots", [1, 2])
async def test_models_that_are_wanted_at_once_are_each_used_before_they_make_room(
    make_pool, factory, clock, keep_alive_s, n_slots
):
    """The other slots are of models in use all the time."""
    pool = make_pool(max_loaded=n_slots, keep_alive_s=keep_alive_s)
    if n_slots == 2:
        await pool.lease(C, AUTO)
    await asyncio.wait_for(asyncio.gather(*(use(pool, spec) for spec in (A, B, A, B))), 5)
    assert [spec.name for spec, _ in factory.loads][n_slots - 1 :] == ["a:latest", "b:latest"]


async def test_all_who_waited_for_a_load_are_served_by_it_though_the_first_is_done_at_once(make_pool, factory):
    pool = make_pool(max_loaded=1, keep_alive_s=0)

    async def use_for_a_moment() -> None:
        (await pool.lease(A, AUTO)).release()

    await asyncio.gather(use_for_a_moment(), use_for_a_moment())
    assert len(factory.loads) == 1
    await asyncio.wait_for(asyncio.gather(use_for_a_moment(), use(pool, B), use_for_a_moment()), 5)
    assert len(factory.loads) == 3


@pytest.mark.parametrize("keep_alive_s", [300, 0])
async def test_model_that_nobody_waits_for_any_more_makes_room(make_pool, factory, keep_alive_s):
    """The one who asked for it left when its load was done, before he could use it."""
    pool = make_pool(max_loaded=1, keep_alive_s=keep_alive_s)
    factory.gate = asyncio.Event()
    waiter = asyncio.create_task(pool.lease(A, AUTO))
    await settle()
    other = asyncio.create_task(pool.lease(B, AUTO))
    await settle()
    factory.gate.set()
    await until(lambda: factory.runners)
    waiter.cancel()
    await asyncio.wait_for(other, 5)
    assert [spec.name for spec, _ in factory.loads] == ["a:latest", "b:latest"]


async def test_model_that_is_not_kept_alive_goes_though_nobody_came_to_use_it(factory):
    pool = ModelPool(factory, limits=PoolLimits(keep_alive_s=0))
    factory.gate = asyncio.Event()
    waiter = asyncio.create_task(pool.lease(A, AUTO))
    await settle()
    factory.gate.set()
    await until(lambda: factory.runners)
    waiter.cancel()
    await asyncio.wait({waiter}, timeout=5)
    assert waiter.cancelled()
    await until(lambda: pool.is_empty)


async def test_requests_that_overlap_do_not_keep_other_models_out(make_pool, factory):
    pool = make_pool(max_loaded=1)
    first = await pool.lease(A, AUTO)
    other = asyncio.create_task(pool.lease(B, AUTO))
    await settle()
    second = asyncio.create_task(pool.lease(A, AUTO))
    await settle()
    assert not second.done()
    first.release()
    lease = await asyncio.wait_for(other, 5)
    await settle()
    assert not second.done()
    lease.release()
    (await asyncio.wait_for(second, 5)).release()
    assert [spec.name for spec, _ in factory.loads] == ["a:latest", "b:latest", "a:latest"]


async def test_models_in_steady_use_take_turns_and_each_turn_serves_all_who_waited(factory):
    pool = ModelPool(factory, limits=PoolLimits(max_loaded=1))
    served = {A.name: 0, B.name: 0}
    is_over = False

    async def client(spec: ModelSpec, seconds: float) -> None:
        while not is_over:
            await use(pool, spec, seconds)
            served[spec.name] += 1

    clients = [asyncio.create_task(client(spec, seconds)) for spec in (A, B) for seconds in (0.003, 0.004, 0.005)]
    await until(lambda: min(served.values()) >= 9)
    is_over = True
    await asyncio.wait_for(asyncio.gather(*clients), 5)
    assert len(factory.loads) <= sum(served.values()) / 3 + 2


async def test_model_that_yielded_serves_on_when_another_was_idle_first(make_pool, factory, clock):
    pool = make_pool(max_loaded=2)
    kept = await pool.lease(A, AUTO)  # used longest ago: yields
    clock.now += 1
    ending = await pool.lease(B, AUTO)
    load = asyncio.create_task(pool.lease(C, AUTO))
    await settle()
    held_back = asyncio.create_task(pool.lease(A, AUTO))
    (await asyncio.wait_for(pool.lease(B, AUTO), 5)).release()  # only one yields
    await settle()
    assert not held_back.done()
    ending.release()
    await asyncio.wait_for(load, 5)
    assert (await asyncio.wait_for(held_back, 5)).runner is kept.runner
    assert len(factory.loads) == 3
    assert pool.n_evictions == 1


async def test_one_load_makes_one_model_go(make_pool, factory):
    """Two become idle at once."""
    pool = make_pool(max_loaded=2)
    leases = [await pool.lease(spec, AUTO) for spec in (A, B)]
    load = asyncio.create_task(pool.lease(C, AUTO))
    await settle()
    for lease in leases:
        lease.release()
    await asyncio.wait_for(load, 5)
    assert names(pool) == ["b:latest", "c:latest"]


async def test_no_second_model_goes_while_the_first_is_on_its_way_out(make_pool, factory):
    pool = make_pool(max_loaded=2)
    (await pool.lease(A, AUTO)).release()
    may_end = asyncio.Event()
    factory.last.close = may_end.wait
    factory.gate = asyncio.Event()
    waiter, load = (asyncio.create_task(pool.lease(spec, AUTO)) for spec in (B, C))
    await settle()
    factory.gate.set()
    await until(lambda: len(factory.runners) == 2)
    waiter.cancel()  # B is idle when the pool looks again
    await settle()
    may_end.set()
    await asyncio.wait_for(load, 5)
    assert names(pool) == ["b:latest", "c:latest"]


async def test_no_model_yields_while_another_ends_for_a_reload(make_pool, factory):
    pool = make_pool(max_loaded=2)
    await pool.lease(B, AUTO)  # used longest ago
    ending = await pool.lease(A, AUTO)
    waiting = [
        asyncio.create_task(pool.lease(spec, options)) for spec, options in ((A, LoadOptions(n_batch=8)), (C, AUTO))
    ]
    await settle()
    await asyncio.wait_for(pool.lease(B, AUTO), 5)
    ending.release()
    await asyncio.wait(waiting, timeout=5, return_when=asyncio.FIRST_COMPLETED)
    assert factory.runners[1].n_closes == 1
    for task in waiting:
        task.cancel()


async def test_model_that_crashed_while_it_yields_makes_room_at_the_next_request(make_pool, factory):
    pool = make_pool(max_loaded=1)
    await pool.lease(A, AUTO)
    load = asyncio.create_task(pool.lease(B, AUTO))
    await settle()
    factory.last.alive = False
    again = asyncio.create_task(pool.lease(A, AUTO))
    (await asyncio.wait_for(load, 5)).release()
    await asyncio.wait_for(again, 5)


async def test_close_lets_go_of_those_who_are_held_back(make_pool, factory):
    pool = make_pool(max_loaded=1)
    await pool.lease(A, AUTO)
    waiting = []
    for spec in (B, A):
        waiting.append(asyncio.create_task(pool.lease(spec, AUTO)))
        await settle()
    await asyncio.wait_for(pool.close(), 5)
    results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
    assert [type(result) for result in results] == [ServerBusyError, ServerBusyError]


async def test_pool_is_empty_only_without_models_that_load_or_end(make_pool, factory):
    pool = make_pool()
    assert pool.is_empty
    factory.gate = asyncio.Event()
    waiter = asyncio.create_task(pool.lease(A, AUTO))
    await settle()
    assert not pool.is_empty
    waiter.cancel()
    factory.gate.set()
    await settle()
    runner, may_end = factory.last, asyncio.Event()
    runner.close = may_end.wait
    pool.unload(A)
    await settle()
    assert not pool.residents()
    assert not pool.is_empty
    may_end.set()
    await settle()
    assert pool.is_empty
