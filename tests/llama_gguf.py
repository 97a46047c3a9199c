"""Writes a random llama of any depth as a GGUF file, for tests that count layers."""

from __future__ import annotations

import numpy as np
from tests.fakes.registry_gguf import FLOAT32, INT32, STRING, FakeGguf, FakeTensor, Value, array, text, u32

N_EMBD, N_FF, N_HEAD = 64, 256, 4
LAYER_BYTES = 4 * (2 * N_EMBD + 4 * N_EMBD * N_EMBD + 3 * N_EMBD * N_FF)  # of one layer's weights
TOKENS = ["<unk>", "<s>", "</s>", "▁", *(chr(code) for code in range(33, 127))]


def random_llama(n_layer: int) -> FakeGguf:
    """64 wide, f32, 98 characters."""
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(TOKENS), N_EMBD),
        "output_norm.weight": (N_EMBD,),
        "output.weight": (len(TOKENS), N_EMBD),
    }
    for layer in range(n_layer):
        parts = {name: (N_EMBD, N_EMBD) for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
        parts |= {"ffn_gate": (N_FF, N_EMBD), "ffn_up": (N_FF, N_EMBD), "ffn_down": (N_EMBD, N_FF)}
        norms = {"attn_norm": (N_EMBD,), "ffn_norm": (N_EMBD,)}
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in (parts | norms).items()}
    tensors, blobs = [], []
    for name, shape in shapes.items():
        values = rng.normal(scale=0.3, size=shape) if len(shape) > 1 else np.ones(shape)
        raw = values.astype(np.float32).tobytes()
        tensors.append(FakeTensor(name, shape[::-1], n_bytes=len(raw)))
        blobs.append(raw + b"\0" * (-len(raw) % 32))
    kinds = [2, 3, 3] + [1] * (len(TOKENS) - 3)
    keys: dict[str | bytes, Value] = {
        "general.architecture": text("llama"),
        "llama.block_count": u32(n_layer),
        "llama.context_length": u32(4096),
        "llama.embedding_length": u32(N_EMBD),
        "llama.feed_forward_length": u32(N_FF),
        "llama.attention.head_count": u32(N_HEAD),
        "llama.rope.dimension_count": u32(N_EMBD // N_HEAD),
        "llama.attention.layer_norm_rms_epsilon": Value(FLOAT32, 1e-5),
        "tokenizer.ggml.model": text("llama"),
        "tokenizer.ggml.tokens": array(STRING, TOKENS),
        "tokenizer.ggml.scores": array(FLOAT32, [-float(i) for i in range(len(TOKENS))]),
        "tokenizer.ggml.token_type": array(INT32, kinds),
        "tokenizer.ggml.bos_token_id": u32(1),
        "tokenizer.ggml.eos_token_id": u32(2),
    }
    return FakeGguf(tuple(keys.items()), tuple(tensors), data_bytes=0, tail=b"".join(blobs))
