"""A model with one context on the bench: feed tokens, read logits, compare."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from donabe import _core

Tokens = npt.NDArray[np.int32]
Logits = npt.NDArray[np.float32]

N_VOCAB = 128  # of the tiny models

ARCHITECTURE_BY_KIND = {
    "dense": "llama",
    "iswa": "gemma3",
    "recurrent": "mamba2",
    "hybrid": "granitehybrid",
    "hybrid_iswa": "lfm2",
    "opaque": "deepseek32",
}


def random_tokens(n: int, seed: int = 0) -> Tokens:
    return np.random.default_rng(seed).integers(3, N_VOCAB, n).astype(np.int32)


def join(*parts: Tokens) -> Tokens:
    return np.concatenate(parts)


class Lab:
    """n_batch tokens are fed per decode; positions are tracked per sequence by the context's memory."""

    def __init__(self, path: str | list[str], **params: object) -> None:
        settings: dict[str, object] = {
            "n_ctx": 1024,
            "n_batch": 128,
            "n_ubatch": 128,
            "n_seq_max": 8,
            "n_threads": 1,
            "flash_attention": "off",
        } | params
        self.model = _core.Model(path)
        self.context = _core.Context(self.model, _core.ContextParams(**settings))  # type: ignore[arg-type]
        self.memory = self.context.memory
        self.batch = _core.Batch(self.context.n_batch)

    def feed(self, seq_id: int, tokens: Tokens, chunk: int | None = None) -> Logits:
        """Append tokens to the sequence; logits after the last one."""
        step = chunk or self.context.n_batch
        position = self.memory.pos_max(seq_id) + 1
        for start in range(0, len(tokens), step):
            part = np.ascontiguousarray(tokens[start : start + step])
            self.batch.clear()
            self.batch.add_tokens(seq_id, part, position + start, "last")
            self.context.decode(self.batch)
        return self.logits()[-1]

    def fresh(self, tokens: Tokens, seq_id: int = 7) -> Logits:
        """Logits after the tokens, computed from nothing."""
        assert self.memory.seq_rm(seq_id)
        row = self.feed(seq_id, tokens)
        assert self.memory.seq_rm(seq_id)
        return row

    def logits(self) -> Logits:
        return self.context.logits_view().copy()


# One thread, no flash attention: the batch's shape changes only the order of sums. 1.0e-5 was seen with one compiler;
# one wrong token in the prompt moves these models by 2.7e-3 or more.
EXACT = 2e-5


def assert_close(got: Logits, expected: Logits, tolerance: float = EXACT) -> None:
    error = float(np.abs(got - expected).max() / np.abs(expected).max())
    assert error < tolerance, f"relative error {error:.2e}"


def assert_differs(got: Logits, expected: Logits, at_least: float = 1e-4) -> None:
    error = float(np.abs(got - expected).max() / np.abs(expected).max())
    assert error > at_least, f"relative error {error:.2e}"
