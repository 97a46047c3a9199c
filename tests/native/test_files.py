"""GgufFile and quantize."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.native.lab import Lab, random_tokens

from donabe import _core
from donabe.errors import InvalidArgumentError, LoadError

ModelPath = Callable[[str], str]


def test_metadata_keeps_its_types(vendored_source: Path) -> None:
    file = _core.GgufFile(str(vendored_source / "models" / "ggml-vocab-llama-spm.gguf"))
    meta = file.meta()
    assert file.version == 3
    assert meta["general.architecture"] == "llama"
    assert meta["llama.context_length"] == 4096
    assert meta["tokenizer.ggml.add_bos_token"] is True
    assert len(meta["tokenizer.ggml.tokens"]) == 32000
    assert meta["tokenizer.ggml.tokens"][1] == "<s>"
    assert meta["tokenizer.ggml.scores"][0] == 0.0
    assert file.tensors() == []


def test_tensors_are_listed_with_shape_and_type(tiny_model: ModelPath) -> None:
    tensors = {name: (kind, shape) for name, kind, shape, _ in _core.GgufFile(tiny_model("llama")).tensors()}
    assert tensors["token_embd.weight"] == ("f32", (256, 128))
    assert tensors["output_norm.weight"] == ("f32", (256,))


def test_files_that_are_not_gguf_are_load_errors(tmp_path: Path) -> None:
    (tmp_path / "junk.gguf").write_bytes(b"junk" * 100)
    with pytest.raises(LoadError, match=r"junk\.gguf"):
        _core.GgufFile(str(tmp_path / "junk.gguf"))
    with pytest.raises(LoadError, match=r"gone\.gguf"):
        _core.GgufFile(str(tmp_path / "gone.gguf"))


def tensor_types(path: Path) -> dict[str, str]:
    return {name: kind for name, kind, _, _ in _core.GgufFile(str(path)).tensors()}


def test_quantize_follows_ftype_and_overrides(tiny_model: ModelPath, tmp_path: Path) -> None:
    target = tmp_path / "small.gguf"
    params = _core.QuantizeParams(
        ftype="q4_k_m",
        n_threads=1,
        output_tensor_type="q8_0",
        tensor_types=[("blk.0.ffn_up", "f16"), ("ffn_gate", "q5_0")],
    )
    _core.quantize(tiny_model("llama"), str(target), params)
    types = tensor_types(target)
    assert types["output.weight"] == "q8_0"
    assert types["blk.0.ffn_up.weight"] == "f16"
    assert types["blk.1.ffn_gate.weight"] == "q5_0"
    assert types["blk.1.ffn_up.weight"] == "q4_K"
    assert types["output_norm.weight"] == "f32"
    assert target.stat().st_size < Path(tiny_model("llama")).stat().st_size / 2
    assert Lab(str(target)).feed(0, random_tokens(10)).shape == (128,)


def test_requantizing_must_be_allowed(tiny_model: ModelPath, tmp_path: Path) -> None:
    first, second = tmp_path / "q8.gguf", tmp_path / "q4.gguf"
    _core.quantize(tiny_model("llama"), str(first), _core.QuantizeParams(ftype="Q8_0", n_threads=1))
    with pytest.raises(LoadError) as caught:
        _core.quantize(str(first), str(second), _core.QuantizeParams(ftype="Q4_0", n_threads=1))
    assert any("requantizing" in line for line in caught.value.log_tail)
    _core.quantize(str(first), str(second), _core.QuantizeParams(ftype="Q4_0", n_threads=1, allow_requantize=True))
    assert tensor_types(second)["blk.1.ffn_up.weight"] == "q4_0"


@pytest.mark.parametrize("name", _core.ftype_names())
def test_every_ftype_needs_no_importance_matrix(tiny_model: ModelPath, tmp_path: Path, name: str) -> None:
    target = tmp_path / "out.gguf"
    _core.quantize(tiny_model("llama"), str(target), _core.QuantizeParams(ftype=name, n_threads=1))
    assert _core.GgufFile(str(target)).meta()["general.file_type"] >= 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ftype", "Q9"),
        ("n_threads", 513),
        ("output_tensor_type", "q8_1x"),
        ("token_embedding_type", "i32"),
        ("tensor_types", [("a", "nope")]),
        ("tensor_types", [("(", "q8_0")]),
    ],
)
def test_quantize_parameters_name_the_field(field: str, value: object) -> None:
    with pytest.raises(InvalidArgumentError, match=field):
        _core.QuantizeParams(**({"ftype": "Q8_0"} | {field: value}))  # type: ignore[arg-type]


def test_quantize_never_overwrites_its_source(tiny_model: ModelPath, tmp_path: Path) -> None:
    source = tmp_path / "model.gguf"
    source.write_bytes(Path(tiny_model("llama")).read_bytes())
    with pytest.raises(InvalidArgumentError, match="same file"):
        _core.quantize(str(source), str(source), _core.QuantizeParams(ftype="Q8_0"))
    with pytest.raises(LoadError, match=r"gone\.gguf"):
        _core.quantize(str(tmp_path / "gone.gguf"), str(source), _core.QuantizeParams(ftype="Q8_0"))
