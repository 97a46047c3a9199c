"""Reading well-formed GGUFs."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fakes.registry_gguf import (
    FLOAT32,
    STRING,
    UINT32,
    FakeGguf,
    FakeTensor,
    array,
    split_model,
    text,
    tiny_model,
    u32,
)

from donabe.errors import ModelFileError
from donabe.store.gguf import GgufReader
from donabe.store.metadata import read_metadata
from donabe.store.summary import human_count, require_model, summarize, template_capabilities


def test_reader_gives_values_and_tensors(tmp_path: Path) -> None:
    with GgufReader(tiny_model().write(tmp_path / "m.gguf")) as reader:
        assert reader.architecture == "llama"
        assert reader.get("llama.block_count") == 1
        assert reader.get("tokenizer.ggml.tokens") == ["<unk>", "<s>", "</s>"]
        assert reader.get("tokenizer.ggml.scores") == [0.0, 0.0, 0.0]
        assert [(t.name, t.shape, t.type.name, t.n_bytes) for t in reader.tensors] == [
            ("token_embd.weight", (4, 3), "F32", 48)
        ]


def test_reader_crosses_its_window(tmp_path: Path) -> None:
    words = [f"token-{number}-" + "x" * (number % 90) for number in range(40_000)]
    model = (
        tiny_model()
        .with_value("big.words", array(STRING, words))
        .with_value("big.numbers", array(UINT32, range(300_000)))
    )
    with GgufReader(model.write(tmp_path / "m.gguf")) as reader:
        assert reader.get("big.words") == words
        assert reader.get("big.numbers") == list(range(300_000))
        assert reader.get("general.name") == "Tiny"


def test_version_2_is_read(tmp_path: Path) -> None:
    model = FakeGguf(tiny_model().values, tiny_model().tensors, version=2)
    assert summarize(model.write(tmp_path / "m.gguf")).architecture == "llama"


def test_summary_of_a_model(tmp_path: Path) -> None:
    summary = require_model(tiny_model().write(tmp_path / "m.gguf"))
    assert (summary.n_params, summary.file_type, summary.context_length, summary.embedding_length) == (
        12,
        "F16",
        128,
        4,
    )
    assert summary.capabilities == ("completion",)


def test_summary_is_cached_until_the_file_changes(tmp_path: Path) -> None:
    path = tiny_model().write(tmp_path / "m.gguf")
    first = summarize(path)
    assert summarize(path) is first
    tiny_model(general__name=text("Other")).write(path)
    assert summarize(path).name == "Other"


def test_layers_may_differ_in_heads(tmp_path: Path) -> None:
    model = tiny_model(llama__attention__head_count_kv=array(UINT32, [1, 0, 2]))
    assert require_model(model.write(tmp_path / "m.gguf")).architecture == "llama"


@pytest.mark.parametrize(
    ("extra", "capabilities"),
    [
        ({}, ("completion",)),
        ({"llama.pooling_type": u32(1)}, ("embedding",)),
        ({"llama.pooling_type": u32(4)}, ("embedding", "rerank")),
        ({"llama.pooling_type": u32(0xFFFF_FFFF)}, ("completion",)),
        ({"llama.vision.block_count": u32(1)}, ("completion", "vision")),
        ({"llama.audio.block_count": u32(1)}, ("completion", "audio")),
        ({"tokenizer.chat_template": text("{{ tools }}<think></think>")}, ("tools", "thinking", "completion")),
        (
            {f"tokenizer.ggml.fim_{part}_token_id": u32(0) for part in ("pre", "suf", "mid")},
            ("completion", "insert"),
        ),
    ],
)
def test_capabilities_from_metadata(tmp_path: Path, extra: dict[str, object], capabilities: tuple[str, ...]) -> None:
    model = tiny_model()
    for key, value in extra.items():
        model = model.with_value(key, value)  # type: ignore[arg-type]
    assert summarize(model.write(tmp_path / "m.gguf")).capabilities == capabilities


@pytest.mark.parametrize(
    ("template", "capabilities"),
    [
        ("plain", ()),
        ("{{ tool_call }}", ("tools",)),
        ("<think> only", ()),
        ("{{ content.split('</think>') }}", ("thinking",)),
        ('{{ content.split("</think>") }}', ("thinking",)),
        ("{{ content.split('</think>') }} reasoning_content", ()),
        ("{{ content.split('</think>') }} <SPECIAL_12>", ()),
    ],
)
def test_capabilities_from_template_text(template: str, capabilities: tuple[str, ...]) -> None:
    assert template_capabilities(template) == capabilities


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (tiny_model(general__type=text("adapter")), "LoRA adapter"),
        (tiny_model(general__type=text("mmproj")), "projector"),
        (FakeGguf(tiny_model().values), "vocabulary"),
    ],
)
def test_require_model_names_what_the_file_is(tmp_path: Path, model: FakeGguf, what: str) -> None:
    with pytest.raises(ModelFileError, match=what):
        require_model(model.write(tmp_path / "m.gguf"))


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (8_030_000_000, "8.0B"), (7_000_000_000, "7B"), (134_515_008, "134.52M"), (125_000_000, "125M"),
        (268_098_176, "268.10M"), (12_345, "12K"), (999, "999"), (0, "0"), (1_500_000_000_000, "1500B"),
    ],
)  # fmt: skip
def test_human_count(count: int, shown: str) -> None:
    assert human_count(count) == shown


def test_read_metadata_keeps_file_order(tmp_path: Path) -> None:
    header = read_metadata([str(tiny_model().write(tmp_path / "m.gguf"))])
    assert next(iter(header.metadata)) == "general.architecture"
    assert header.metadata["tokenizer.ggml.scores"] == [0.0, 0.0, 0.0]
    assert header.tensors == (("token_embd.weight", "F32", (4, 3)),)


def test_read_metadata_covers_a_split_set(tmp_path: Path) -> None:
    paths = []
    for number, data in enumerate(split_model(3)):
        paths.append(str(tmp_path / f"m-{number}.gguf"))
        Path(paths[-1]).write_bytes(data)
    header = read_metadata(paths)
    assert header.metadata["general.architecture"] == "llama"
    assert header.metadata["split.no"] == 0
    assert [name for name, _, _ in header.tensors] == ["token_embd.weight", "blk.0.t1.weight", "blk.0.t2.weight"]


def test_tensors_may_leave_padding_out_at_the_end(tmp_path: Path) -> None:
    model = FakeGguf(tiny_model().values, (FakeTensor("a", (3,)),), data_bytes=12)
    assert summarize(model.write(tmp_path / "m.gguf")).n_params == 3


def test_missing_token_marker_is_accepted(tmp_path: Path) -> None:
    model = tiny_model(tokenizer__ggml__padding_token_id=u32(0xFFFF_FFFF))
    assert summarize(model.write(tmp_path / "m.gguf")).kind == "model"


def test_scores_of_another_type_are_refused(tmp_path: Path) -> None:
    model = tiny_model(tokenizer__ggml__scores=array(FLOAT32, [0.0]))
    with pytest.raises(ModelFileError, match="scores has 1 items for 3 tokens") as caught:
        summarize(model.write(tmp_path / "m.gguf"))
    assert caught.value.path == "m.gguf"
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"split.no": 1}, "general.architecture is missing"),  # no set at all
        ({"split.no": 0, "split.count": 2}, "general.architecture is missing"),  # the first has the metadata
        ({"split.no": 2, "split.count": 2}, r"split\.no is 2 in a set of 2"),
        ({"split.no": 1, "split.count": 65_535}, r"split\.count is 65535"),
    ],
)
def test_only_later_files_of_a_set_may_lack_the_metadata(tmp_path: Path, values: dict[str, int], words: str) -> None:
    model = FakeGguf(tuple((key, u32(value)) for key, value in values.items()), tiny_model().tensors)
    with pytest.raises(ModelFileError, match=words):
        summarize(model.write(tmp_path / "m.gguf"))


def test_tensors_of_later_files_are_checked_as_all_are(tmp_path: Path) -> None:
    keys = (("split.no", u32(1)), ("split.count", u32(2)))
    model = FakeGguf(keys, (FakeTensor("t.weight", (4, 3), offset=1 << 40),))
    with pytest.raises(ModelFileError, match="cut off or damaged"):
        summarize(model.write(tmp_path / "m.gguf"))
