"""Split sets become one file whose metadata and tensors are those of the parts."""

from __future__ import annotations

from pathlib import Path

from tests.fakes.registry_gguf import UINT16, FakeGguf, FakeTensor, Value, text, tiny_model, u32

from donabe.convert.gguf_write import merge_gguf
from donabe.store.gguf import GgufReader
from donabe.store.summary import summarize


def write_with_data(gguf: FakeGguf, path: Path, fill: int) -> Path:
    """The file with every byte of its data section set to `fill`."""
    raw = gguf.encode()
    path.write_bytes(raw)
    with GgufReader(path) as reader:
        start = reader.data_start
    path.write_bytes(raw[:start] + bytes([fill]) * (len(raw) - start))
    return path


def tensor_bytes(path: Path) -> dict[str, bytes]:
    with GgufReader(path) as reader:
        data = path.read_bytes()
        return {tensor.name: data[reader.data_start + tensor.offset :][: tensor.n_bytes] for tensor in reader.tensors}


def part(number: int, base: FakeGguf, *names: str) -> FakeGguf:
    tensors = tuple(FakeTensor(name, (4, 3)) for name in names)
    split = {"split.no": number, "split.count": 2, "split.tensors.count": 3}
    values = base.values if number == 0 else ()
    extra = tuple((key, Value(UINT16, value)) for key, value in split.items())
    return FakeGguf((*values, *extra), tensors)


def test_parts_become_one_file_with_all_tensors(tmp_path: Path) -> None:
    first = write_with_data(part(0, tiny_model(), "token_embd.weight", "a.weight"), tmp_path / "1", 1)
    second = write_with_data(part(1, tiny_model(), "b.weight"), tmp_path / "2", 2)
    merge_gguf([first, second], tmp_path / "m.gguf")
    with GgufReader(tmp_path / "m.gguf") as merged, GgufReader(first) as original:
        kept = {key for key in original.entries if not key.startswith("split.")}
        assert set(merged.entries) == kept
        assert {key: merged.get(key) for key in kept} == {key: original.get(key) for key in kept}
    assert tensor_bytes(tmp_path / "m.gguf") == tensor_bytes(first) | tensor_bytes(second)
    summary = summarize(tmp_path / "m.gguf")
    assert (summary.architecture, summary.n_splits) == ("llama", 1)


def test_text_keys_are_added_and_replaced(tmp_path: Path) -> None:
    source = tiny_model(general__name=text("Old")).write(tmp_path / "s.gguf")
    merge_gguf([source], tmp_path / "t.gguf", add_texts={"general.name": "New", "clip.projector_type": "mlp"})
    with GgufReader(tmp_path / "t.gguf") as reader:
        assert (reader.text("general.name"), reader.text("clip.projector_type")) == ("New", "mlp")
        assert reader.get("tokenizer.ggml.tokens") == ["<unk>", "<s>", "</s>"]


def test_alignment_of_the_first_file_is_kept(tmp_path: Path) -> None:
    base = tiny_model(general__alignment=u32(128))
    source = FakeGguf(base.values, (FakeTensor("a", (3,)), FakeTensor("b", (5,))), alignment=128)
    write_with_data(source, tmp_path / "s", 7)
    merge_gguf([tmp_path / "s"], tmp_path / "t")
    with GgufReader(tmp_path / "t") as reader:
        assert reader.alignment == 128
        assert [tensor.offset for tensor in reader.tensors] == [0, 128]
    assert tensor_bytes(tmp_path / "t") == tensor_bytes(tmp_path / "s")
