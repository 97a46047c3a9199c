"""Times one setup on the real model: a prompt, one stream, several streams. Sizes follow from what the model can do in
about a second, so that a large one is measured too, with less of it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from donabe.engine.tuning import Setup, Speed

if TYPE_CHECKING:
    from collections.abc import Callable

    from donabe._core import Context, Model

PART_S = 0.7  # each of the three parts of a measurement takes about so long ...
MAX_PROMPT = 1024  # ... with at most so many prompt tokens
MIN_PROMPT = 32
MAX_STEPS = 48
N_STREAMS = 4
N_CTX = 4096


class NativeBench:
    """Implements `donabe.engine.tuning.Bench`.

    Args:
        load: Makes the model with or without repacked weights; called when the setup needs another one.
        can_repack: Whether both kinds are worth loading: not when reading the weights takes long.
    """

    def __init__(self, native: Any, load: Callable[[bool], Model], *, can_repack: bool) -> None:
        self._native = native
        self._load = load
        self._can_repack = can_repack
        self._models: dict[bool, Model] = {}
        self._n_prompt = MIN_PROMPT
        self._is_sized = False
        self._automatic_attention: bool | None = None  # what the native side chooses by itself

    def supports(self, setup: Setup) -> bool:
        """Micro-batches only count where the prompt measured fills them; what is automatic needs no name."""
        is_named = setup.flash_attention is not None and setup.flash_attention == self._automatic_attention
        can_fill = setup.n_ubatch == 512 or self._n_prompt >= MAX_PROMPT
        return can_fill and not is_named and (setup.repack or self._can_repack)

    def measure(self, setup: Setup) -> Speed:
        context = self._context(setup)
        try:
            context.warm_up()
            if not self._is_sized:
                self._size(context)
            prefill_s = self._prefill(context, 0, self._n_prompt)
            decode_s = self._decode(context, 1)
            for seq_id in range(1, N_STREAMS):
                self._prefill(context, seq_id, MIN_PROMPT)
            batch_s = self._decode(context, N_STREAMS)
        finally:
            context.close()
        return Speed(decode=1 / decode_s, batch=N_STREAMS / batch_s, prefill=self._n_prompt / prefill_s)

    def close(self) -> None:
        for model in self._models.values():
            model.close()
        self._models.clear()

    def _context(self, setup: Setup) -> Context:
        model = self._models.get(setup.repack)
        if model is None:
            self.close()  # never two copies of the weights
            model = self._models[setup.repack] = self._load(setup.repack)
        flash_attention = {None: "auto", True: "on", False: "off"}[setup.flash_attention]
        context: Context = self._native.Context(
            model,
            self._native.ContextParams(
                n_ctx=N_CTX,
                n_batch=MAX_PROMPT,
                n_ubatch=setup.n_ubatch,
                n_seq_max=N_STREAMS,
                n_outputs_max=N_STREAMS,
                n_threads=setup.n_threads,
                n_threads_batch=setup.n_threads,
                flash_attention=flash_attention,
            ),
        )
        if setup.flash_attention is None:
            self._automatic_attention = context.flash_attention
        return context

    def _model(self) -> Model:
        return next(iter(self._models.values()))

    def _size(self, context: Context) -> None:
        seconds = self._prefill(context, 0, MIN_PROMPT)
        wanted = int(MIN_PROMPT * PART_S / seconds)
        most = min(MAX_PROMPT, self._model().n_ctx_train - 2 * MAX_STEPS)  # some models have no further positions
        self._n_prompt = max(MIN_PROMPT, min(most, wanted // 128 * 128))
        self._is_sized = True

    def _prefill(self, context: Context, seq_id: int, n_tokens: int) -> float:
        context.memory.seq_rm(seq_id)
        batch = self._native.Batch(n_tokens)
        batch.add_tokens(seq_id, self._tokens(context, n_tokens, seq_id), 0, "last")
        return _timed(context, batch)

    def _decode(self, context: Context, n_rows: int) -> float:
        """Seconds of a quick step: disturbances only ever make steps longer."""
        batch = self._native.Batch(n_rows)
        seq_ids = np.arange(n_rows, dtype=np.int32)
        tokens = self._tokens(context, n_rows, 7)
        times: list[float] = []
        while len(times) < 3 or (sum(times) < PART_S and len(times) < MAX_STEPS):
            positions = np.array([context.memory.pos_max(int(i)) + 1 for i in seq_ids], np.int32)
            batch.clear()
            batch.add_decode(seq_ids, tokens, positions)
            times.append(_timed(context, batch))
        return sorted(times)[len(times) // 4]

    def _tokens(self, context: Context, n_tokens: int, seed: int) -> np.ndarray[Any, np.dtype[np.int32]]:
        n_vocab = self._model().vocab.n_tokens
        return np.random.default_rng(seed).integers(n_vocab // 4, n_vocab // 2, n_tokens).astype(np.int32)


def _timed(context: Context, batch: Any) -> float:
    started = time.perf_counter()
    context.decode(batch)
    context.synchronize()
    return max(time.perf_counter() - started, 1e-6)
