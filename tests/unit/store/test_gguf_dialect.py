"""Files laid out for another engine are recognised and refused with the reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.fakes.registry_gguf import BOOL, FLOAT32, UINT32, FakeGguf, FakeTensor, Value, array, text, u32

from donabe.errors import ModelFileError
from donabe.store.summary import summarize


def _model(arch: str, *tensors: str, **keys: Value) -> FakeGguf:
    values = {"general.architecture": text(arch)} | {key.replace("__", "."): value for key, value in keys.items()}
    return FakeGguf(tuple(values.items()), tuple(FakeTensor(name, (8,)) for name in ("token_embd.weight", *tensors)))


@pytest.mark.parametrize(
    ("model", "mark"),
    [
        (_model("gptoss"), "architecture gptoss"),
        (_model("qwen25vl"), "architecture qwen25vl"),
        (_model("gemma3", "v.patch_embedding.weight"), "v.patch_embedding.weight inside"),
        (_model("mistral3", "mm.linear_1.weight"), "mm.linear_1.weight inside"),
        (_model("gemma3", gemma3__rope__global__freq_base=Value(FLOAT32, 1e6)), "gemma3.rope.global.freq_base"),
        (_model("gemma3", "dense.0.weight"), "dense.0.weight"),
        (_model("qwen3next", "blk.0.ssm_dt"), "blk.0.ssm_dt"),
        (_model("qwen35", "blk.0.ssm_dt"), "blk.0.ssm_dt"),
        (_model("qwen35moe", qwen35moe__ssm__v_head_reordered=Value(BOOL, True)), "ssm.v_head_reordered"),
        (_model("laguna", "blk.0.attn_g.weight"), "blk.0.attn_g.weight"),
        (_model("mistral3", mistral3__rope__scaling_beta=Value(FLOAT32, 0.1)), "mistral3.rope.scaling_beta"),
        (_model("nemotron_h_moe", "blk.1.ffn_latent_in.weight"), "blk.1.ffn_latent_in.weight"),
        (_model("qwen3vl"), "it lacks qwen3vl.rope.dimension_sections"),
        (_model("lfm2", "output_norm.weight"), "in place of token_embd_norm.weight"),
    ],
)
def test_other_engines_layout_is_refused(tmp_path: Path, model: FakeGguf, mark: str) -> None:
    with pytest.raises(ModelFileError, match="Ollama's own engine") as caught:
        summarize(model.write(tmp_path / "m.gguf"))
    assert mark in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    "model",
    [
        _model("gemma3", gemma3__rope__freq_base=Value(FLOAT32, 1e6)),
        _model("gpt-oss"),
        _model("qwen3next", "blk.0.ssm_dt.bias"),
        _model("llama", "v.x"),
        _model("llama", "output_norm.weight"),
        _model("lfm2", "token_embd_norm.weight"),
        _model("qwen3vl", qwen3vl__rope__dimension_sections=array(UINT32, [24, 20, 20, 0])),
        replace(_model("clip", "v.patch_embd.weight", "mm.0.weight"), n_values=None).with_value("clip.x", u32(1)),
    ],
)
def test_llama_cpp_layout_is_accepted(tmp_path: Path, model: FakeGguf) -> None:
    assert summarize(model.write(tmp_path / "m.gguf")).architecture
