"""Smaller ways to load a model that did not fit, in the order of what hurts least: context, then layers, then KV type.

Only what the user left to donabe may shrink; a number he gave stays. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from donabe.types import LoadOptions

SMALL_CONTEXTS = (4096, 2048)
# A model whose files take more than this share of free memory may have failed to load for lack of it.
TIGHT_SHARE = 0.66


def smaller_ways(options: LoadOptions) -> Iterator[tuple[LoadOptions, str]]:
    """(options, all that was given up), each smaller than the one before."""
    given_up: list[str] = []
    if options.n_ctx is None and options.n_ctx_per_request is None:
        for n_ctx in SMALL_CONTEXTS:
            options = msgspec.structs.replace(options, n_ctx=n_ctx)
            given_up = [f"its context is only {n_ctx} tokens"]
            yield options, _joined(given_up)
    if options.n_gpu_layers is None:
        options = msgspec.structs.replace(options, n_gpu_layers=0)
        given_up.append("it runs on the CPU")
        yield options, _joined(given_up)
    if options.type_k is None and options.type_v is None and options.flash_attention is not False:
        options = msgspec.structs.replace(options, type_k="q8_0", type_v="q8_0")
        given_up.append("its KV cache is kept in q8_0")
        yield options, _joined(given_up)


def _joined(parts: list[str]) -> str:
    return " and ".join((", ".join(parts[:-1]), parts[-1])) if len(parts) > 1 else parts[0]
