from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.native.lab import Lab, assert_close, assert_differs, random_tokens

from donabe import _core
from donabe.errors import AbortedError, InvalidArgumentError, LoadError

ModelPath = Callable[[str], str]


def test_facts_of_a_model(tiny_model: ModelPath) -> None:
    model = _core.Model(tiny_model("llama"))
    assert (model.architecture, model.n_embd, model.n_embd_out, model.n_layer) == ("llama", 256, 256, 2)
    assert (model.has_encoder, model.has_decoder, model.is_causal, model.uses_mrope) == (False, True, True, False)
    assert model.n_params > 10**6
    assert model.size_bytes > 10**6
    assert model.n_ctx_train > 0
    assert model.meta()["general.architecture"] == "llama"
    assert model.chat_template() is None
    assert model.class_labels() == []
    assert "llama" in model.description


def test_window_size_is_told_only_where_there_is_a_window(tiny_model: ModelPath) -> None:
    assert _core.Model(tiny_model("gemma3")).n_swa == 32
    assert _core.Model(tiny_model("lfm2")).n_swa == 32
    assert _core.Model(tiny_model("exaone4")).n_swa == 0


def test_missing_file_is_named_without_its_folder(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"'gone\.gguf'") as caught:
        _core.Model(str(tmp_path / "gone.gguf"))
    assert str(tmp_path) not in str(caught.value)


def test_broken_file_carries_the_log_tail(tmp_path: Path, tiny_model: ModelPath) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(Path(tiny_model("llama")).read_bytes()[:-1_000_000])
    with pytest.raises(LoadError) as caught:
        _core.Model(str(path))
    assert any("corrupted or incomplete" in line for line in caught.value.log_tail)
    assert caught.value.hint is not None
    with pytest.raises(LoadError) as again:
        _core.Model(str(tmp_path / "gone.gguf"))
    assert again.value.log_tail == (), "the tail of an older failure must not stick"


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all" * 100])
def test_garbage_is_a_load_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "garbage.gguf"
    path.write_bytes(content)
    with pytest.raises(LoadError):
        _core.Model(str(path))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n_gpu_layers", -2),
        ("split_mode", "tensor"),
        ("main_gpu", -1),
        ("tensor_split", [1.0, float("inf")]),
        ("load_mode", "fast"),
        ("cpu_tensors", ["blk.(", "x"]),
        ("kv_overrides", {"": 1}),
        ("kv_overrides", {"k": "v" * 200}),
    ],
)
def test_parameters_out_of_range_name_the_field(field: str, value: object) -> None:
    with pytest.raises(InvalidArgumentError, match=field):
        _core.ModelParams(**{field: value})  # type: ignore[arg-type]


def test_unknown_device_lists_the_known_ones(tiny_model: ModelPath) -> None:
    with pytest.raises(InvalidArgumentError, match="NPU7") as caught:
        _core.Model(tiny_model("llama"), _core.ModelParams(devices=["NPU7"]))
    assert "CPU" in str(caught.value.hint)


def test_key_value_overrides_reach_the_model(tiny_model: ModelPath) -> None:
    overrides: dict[str, int | float | bool | str] = {"llama.context_length": 77}
    assert _core.Model(tiny_model("llama"), _core.ModelParams(kv_overrides=overrides)).n_ctx_train == 77


@pytest.mark.parametrize("load_mode", ["auto", "none", "mmap"])
def test_load_modes_give_the_same_model(tiny_model: ModelPath, load_mode: str) -> None:
    path = tiny_model("llama")
    params = _core.ModelParams(load_mode=load_mode, cpu_tensors=["ffn_.*"], devices=[])  # type: ignore[arg-type]
    context = _core.Context(
        _core.Model(path, params), _core.ContextParams(n_ctx=256, n_threads=1, flash_attention="off")
    )
    batch = _core.Batch(16)
    batch.add_tokens(0, random_tokens(10), 0, "last")
    context.decode(batch)
    assert_close(context.logits_view()[0].copy(), Lab(path).feed(0, random_tokens(10)))


def test_progress_reaches_one(tiny_model: ModelPath) -> None:
    progress = _core.LoadProgress()
    assert progress.value == 0.0
    _core.Model(tiny_model("llama"), None, progress)
    assert progress.value == 1.0


def test_cancelled_load_raises_aborted(tiny_model: ModelPath) -> None:
    progress = _core.LoadProgress()
    progress.cancel()
    with pytest.raises(AbortedError, match="cancelled"):
        _core.Model(tiny_model("llama"), None, progress)


def test_models_load_in_parallel(tiny_model: ModelPath) -> None:
    path = tiny_model("llama")
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(3):
                assert _core.Model(path).n_embd == 256
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_adapter_changes_the_logits_and_can_be_taken_off(tiny_model: ModelPath, adapter_path: str) -> None:
    lab = Lab(tiny_model("llama"))
    tokens = random_tokens(20)
    base = lab.fresh(tokens)
    adapter = lab.model.load_adapter(adapter_path)
    assert adapter.path == adapter_path
    lab.context.set_adapters([(adapter, 10.0)])
    del adapter  # the context keeps it
    assert_differs(lab.fresh(tokens), base)
    lab.context.set_adapters([])
    assert_close(lab.fresh(tokens), base)


def test_adapter_of_another_model_object_is_refused(tiny_model: ModelPath, adapter_path: str) -> None:
    lab, other = Lab(tiny_model("llama")), _core.Model(tiny_model("llama"))
    adapter = other.load_adapter(adapter_path)
    with pytest.raises(InvalidArgumentError, match="another model"):
        lab.context.set_adapters([(adapter, 10.0)])
    with pytest.raises(InvalidArgumentError, match="scale"):
        lab.context.set_adapters([(lab.model.load_adapter(adapter_path), float("nan"))])
    del other
    assert adapter.path == adapter_path


def test_adapter_that_does_not_fit_is_a_load_error(tiny_model: ModelPath, adapter_path: str) -> None:
    model = _core.Model(tiny_model("gemma3"))
    with pytest.raises(LoadError) as caught:
        model.load_adapter(adapter_path)
    assert any("mismatch" in line for line in caught.value.log_tail)
    with pytest.raises(LoadError, match="not exist"):
        model.load_adapter(adapter_path + ".gone")
