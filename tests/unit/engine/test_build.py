"""Sizes chosen for a context: the user's numbers kept or refused, the rest by model and memory."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from donabe.engine.build import (
    CACHE_RAM_BYTES,
    CACHE_RAM_BYTES_MAX,
    MIN_POOL_CELLS,
    N_PARALLEL,
    _free_bytes,
    build_engine,
    cache_ram_bytes,
    cell_bytes,
    pool_size,
)
from donabe.engine.kinds import memory_kind
from donabe.errors import CapabilityError, InvalidRequestError
from donabe.runner.load import check_options
from donabe.types import LoadOptions

GIB = 1 << 30


def model(n_layer: int = 30, n_ctx_train: int = 8192, **meta: str) -> SimpleNamespace:
    meta = {"llama.attention.head_count": "9", "llama.attention.head_count_kv": "3"} | meta
    return SimpleNamespace(
        architecture="llama",
        n_layer=n_layer,
        n_embd=576,
        n_ctx_train=n_ctx_train,
        size_bytes=100 << 20,
        meta=lambda: meta,
    )


def sizes(options: LoadOptions, kind: str = "dense", free_bytes: int = 16 * GIB, n_draft_max: int = 0, **fields):
    return pool_size(model(**fields), memory_kind(kind, 512), options, n_draft_max, free_bytes, 256)


def test_cell_bytes_follow_heads_and_cache_types():
    assert cell_bytes(model(), LoadOptions()) == 30 * 3 * 64 * 2 * 2
    assert cell_bytes(model(), LoadOptions(type_k="q8_0", type_v="q8_0")) == 30 * 3 * 64 * 2 * 34 / 32
    assert cell_bytes(model(**{"llama.attention.key_length": "128"}), LoadOptions()) == 30 * 3 * (128 + 64) * 2


def test_automatic_pool_is_bounded_by_memory_and_keeps_a_minimum():
    rich, poor = sizes(LoadOptions()), sizes(LoadOptions(), free_bytes=100 << 20)
    assert rich.n_ctx * cell_bytes(model(), LoadOptions()) <= 512 << 20
    assert poor.n_ctx == MIN_POOL_CELLS < rich.n_ctx
    assert rich.n_ctx_per_request == 8192
    assert rich.n_parallel == N_PARALLEL < rich.n_seq_max


@pytest.mark.parametrize(("n_draft_max", "n_models"), [(8, 2), (0, 1)])
def test_automatic_pool_pays_for_the_draft_models_cells_too(n_draft_max: int, n_models: int) -> None:
    twin = model(n_layer=60)
    size = pool_size(twin, memory_kind("dense", 0), LoadOptions(), n_draft_max, 16 * GIB, 256, draft=twin)
    n_cells = (512 << 20) / (n_models * cell_bytes(twin, LoadOptions()))
    assert n_cells - 1024 < size.n_ctx <= n_cells


def test_numbers_of_the_user_are_kept():
    size = sizes(LoadOptions(n_ctx=1000, n_parallel=2, n_batch=64, n_ubatch=32))
    assert (size.n_ctx, size.n_ctx_per_request, size.n_parallel, size.n_batch, size.n_ubatch) == (1024, 1000, 2, 64, 32)


def test_cap_of_a_request_enlarges_an_automatic_pool():
    size = sizes(LoadOptions(n_ctx_per_request=100_000), free_bytes=1 << 20)
    assert size.n_ctx >= size.n_ctx_per_request == 100_000


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (LoadOptions(n_ctx=512, n_ctx_per_request=1024), "n_ctx_per_request"),
        (LoadOptions(n_parallel=64, n_batch=32), "n_batch"),
        (LoadOptions(n_parallel=300), "n_parallel"),
        (LoadOptions(n_ctx=1), "n_ctx"),
    ],
)
def test_contradictions_are_refused_by_name(options, field):
    with pytest.raises(InvalidRequestError) as error:
        sizes(options)
    assert error.value.field == field


def test_outputs_cover_every_sequence_and_its_guesses():
    for kind in ("dense", "iswa", "recurrent"):
        size = sizes(LoadOptions(n_parallel=8), kind, n_draft_max=4)
        assert size.n_outputs_max >= max(size.n_seq_max, 8 * 5)
        assert size.n_outputs_max <= size.n_batch


@pytest.mark.parametrize(
    ("pool_bytes", "machine_bytes", "expected"),
    [
        (10 << 20, 64 * GIB, CACHE_RAM_BYTES),
        (1 * GIB, 64 * GIB, 1 * GIB),
        (20 * GIB, 64 * GIB, 4 * GIB),
        (20 * GIB, 1024 * GIB, CACHE_RAM_BYTES_MAX),
        (1 * GIB, 2 * GIB, 128 << 20),
    ],
)
def test_automatic_ram_tier_follows_the_pool_and_the_machine(monkeypatch, pool_bytes, machine_bytes, expected):
    monkeypatch.setattr("donabe.engine.build.total_memory_bytes", lambda: machine_bytes)  # within containers, too
    assert cache_ram_bytes(LoadOptions(), pool_bytes) == expected
    assert cache_ram_bytes(LoadOptions(prefix_cache_ram_bytes=7), pool_bytes) == 7


def test_free_memory_of_the_pool_is_that_of_the_container(monkeypatch):
    monkeypatch.setattr("donabe.engine.build.free_memory_bytes", lambda: 123)
    native = SimpleNamespace(devices=lambda: [SimpleNamespace(kind="cpu", name="CPU")])
    assert _free_bytes(native, LoadOptions()) == 123


@pytest.mark.parametrize("name", ["prefix_cache_ram_bytes", "prefix_cache_pool_bytes", "n_waiting_max"])
def test_negative_budget_is_refused_by_name(name):
    with pytest.raises(InvalidRequestError) as error:
        check_options(LoadOptions(**{name: -1}))
    assert error.value.field == name


def test_model_that_cannot_generate_is_refused():
    encoder = SimpleNamespace(memory_kind="none", n_swa=0, has_decoder=False, description="bert 23M")
    with pytest.raises(CapabilityError) as error:
        build_engine(encoder, LoadOptions(), lambda outputs: None, native=object())
    assert error.value.capability == "completion"
