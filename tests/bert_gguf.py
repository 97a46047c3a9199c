"""Writes BERT models as GGUF files: the real one of the tests, and tiny random ones with any pooling."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from tests.fakes.registry_gguf import BOOL, FLOAT32, INT32, STRING, FakeGguf, FakeTensor, Value, array, text, u32

Weights = dict[str, npt.NDArray[np.float32]]  # by their names in a GGUF; rows first
MEAN, CLS, LAST, RANK = 1, 2, 3, 4
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def bert_gguf(weights: Weights, words: list[str], *, n_layer: int, n_head: int, pooling: int) -> FakeGguf:
    tensors, blobs = [], []
    for name, values in sorted(weights.items()):
        raw = np.ascontiguousarray(values, np.float32).tobytes()
        tensors.append(FakeTensor(name, values.shape[::-1], n_bytes=len(raw)))
        blobs.append(raw + b"\0" * (-len(raw) % 32))
    n_positions, n_embd = weights["position_embd.weight"].shape
    keys: dict[str | bytes, Value] = {
        "general.architecture": text("bert"),
        "general.file_type": u32(0),
        "bert.block_count": u32(n_layer),
        "bert.context_length": u32(n_positions),
        "bert.embedding_length": u32(n_embd),
        "bert.feed_forward_length": u32(weights["blk.0.ffn_up.weight"].shape[0]),
        "bert.attention.head_count": u32(n_head),
        "bert.attention.layer_norm_epsilon": Value(FLOAT32, 1e-12),
        "bert.attention.causal": Value(BOOL, False),
        "bert.pooling_type": u32(pooling),
    }
    values = tuple((keys | _vocabulary(words)).items())
    return FakeGguf(values, tuple(tensors), data_bytes=0, tail=b"".join(blobs))


def random_bert(pooling: int, labels: tuple[str, ...] = ()) -> FakeGguf:
    """Two layers, 64 wide, 128 positions, 60 words `w0` ...; for RANK also a head of one output, or one a label."""
    rng = np.random.default_rng(0)
    words = [*SPECIAL, *(f"w{i}" for i in range(60))]
    n_embd, n_ff, n_positions = 64, 128, 128
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(words), n_embd),
        "token_types.weight": (2, n_embd),
        "position_embd.weight": (n_positions, n_embd),
        "token_embd_norm.weight": (n_embd,),
        "token_embd_norm.bias": (n_embd,),
    }
    for layer in range(2):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down"):
            n_out, n_in = {"ffn_up": (n_ff, n_embd), "ffn_down": (n_embd, n_ff)}.get(part, (n_embd, n_embd))
            shapes |= {f"blk.{layer}.{part}.weight": (n_out, n_in), f"blk.{layer}.{part}.bias": (n_out,)}
        for part in ("attn_output_norm", "layer_output_norm"):
            shapes |= {f"blk.{layer}.{part}.weight": (n_embd,), f"blk.{layer}.{part}.bias": (n_embd,)}
    if pooling == RANK:
        shapes |= {"cls.weight": (n_embd, n_embd), "cls.bias": (n_embd,)}
        shapes |= {"cls.output.weight": (len(labels) or 1, n_embd), "cls.output.bias": (len(labels) or 1,)}
    weights = {name: rng.normal(scale=0.2, size=shape).astype(np.float32) for name, shape in shapes.items()}
    for name in weights:
        if name.endswith("norm.weight"):
            weights[name] += 1
    file = bert_gguf(weights, words, n_layer=2, n_head=4, pooling=pooling)
    return file.with_value("bert.classifier.output_labels", array(STRING, labels)) if labels else file


def _vocabulary(words: list[str]) -> dict[str | bytes, Value]:
    special = {word: i for i, word in enumerate(words) if word in SPECIAL}
    pieces = [w if w in special else w[2:] if w.startswith("##") else "\u2581" + w for w in words]
    return {
        "tokenizer.ggml.model": text("bert"),
        "tokenizer.ggml.token_type_count": u32(2),
        "tokenizer.ggml.tokens": array(STRING, pieces),
        "tokenizer.ggml.token_type": array(INT32, [3 if word in special else 1 for word in words]),
        "tokenizer.ggml.unknown_token_id": u32(special["[UNK]"]),
        "tokenizer.ggml.seperator_token_id": u32(special["[SEP]"]),  # spelt so in the format
        "tokenizer.ggml.padding_token_id": u32(special["[PAD]"]),
        "tokenizer.ggml.cls_token_id": u32(special["[CLS]"]),
        "tokenizer.ggml.bos_token_id": u32(special["[CLS]"]),
        "tokenizer.ggml.mask_token_id": u32(special["[MASK]"]),
    }
