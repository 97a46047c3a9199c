"""Memory of loads: idle models go first, by the device they are on, then automatic values shrink, first by plan and
then because a load ran out of memory. Numbers of the user's stay."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest
from tests.fakes.machine import CELL_BYTES, GPU, LAYER_BYTES, N_CTX, N_LAYERS, FakeMachine
from tests.fakes.runner import RunnerFactory, make_spec

from donabe.errors import LoadError, RunnerStartError
from donabe.pool.pool import ModelPool, PoolLimits
from donabe.runner.plans import CPU
from donabe.types import LoadOptions

A, B, C = make_spec("a:latest"), make_spec("b:latest"), make_spec("c:latest")
AUTO = LoadOptions()
ONE = N_LAYERS * LAYER_BYTES + N_CTX * CELL_BYTES  # what a model takes as donabe would load it
LEAST = N_LAYERS * LAYER_BYTES + 2048 * CELL_BYTES // 2

SIX_LAYERS = "its context is only 4096 tokens, only 6 of its 8 layers are on devices and its KV cache is kept in q8_0"

MakePool = Callable[[FakeMachine], ModelPool]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@pytest.fixture
def factory() -> RunnerFactory:
    return RunnerFactory()


@pytest.fixture
def make_pool() -> MakePool:
    return lambda machine: ModelPool(machine, limits=PoolLimits(max_loaded=9), clock=Clock())


def names(pool: ModelPool) -> list[str]:
    return sorted(resident.spec.name for resident in pool.residents())


def given(options: LoadOptions) -> tuple[int | None, int | None, str | None]:
    return options.n_ctx, options.n_gpu_layers, options.type_k


async def test_what_fits_is_loaded_as_asked_after_one_plan(factory, make_pool):
    machine = FakeMachine(factory, ram=ONE)
    lease = await make_pool(machine).lease(A, AUTO)
    assert machine.tried == [AUTO]
    assert machine.n_plans == 1
    assert lease.notes == ()


async def test_idle_models_make_memory_for_a_new_one(factory, make_pool):
    machine = FakeMachine(factory, ram=2 * ONE + 10)
    pool = make_pool(machine)
    for spec in (A, B):
        (await pool.lease(spec, AUTO)).release()
    await pool.lease(C, AUTO)
    assert names(pool) == ["b:latest", "c:latest"]
    assert pool.n_evictions == 1


async def test_only_models_on_the_short_device_are_evicted(factory, make_pool):
    machine = FakeMachine(factory, ram=2 * ONE, gpu=ONE + 10)
    pool = make_pool(machine)
    (await pool.lease(A, LoadOptions(n_gpu_layers=0))).release()  # used longest ago, and on the CPU
    (await pool.lease(B, AUTO)).release()
    lease = await pool.lease(C, AUTO)
    assert names(pool) == ["a:latest", "c:latest"]
    assert lease.notes == ()
    assert lease.runner.info.device_bytes[GPU] == ONE


async def test_busy_models_are_not_sacrificed_and_the_new_one_is_smaller(factory, make_pool):
    machine = FakeMachine(factory, ram=ONE + N_LAYERS * LAYER_BYTES + 8192)
    pool = make_pool(machine)
    busy = await pool.lease(A, AUTO)
    lease = await pool.lease(B, AUTO)
    assert busy.runner.alive
    assert given(machine.tried[-1]) == (8192, None, None)
    assert lease.notes == ("not enough memory for b:latest: its context is only 8192 tokens",)
    assert (await pool.lease(B, AUTO)).notes == lease.notes
    assert len(machine.tried) == 2  # planned smaller, not tried larger


@pytest.mark.parametrize(
    ("ram", "gpu", "expected", "note"),
    [
        (ONE, ONE, (None, None, None), None),
        (ONE, ONE - 1, (16384, None, None), "its context is only 16384 tokens"),
        (ONE, 12_096, (4096, None, None), "its context is only 4096 tokens"),
        (ONE, 12_095, (4096, None, None), "its context is only 4096 tokens and only 7 of its 8 layers are on devices"),
        (ONE, 10, (4096, None, None), "its context is only 4096 tokens and it runs on the CPU"),
        # 5 layers fit the GPU and the other 3 not main memory; with half a cache 6 do, and the rest fits
        (3 * 1256, 5 * 1512, (4096, None, "q8_0"), SIX_LAYERS),
    ],
)
async def test_context_then_layers_then_kv_type_by_plan(factory, make_pool, ram, gpu, expected, note):
    machine = FakeMachine(factory, ram=ram, gpu=gpu)
    lease = await make_pool(machine).lease(A, AUTO)
    assert given(machine.tried[-1]) == expected
    assert len(machine.tried) == 1
    assert lease.notes == (() if note is None else (f"not enough memory for a:latest: {note}",))


async def test_on_the_cpu_alone_context_and_kv_type_shrink(factory, make_pool):
    machine = FakeMachine(factory, ram=LEAST)
    lease = await make_pool(machine).lease(A, AUTO)
    assert [given(way) for way in machine.tried] == [(2048, None, "q8_0")]
    assert "CPU" not in lease.notes[0]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (LoadOptions(n_ctx=9000), (9000, None, "q8_0")),
        (LoadOptions(n_ctx_per_request=9000), (9216, None, "q8_0")),  # the pool still holds one such request
        (LoadOptions(type_k="f16"), (2048, None, "f16")),
        (LoadOptions(flash_attention=False), (2048, None, None)),
    ],
)
async def test_numbers_of_the_user_never_shrink(factory, make_pool, asked, expected):
    machine = FakeMachine(factory, hidden={CPU: ONE - 100}, ram=ONE)
    with pytest.raises(LoadError, match="failed to allocate"):
        await make_pool(machine).lease(A, asked)
    assert given(machine.tried[-1]) == expected
    assert all(way.n_ctx_per_request == asked.n_ctx_per_request for way in machine.tried)


async def test_what_fits_in_no_way_is_tried_as_asked_and_told(factory, make_pool):
    """Weights may be read from the file again and again: shrinking the rest would be for nothing."""
    machine = FakeMachine(factory, hidden={CPU: -ONE}, ram=1000)
    lease = await make_pool(machine).lease(A, AUTO)
    assert machine.tried == [AUTO]
    assert lease.notes == (f"not enough memory for a:latest: it lacks {(ONE - 1000) // 1_000_000} MB of main memory",)


async def test_caches_shrink_until_they_are_in_memory_where_the_weights_do_not_fit(factory, make_pool):
    machine = FakeMachine(factory, hidden={CPU: -ONE}, ram=100)
    lease = await make_pool(machine).lease(A, AUTO)
    assert [given(way) for way in machine.tried] == [(8192, None, None)]
    assert lease.notes == ("not enough memory for a:latest: its context is only 8192 tokens",)


async def test_caches_beyond_all_memory_are_refused(factory, make_pool):
    machine = FakeMachine(factory, ram=ONE)
    with pytest.raises(LoadError, match=r"a:latest would take .* GB of memory") as caught:
        await make_pool(machine).lease(A, LoadOptions(n_ctx=300 * ONE))
    assert "num_ctx" in (caught.value.hint or "")
    assert machine.tried == []


# --- the plan was wrong ----------------------------------------------------------------------------------------------


async def test_failed_allocation_is_tried_again_smaller_although_the_plan_fits(factory, make_pool):
    machine = FakeMachine(factory, hidden={CPU: ONE - N_LAYERS * LAYER_BYTES - 4096}, ram=ONE)
    lease = await make_pool(machine).lease(A, AUTO)
    assert [way.n_ctx for way in machine.tried] == [None, 16384, 8192, 4096]
    assert lease.notes == ("not enough memory for a:latest: its context is only 4096 tokens",)


async def test_layers_leave_the_device_in_steps_after_the_context(factory, make_pool):
    machine = FakeMachine(factory, hidden={GPU: 2 * ONE - 5 * 1512}, ram=ONE, gpu=2 * ONE)
    lease = await make_pool(machine).lease(A, AUTO)
    tried = [(way.n_ctx, way.n_gpu_layers) for way in machine.tried]
    assert tried == [(None, None), (16384, None), (8192, None), (4096, None), (4096, 6), (4096, 4)]
    assert "only 4 of its 8 layers are on devices" in lease.notes[0]


async def test_the_last_steps_are_no_layer_and_a_smaller_cache(factory, make_pool):
    machine = FakeMachine(factory, hidden={CPU: 9, GPU: 9 * ONE}, ram=N_LAYERS * LAYER_BYTES + 4096, gpu=9 * ONE)
    lease = await make_pool(machine).lease(A, AUTO)
    tried = [given(way) for way in machine.tried]
    assert tried[-3:] == [(4096, 2, None), (4096, 0, None), (4096, 0, "q8_0")]
    assert "it runs on the CPU and its KV cache is kept in q8_0" in lease.notes[0]
    assert len(set(machine.tried)) == len(machine.tried)


async def test_no_load_is_repeated_on_a_machine_without_devices(factory, make_pool):
    machine = FakeMachine(factory, hidden={CPU: ONE}, ram=ONE)
    with pytest.raises(LoadError):
        await make_pool(machine).lease(A, AUTO)
    assert len(set(machine.tried)) == len(machine.tried) == 6
    assert all(way.n_gpu_layers is None for way in machine.tried)


async def test_idle_models_go_before_a_failed_load_gets_smaller(factory, make_pool):
    machine = FakeMachine(factory, hidden={CPU: 20}, ram=2 * ONE + 10)
    pool = make_pool(machine)
    (await pool.lease(A, AUTO)).release()
    lease = await pool.lease(B, AUTO)
    assert machine.tried == [AUTO, AUTO, AUTO]
    assert names(pool) == ["b:latest"]
    assert lease.notes == ()


async def test_a_child_that_the_system_killed_for_memory_is_tried_again(factory, make_pool):
    machine = FakeMachine(factory, ram=ONE)
    pool = make_pool(machine)
    killed = RunnerStartError("ended", exit_reason="signal 9 (SIGKILL)", is_out_of_memory=True)

    async def start(spec, options, *, admission):
        machine.error = killed if not machine.tried else None  # type: ignore[assignment]
        return await machine(spec, options, admission=admission)

    pool._start_runner = start
    lease = await pool.lease(A, AUTO)
    assert [way.n_ctx for way in machine.tried] == [None, 16384]
    assert "16384" in lease.notes[0]


@pytest.mark.parametrize("n_loaded", [0, 1])
async def test_a_load_that_can_not_be_planned_for_memory_is_given_up(factory, make_pool, n_loaded):
    """It is tried once more if other models could go; then the next load has its turn."""
    machine = FakeMachine(factory, ram=9 * ONE)
    pool = make_pool(machine)
    for spec in (A,)[:n_loaded]:
        (await pool.lease(spec, AUTO)).release()
    n_plans = machine.n_plans
    killed = RunnerStartError("ended while planning", exit_reason="signal 9 (SIGKILL)", is_out_of_memory=True)
    machine.plan_error, machine.error = killed, LoadError("failed to allocate", is_out_of_memory=True)
    with pytest.raises(RunnerStartError, match="ended while planning"):
        await asyncio.wait_for(pool.lease(B, AUTO), 5)
    assert (machine.n_plans - n_plans, len(machine.tried), names(pool)) == (1, 2 * n_loaded, [])
    machine.plan_error = machine.error = None
    await asyncio.wait_for(pool.lease(C, AUTO), 5)


async def test_a_load_that_can_not_be_planned_succeeds_once_other_models_are_gone(factory, make_pool):
    machine = FakeMachine(factory, ram=9 * ONE)
    pool = make_pool(machine)
    (await pool.lease(A, AUTO)).release()
    machine.plan_error = RunnerStartError("ended while planning", is_out_of_memory=True)
    await asyncio.wait_for(pool.lease(B, AUTO), 5)
    assert names(pool) == ["b:latest"]


async def test_steps_end_when_a_smaller_way_can_not_be_planned(factory, make_pool):
    machine = FakeMachine(factory, hidden={CPU: ONE}, ram=ONE)

    async def start(spec, options, *, admission):
        if len(machine.tried) == 2:
            machine.plan_error = RunnerStartError("ended while planning", is_out_of_memory=True)
        return await machine(spec, options, admission=admission)

    with pytest.raises(LoadError, match="failed to allocate"):
        await asyncio.wait_for(ModelPool(start, limits=PoolLimits()).lease(A, AUTO), 5)
    assert len(machine.tried) == 2


async def test_other_load_errors_are_final(factory, make_pool):
    machine = FakeMachine(factory, ram=ONE)
    machine.error = LoadError("not a model")
    with pytest.raises(LoadError, match="not a model"):
        await make_pool(machine).lease(A, AUTO)
    assert len(machine.tried) == 1


async def test_first_error_is_told_when_a_smaller_way_fails_otherwise(factory, make_pool):
    machine = FakeMachine(factory, hidden={CPU: ONE}, ram=ONE)

    async def start(spec, options, *, admission):
        if len(machine.tried) == 1:
            machine.error = LoadError("this cache type is unknown")
        return await machine(spec, options, admission=admission)

    with pytest.raises(LoadError, match="failed to allocate"):
        await ModelPool(start, limits=PoolLimits()).lease(A, AUTO)
    assert len(machine.tried) == 2


async def test_runners_that_can_not_plan_are_not_retried(factory):
    factory.error = LoadError("out of memory", is_out_of_memory=True)
    with pytest.raises(LoadError):
        await ModelPool(factory, limits=PoolLimits()).lease(A, AUTO)
    assert len(factory.loads) == 1


async def test_notes_of_the_runner_reach_who_leases_it(factory):
    pool = ModelPool(factory, limits=PoolLimits())
    (await pool.lease(A, AUTO)).release()
    factory.last.info = msgspec.structs.replace(factory.last.info, notes=("running on the CPU: pip install x",))
    assert (await pool.lease(A, AUTO)).notes == ("running on the CPU: pip install x",)
