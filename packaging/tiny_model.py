"""Write a tiny model with random weights, for checks on machines that have no other: it says letters, always the same.

    python packaging/tiny_model.py FILE.gguf

A llama of two layers with 4 bit weights, which every CPU variant computes with code of its own. Needs numpy alone.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np

N_EMBD, N_FF, N_LAYER, N_HEAD = 64, 128, 2, 4
# The words that it says with this seed are the likeliest ones by far, so that no CPU's rounding chooses others.
SEED = 228
SCALE = 0.06  # of the weights, which are -8 to 7 times this
F32, Q4_0 = 0, 2
UINT32, FLOAT32, BOOL, STRING, ARRAY, INT32 = 4, 6, 7, 8, 9, 5
SPECIAL = ["<unk>", "<s>", "</s>"]
NORMAL, UNKNOWN, CONTROL = 1, 2, 3
ALIGNMENT = 32


def text(value: str) -> bytes:
    """A string as the format has it."""
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def array(kind: int, items: list[bytes]) -> tuple[int, bytes]:
    """A typed array of encoded items."""
    return ARRAY, struct.pack("<IQ", kind, len(items)) + b"".join(items)


def number(value: int) -> tuple[int, bytes]:
    return UINT32, struct.pack("<I", value)


def metadata(tokens: list[str]) -> dict[str, tuple[int, bytes]]:
    """The header's keys, each with the type and the bytes of its value."""
    kinds = [UNKNOWN, CONTROL, CONTROL] + [NORMAL] * (len(tokens) - len(SPECIAL))
    return {
        "general.architecture": (STRING, text("llama")),
        "llama.context_length": number(512),
        "llama.embedding_length": number(N_EMBD),
        "llama.block_count": number(N_LAYER),
        "llama.feed_forward_length": number(N_FF),
        "llama.attention.head_count": number(N_HEAD),
        "llama.attention.layer_norm_rms_epsilon": (FLOAT32, struct.pack("<f", 1e-5)),
        "llama.rope.dimension_count": number(N_EMBD // N_HEAD),
        "tokenizer.ggml.model": (STRING, text("llama")),
        "tokenizer.ggml.tokens": array(STRING, [text(token) for token in tokens]),
        "tokenizer.ggml.scores": array(FLOAT32, [struct.pack("<f", -float(i)) for i in range(len(tokens))]),
        "tokenizer.ggml.token_type": array(INT32, [struct.pack("<i", kind) for kind in kinds]),
        "tokenizer.ggml.unknown_token_id": number(0),
        "tokenizer.ggml.bos_token_id": number(1),
        "tokenizer.ggml.eos_token_id": number(2),
    }


def tensors(n_tokens: int) -> list[tuple[str, tuple[int, ...], int, bytes]]:
    """Name, shape (the length of a row first), type and bytes of each."""
    rng = np.random.default_rng(SEED)

    def matrix(name: str, n_in: int, n_out: int) -> tuple[str, tuple[int, ...], int, bytes]:
        blocks = np.empty((n_out, n_in // 32, 18), np.uint8)
        blocks[..., :2] = np.frombuffer(np.float16(SCALE).tobytes(), np.uint8)
        blocks[..., 2:] = rng.integers(0, 256, (n_out, n_in // 32, 16), np.uint8)
        if name == "output":
            blocks[: len(SPECIAL), :, 2:] = 0x88  # zeros: it never ends by itself
        return f"{name}.weight", (n_in, n_out), Q4_0, blocks.tobytes()

    def norm(name: str) -> tuple[str, tuple[int, ...], int, bytes]:
        return f"{name}.weight", (N_EMBD,), F32, np.ones(N_EMBD, np.float32).tobytes()

    found = [matrix("token_embd", N_EMBD, n_tokens), norm("output_norm"), matrix("output", N_EMBD, n_tokens)]
    for layer in range(N_LAYER):
        found += [norm(f"blk.{layer}.{part}") for part in ("attn_norm", "ffn_norm")]
        found += [matrix(f"blk.{layer}.attn_{part}", N_EMBD, N_EMBD) for part in ("q", "k", "v", "output")]
        found += [matrix(f"blk.{layer}.ffn_{part}", N_EMBD, N_FF) for part in ("gate", "up")]
        found.append(matrix(f"blk.{layer}.ffn_down", N_FF, N_EMBD))
    return found


def write_tiny_model(path: Path) -> Path:
    """Write the model, the same bytes at every call."""
    tokens = [*SPECIAL, "▁", *(chr(code) for code in range(33, 127))]
    keys, parts = metadata(tokens), tensors(len(tokens))
    head = b"GGUF" + struct.pack("<IQQ", 3, len(parts), len(keys))
    for key, (kind, value) in keys.items():
        head += text(key) + struct.pack("<I", kind) + value
    data = b""
    for name, shape, kind, raw in parts:
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, len(data))
        data += raw + b"\0" * (-len(raw) % ALIGNMENT)
    path.write_bytes(head + b"\0" * (-len(head) % ALIGNMENT) + data)
    return path


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    write_tiny_model(Path(sys.argv[1]))
