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
    """(options, what was given up), each smaller than the one before."""
    if options.n_ctx is None and options.n_ctx_per_request is None:
        for n_ctx in SMALL_CONTEXTS:
            options = msgspec.structs.replace(options, n_ctx=n_ctx)
            yield options, f"its context is only {n_ctx} tokens"
    if options.n_gpu_layers is None:
        options = msgspec.structs.replace(options, n_gpu_layers=0)
        yield options, "it runs on the CPU with a small context"
    if options.type_k is None and options.type_v is None and options.flash_attention is not False:
        options = msgspec.structs.replace(options, type_k="q8_0", type_v="q8_0")
        yield options, "its context is small and kept in q8_0"
