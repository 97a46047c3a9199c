"""Smaller ways to load: their order, and that a number of the user's stays as it is."""

from __future__ import annotations

import pytest

from donabe.pool.fallbacks import smaller_ways
from donabe.types import LoadOptions


def shrunk(options: LoadOptions) -> list[tuple[int | None, int | None, str | None]]:
    return [(way.n_ctx, way.n_gpu_layers, way.type_k) for way, _ in smaller_ways(options)]


def test_context_then_layers_then_kv_type() -> None:
    expected = [(4096, None, None), (2048, None, None), (2048, 0, None), (2048, 0, "q8_0")]
    assert shrunk(LoadOptions()) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (LoadOptions(n_ctx=9000), [(9000, 0, None), (9000, 0, "q8_0")]),
        (LoadOptions(n_ctx_per_request=9000), [(None, 0, None), (None, 0, "q8_0")]),
        (LoadOptions(n_gpu_layers=7), [(4096, 7, None), (2048, 7, None), (2048, 7, "q8_0")]),
        (LoadOptions(type_k="f16"), [(4096, None, "f16"), (2048, None, "f16"), (2048, 0, "f16")]),
        (LoadOptions(flash_attention=False), [(4096, None, None), (2048, None, None), (2048, 0, None)]),
        (LoadOptions(n_ctx=9000, n_gpu_layers=7, type_v="f16"), []),
    ],
)
def test_what_the_user_gave_stays(given: LoadOptions, expected: list[object]) -> None:
    assert shrunk(given) == expected


def test_notes_name_what_was_given_up_and_nothing_else() -> None:
    assert [note for _, note in smaller_ways(LoadOptions())] == [
        "its context is only 4096 tokens",
        "its context is only 2048 tokens",
        "its context is only 2048 tokens and it runs on the CPU",
        "its context is only 2048 tokens, it runs on the CPU and its KV cache is kept in q8_0",
    ]
    notes = [note for _, note in smaller_ways(LoadOptions(n_ctx=9000))]
    assert notes == ["it runs on the CPU", "it runs on the CPU and its KV cache is kept in q8_0"]
