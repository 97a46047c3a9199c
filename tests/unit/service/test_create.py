"""Creating models: exact layers, digests and statuses; what is refused; crashes leave nothing behind."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.registry_gguf import F16, UINT16, FakeGguf, FakeTensor, Value, split_model, text, tiny_model, u32

from donabe.convert.quantize import QuantizeJob
from donabe.errors import (
    DonabeError,
    InvalidNameError,
    InvalidRequestError,
    LoadError,
    ModelFileError,
    ModelNotFoundError,
)
from donabe.registry.install import Provenance, install_blobs
from donabe.service.create import ModelCreator
from donabe.service.create_call import CreateCall, remote_url
from donabe.store.digest import Digest
from donabe.store.gguf import GgufReader
from donabe.store.manifests import Manifest
from donabe.store.models import ModelStore
from donabe.store.names import ModelName
from donabe.template import BUNDLED
from donabe.template.bundled import KNOWN_TEXTS
from donabe.types import Message, PullProgress

PHI3 = dict(KNOWN_TEXTS)["phi-3"]


class FakeQuantize:
    """Copies the file and says how far it is; or fails."""

    def __init__(self) -> None:
        self.jobs: list[QuantizeJob] = []
        self.error: DonabeError | None = None

    async def __call__(self, job: QuantizeJob) -> AsyncGenerator[tuple[int, int], None]:
        self.jobs.append(job)
        yield 1, 2
        if self.error:
            raise self.error
        code = {"Q4_K_M": 15, "Q8_0": 7, "BF16": 32}[job.ftype]
        tiny_model(general__file_type=u32(code)).write(job.target)
        yield 2, 2


class FakePull:
    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    async def __call__(self, name: str, *, insecure: bool = False, limit_rate: int = 0) -> AsyncIterator[PullProgress]:
        if name != "remote":
            raise ModelNotFoundError("pull model manifest: file does not exist", name=name)
        yield PullProgress(status="pulling manifest")
        await self._lab.create(model=name, files={"m.gguf": self._lab.upload(tiny_model().encode())})
        yield PullProgress(status="success")


class Lab:
    """A store with a creator."""

    def __init__(self, root: Path) -> None:
        self.store = ModelStore(root)
        self.quantize = FakeQuantize()
        self.creator = ModelCreator(self.store, pull=FakePull(self), quantize=self.quantize)

    def upload(self, data: bytes) -> str:
        return str(self.store.blobs.add_bytes(data)[0])

    async def create(self, model: str = "m", **fields: Any) -> list[str]:
        if "from_" not in fields and "files" not in fields:
            fields["files"] = {"model.gguf": self.upload(tiny_model().encode())}
        return [event.status async for event in self.creator.create(CreateCall(model=model, **fields))]

    def kinds(self, model: str = "m") -> list[str]:
        return [layer.kind for layer in self.store.read_manifest(model).manifest.layers]

    def data(self, kind: str, model: str = "m") -> bytes:
        (layer,) = self.store.read_manifest(model).manifest.of_kind(kind)
        return self.store.blobs.read_small(layer.digest)

    def config(self, model: str = "m") -> dict[str, Any]:
        manifest = self.store.read_manifest(model).manifest
        value: dict[str, Any] = json.loads(self.store.blobs.read_small(manifest.config.digest))
        return value

    @property
    def files(self) -> set[str]:
        return {path.name for path in self.store.layout.blobs.iterdir()}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "store")


# --- bytes -----------------------------------------------------------------------------------------------------------


async def test_config_of_a_bare_gguf_has_the_reference_bytes(lab: Lab) -> None:
    bare = FakeGguf((("general.architecture", text("test")),), ())
    await lab.create(files={"test.gguf": lab.upload(bare.encode())})
    config = lab.store.read_manifest("m").manifest.config
    assert config.digest.hex == "99759ad5b91e723db0393d698ffbb448b1b7df5ff6377a108c49254583b1bc8c"
    assert list(lab.config()) == [
        "model_format",
        "model_family",
        "model_families",
        "model_type",
        "file_type",
        "architecture",
        "os",
    ]


async def test_texts_and_parameters_have_the_reference_digests(lab: Lab) -> None:
    parameters = {"temperature": 1, "top_k": 10, "stop": ["USER:", "ASSISTANT:"]}
    await lab.create(model="test", system="Say hi!", parameters=parameters)
    manifest = lab.store.read_manifest("test").manifest
    digests = {layer.kind: layer.digest.hex for layer in manifest.layers}
    assert digests["system"] == "f29e82a8284dbdf5910b1555580ff60b04238b8da9d5e51159ada67a4d0d5851"
    assert digests["params"] == "1d0ad71299d48c2fb7ae2b98e683643e771f8a5b72be34942af90d97a91c1e37"
    await lab.create(model="test2", from_="test", parameters={"temperature": 0.6, "top_p": 0.7})
    digests = {layer.kind: layer.digest.hex for layer in lab.store.read_manifest("test2").manifest.layers}
    assert digests["params"] == "e29a7b3c47287a2489c895d21fe413c20f859a85d20e749492f52a838e36e1ba"
    await lab.create(model="test3", from_="test2", parameters={"stop": ["<|endoftext|>"]})
    digests = {layer.kind: layer.digest.hex for layer in lab.store.read_manifest("test3").manifest.layers}
    assert digests["params"] == "12f58bb75cb3042d69a7e013ab87fb3c3c7088f50ddc62f0c77bd332f0d44d35"


async def test_template_is_detected_with_its_stop_strings(lab: Lab) -> None:
    digest = lab.upload(tiny_model(tokenizer__chat_template=text(PHI3)).encode())
    statuses = await lab.create(files={"m.gguf": digest})
    assert "using autodetected template phi-3" in statuses
    params = lab.store.read_manifest("m").manifest.of_kind("params")[0]
    assert params.digest.hex == "0d79f567714c62c048378f2107fb332dabee0135d080c302d884317da9433cc5"
    assert lab.data("template").decode() == BUNDLED["phi-3"].text
    await lab.create(model="own", files={"m.gguf": digest}, template="{{ .Prompt }}", parameters={"top_k": 1})
    assert lab.data("template", "own") == b"{{ .Prompt }}"
    assert json.loads(lab.data("params", "own"))["stop"] == ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]


async def test_layers_and_statuses_come_in_the_reference_order(lab: Lab) -> None:
    statuses = await lab.create(
        template="{{ .Prompt }}",
        system="S",
        licenses=("L1", "L2"),
        parameters={"top_k": 1},
        messages=(Message(role="user", content="<hi>"), Message(role="assistant", content="yo")),
    )
    assert lab.kinds() == ["model", "template", "system", "license", "license", "params", "messages"]
    assert lab.data("messages") == (
        b'[{"role":"user","content":"\\u003chi\\u003e"},{"role":"assistant","content":"yo"}]\n'
    )
    manifest = lab.store.read_manifest("m")
    assert statuses[0] == "parsing GGUF"
    assert statuses[1] == f"using existing layer {manifest.manifest.layers[0].digest}"
    layers = [status for status in statuses if status.startswith("creating new layer ")]
    assert layers == [f"creating new layer {layer.digest}" for layer in manifest.manifest.all_layers[1:]]
    assert statuses[-2:] == ["writing manifest", "success"]
    assert manifest.data.endswith(b"\n")
    assert b'"from"' not in manifest.data


# --- from a model ----------------------------------------------------------------------------------------------------


async def test_base_layers_are_kept_with_their_origin(lab: Lab) -> None:
    await lab.create(system="S", licenses=("L",), template="{{ .Prompt }}")
    await lab.create(model="n", from_="m", licenses=("X",), template="{{ .Prompt }}!", system="")
    layers = lab.store.read_manifest("n").manifest.layers
    assert [(layer.kind, layer.from_) for layer in layers] == [
        ("model", "m:latest"),
        ("system", "m:latest"),
        ("license", "m:latest"),
        ("template", ""),
        ("license", ""),
    ]
    assert lab.store.resolve("n").details.parent_model == "m:latest"


async def test_config_fields_are_inherited_unless_given(lab: Lab) -> None:
    await lab.create(renderer="r", parser="p", requires="0.14.0", info={"capabilities": ["vision"]})
    await lab.create(model="n", from_="m", parser="q", info={"capabilities": ["tools", "vision"]})
    config = lab.config("n")
    assert (config["renderer"], config["parser"], config["requires"]) == ("r", "q", "0.14.0")
    assert config["capabilities"] == ["vision", "tools"]
    assert list(config)[-2:] == ["architecture", "os"]


async def test_info_overrides_what_files_say(lab: Lab) -> None:
    info = {
        "model_family": "f",
        "base_name": "b",
        "quantization_level": "Q9",
        "parameter_size": "1T",
        "context_length": 8,
        "embedding_length": 4.0,
    }
    await lab.create(info=info)
    config = lab.config()
    assert (config["model_family"], config["model_families"], config["model_type"]) == ("f", ["f"], "1T")
    assert (config["file_type"], config["context_length"], config["embedding_length"]) == ("Q9", 8, 4)
    assert config["base_name"] == "b"


async def test_missing_base_is_pulled_first(lab: Lab) -> None:
    statuses = await lab.create(from_="remote", system="S")
    assert statuses[0] == "pulling manifest"
    assert statuses.count("success") == 1
    with pytest.raises(ModelNotFoundError, match="file does not exist"):
        await lab.create(from_="nowhere")


async def test_recreating_removes_what_only_the_old_model_used(lab: Lab) -> None:
    await lab.create(system="old")
    old = Digest.of_bytes(b"old").file_name
    assert old in lab.files
    await lab.create(system="new")
    assert old not in lab.files


async def test_name_in_another_case_overwrites(lab: Lab) -> None:
    await lab.create(model="foo", system="a")
    await lab.create(model="FOO", system="b")
    assert [name.short for name in lab.store.names()] == ["foo:latest"]
    assert lab.data("system", "foo") == b"b"


async def test_base_of_another_programs_store_is_copied(lab: Lab, tmp_path: Path) -> None:
    other = Lab(tmp_path / "other")
    await other.create(model="theirs", system="S", parameters={"top_k": 2}, licenses=("L",))
    spec = other.store.resolve("theirs")

    class Foreign:
        def names(self) -> tuple[Any, ...]:
            return other.store.names()

        def spec(self, name: Any) -> Any:
            return spec

    lab.store = ModelStore(tmp_path / "store", [Foreign()])
    lab.creator = ModelCreator(lab.store, pull=FakePull(lab), quantize=lab.quantize)
    await lab.create(model="mine", from_="theirs", system="T", parameters={"top_p": 0.5})
    shutil.rmtree(tmp_path / "other")
    assert lab.store.resolve("mine").system == "T"
    assert lab.store.resolve("mine").parameters == {"top_k": 2, "top_p": 0.5}


async def test_split_base_of_another_programs_store_is_copied(lab: Lab, tmp_path: Path) -> None:
    other = Lab(tmp_path / "other")
    store_split(other, "theirs", split_model(2))
    spec = other.store.resolve("theirs")

    class Foreign:
        def names(self) -> tuple[Any, ...]:
            return other.store.names()

        def spec(self, name: Any) -> Any:
            return spec

    lab.store = ModelStore(tmp_path / "store", [Foreign()])
    lab.creator = ModelCreator(lab.store, pull=FakePull(lab), quantize=lab.quantize)
    await lab.create(model="mine", from_="theirs")
    shutil.rmtree(tmp_path / "other")
    assert len(lab.store.resolve("mine").paths) == 2


# --- files -----------------------------------------------------------------------------------------------------------


def projector(**extra: Value) -> FakeGguf:
    values = {"general.architecture": text("clip"), "clip.has_vision_encoder": Value(7, True)}
    values |= {key.replace("__", "."): value for key, value in extra.items()}
    return FakeGguf(tuple(values.items()), (FakeTensor("v.patch_embd.weight", (4, 3)),))


def adapter() -> FakeGguf:
    values = {"general.architecture": text("llama"), "general.type": text("adapter"), "adapter.type": text("lora")}
    return FakeGguf(tuple(values.items()), (FakeTensor("blk.0.attn_q.weight.lora_a", (4, 2)),))


async def test_projector_and_adapter_keep_their_file_names(lab: Lab) -> None:
    files = {
        "model.gguf": lab.upload(tiny_model().encode()),
        "mmproj.gguf": lab.upload(projector(clip__projector_type=text("mlp")).encode()),
    }
    await lab.create(files=files, adapters={"lora.gguf": lab.upload(adapter().encode())})
    layers = lab.store.read_manifest("m").manifest.layers
    assert [(layer.kind, layer.from_) for layer in layers] == [
        ("projector", "mmproj.gguf"),
        ("model", ""),
        ("adapter", "lora.gguf"),
    ]
    assert lab.config()["model_families"] == ["clip", "llama"]
    assert lab.config()["model_family"] == "llama"


async def test_old_projector_gets_its_type_written(lab: Lab) -> None:
    files = {"m.gguf": lab.upload(tiny_model().encode()), "p.gguf": lab.upload(projector().encode())}
    assert "updating GGUF projector metadata" in await lab.create(files=files)
    path = lab.store.resolve("m").projector
    assert path is not None
    with GgufReader(path) as reader:
        assert reader.text("clip.projector_type") == "mlp"


async def test_model_with_built_in_vision_is_stored_as_it_is(lab: Lab) -> None:
    base = tiny_model()
    with_vision = FakeGguf(base.values, (*base.tensors, FakeTensor("v.patch_embd.weight", (4, 3))))
    digest = lab.upload(with_vision.encode())
    await lab.create(files={"both.gguf": digest})
    (layer,) = lab.store.read_manifest("m").manifest.of_kind("model")
    assert (str(layer.digest), layer.from_) == (digest, "both.gguf")


async def test_draft_model_gets_a_layer_and_a_config_entry(lab: Lab) -> None:
    await lab.create(draft_files={"d.gguf": lab.upload(tiny_model(general__name=text("D")).encode())})
    assert lab.kinds() == ["model", "draft"]
    assert lab.config()["draft"] == {"model_format": "gguf", "architecture": "llama"}
    await lab.create(model="n", from_="m")
    assert lab.config("n")["draft"] == {"model_format": "gguf", "architecture": "llama"}


def shard(number: int, count: int, *names: str, with_number: bool = True) -> bytes:
    keys = {"split.count": count, "split.tensors.count": 2} | ({"split.no": number} if with_number else {})
    base = tiny_model() if number == 0 else FakeGguf((("general.architecture", text("llama")),), ())
    extra = tuple((key, Value(UINT16, value)) for key, value in keys.items())
    return FakeGguf((*base.values, *extra), tuple(FakeTensor(name, (4, 3)) for name in names)).encode()


async def test_split_files_become_one_layer(lab: Lab) -> None:
    files = {
        "x-00001-of-00002.gguf": lab.upload(shard(0, 2, "token_embd.weight")),
        "x-00002-of-00002.gguf": lab.upload(shard(1, 2, "output.weight")),
    }
    await lab.create(files=files)
    (path,) = lab.store.resolve("m").paths
    with GgufReader(path) as reader:
        assert {tensor.name for tensor in reader.tensors} == {"token_embd.weight", "output.weight"}
        assert not any(key.startswith("split.") for key in reader.entries)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["x.gguf", "y-00002-of-00002.gguf"], 'split GGUF "x.gguf" must use llama.cpp split filename pattern'),
        (["x-00001-of-00003.gguf", "x-00002-of-00002.gguf"], "filename count 3 does not match metadata count 2"),
        (["x-00002-of-00002.gguf", "y-00002-of-00002.gguf"], "filename index 2 does not match metadata index 1"),
        (["x-00001-of-00002.gguf"], 'split GGUF "x-00001-of-00002.gguf" has 1 shards, expected 2'),
    ],
)
async def test_bad_split_sets_are_refused(lab: Lab, names: list[str], message: str) -> None:
    uploads = [lab.upload(shard(0, 2, "a")), lab.upload(shard(1, 2, "b"))]
    with pytest.raises(InvalidRequestError) as caught:
        await lab.create(files=dict(zip(names, uploads, strict=False)))
    assert message in caught.value.message


# --- quantising ------------------------------------------------------------------------------------------------------


def f16_model(**extra: Value) -> bytes:
    base = tiny_model(**extra)
    return FakeGguf(base.values, (FakeTensor("token_embd.weight", (4, 3), F16),)).encode()


async def test_quantised_model_replaces_the_layer(lab: Lab) -> None:
    events = [
        event
        async for event in lab.creator.create(
            CreateCall(model="m", files={"m.gguf": lab.upload(f16_model())}, quantize="q4_k")
        )
    ]
    progress = [event for event in events if event.status == "quantizing F16 model to Q4_K_M"]
    assert [event.completed for event in progress] == [progress[0].total // 2, progress[0].total]
    assert progress[0].digest == "0000000000000000000"
    assert lab.config()["file_type"] == "Q4_K_M"
    assert [job.ftype for job in lab.quantize.jobs] == ["Q4_K_M"]
    await lab.create(model="n", from_="m")
    with pytest.raises(InvalidRequestError, match="quantization is only supported for F16, BF16 and F32 models"):
        await lab.create(model="n", from_="m", quantize="Q8_0")


def store_split(lab: Lab, name: str, files: Sequence[bytes]) -> None:
    """A model whose manifest names every file of a split set, as registries give it."""
    uploads = [lab.store.blobs.add_bytes(data)[0] for data in files]
    install_blobs(lab.store, ModelName.parse(name), uploads, (), Provenance("a registry", ()))


async def test_stored_split_model_is_inherited_file_by_file(lab: Lab) -> None:
    store_split(lab, "big", split_model(3))
    await lab.create(model="m", from_="big", system="S")
    assert lab.kinds() == ["model", "model", "model", "system"]
    config = lab.config()
    assert (config["model_families"], config["model_type"]) == (["llama"], "36")
    assert len(lab.store.resolve("m").paths) == 3
    assert lab.store.resolve("m").details.parameter_size == "36"


async def test_stored_split_model_is_quantised_as_one_file(lab: Lab) -> None:
    store_split(lab, "big", split_model(3))
    tensors: list[str] = []

    async def quantize(job: QuantizeJob) -> AsyncGenerator[tuple[int, int], None]:
        with GgufReader(job.source) as reader:
            tensors.extend(tensor.name for tensor in reader.tensors)
        async for step in lab.quantize(job):
            yield step

    lab.creator = ModelCreator(lab.store, pull=FakePull(lab), quantize=quantize)
    statuses = await lab.create(model="m", from_="big", quantize="q4_K_M")
    assert statuses.index("merging split GGUF") < statuses.index("quantizing F16 model to Q4_K_M")
    assert tensors == ["token_embd.weight", "blk.0.t1.weight", "blk.0.t2.weight"]
    assert lab.kinds() == ["model"]
    assert lab.config()["file_type"] == "Q4_K_M"
    assert list((lab.store.layout.root / ".donabe" / "create").iterdir()) == []


async def test_base_that_lacks_a_file_of_its_set_is_refused(lab: Lab) -> None:
    store_split(lab, "big", split_model(2))
    stored = lab.store.read_manifest("big")
    whole = stored.manifest
    broken = Manifest(whole.config, whole.layers[:1])
    lab.store.write_manifest(stored.name, broken.encode())
    with pytest.raises(InvalidRequestError, match="has 1 shards, expected 2"):
        await lab.create(model="m", from_="big")


async def test_same_type_is_left_alone(lab: Lab) -> None:
    await lab.create(files={"m.gguf": lab.upload(f16_model())}, quantize="F16")
    assert lab.quantize.jobs == []


async def test_unknown_type_is_refused_before_anything_else(lab: Lab) -> None:
    with pytest.raises(
        InvalidRequestError, match="unsupported quantization type Q9 - supported types are F32, F16, Q4"
    ):
        await lab.create(quantize="q9")


async def test_draft_is_quantised_by_its_own_field(lab: Lab) -> None:
    draft = {"d.gguf": lab.upload(f16_model(general__name=text("D")))}
    await lab.create(files={"m.gguf": lab.upload(f16_model())}, draft_files=draft, draft_quantize="q8_0")
    assert [(job.ftype, job.source.name) for job in lab.quantize.jobs] == [
        ("Q8_0", Digest.parse(draft["d.gguf"]).file_name)
    ]


async def test_failed_quantisation_leaves_no_model_and_no_files(lab: Lab) -> None:
    digest = lab.upload(f16_model())
    path = lab.store.layout.root / "blobs" / Digest.parse(digest).file_name
    lab.quantize.error = LoadError(
        f"'{path.name}' can't be quantized", log_tail=(f"failed to load model from {path}", "more")
    )
    with pytest.raises(LoadError) as caught:
        await lab.create(files={"m.gguf": digest}, quantize="q4_k")
    assert caught.value.message == "m.gguf can't be quantized to Q4_K_M: failed to load model from m.gguf"
    assert lab.store.names() == ()
    assert lab.files == {Digest.parse(digest).file_name}
    assert list((lab.store.layout.root / ".donabe" / "create").iterdir()) == []


async def test_closing_the_iterator_stops_the_work(lab: Lab) -> None:
    events = lab.creator.create(CreateCall(model="m", files={"m.gguf": lab.upload(f16_model())}, quantize="q4_k"))
    async for event in events:
        if event.status.startswith("quantizing"):
            break
    await events.aclose()
    await asyncio.sleep(0)
    assert lab.store.names() == ()
    assert list((lab.store.layout.root / ".donabe" / "create").iterdir()) == []


# --- refusals --------------------------------------------------------------------------------------------------------

DIGEST = "sha256:" + "0" * 64
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"files": {"../x.gguf": DIGEST}}, "file path must be relative"),
    ({"files": {"/x": DIGEST}}, "file path must be relative"),
    ({"files": {"a/./x": DIGEST}}, "file path must be relative"),
    ({"draft_files": {"a//x": DIGEST}}, "file path must be relative"),
    ({"files": {"a.gguf": ""}}, "invalid digest format"),
    ({"adapters": {"a.gguf": "sha256:../../x"}}, "invalid digest format"),
    ({"files": None}, "neither 'from' or 'files' was specified"),
    ({"files": {}}, "unknown type"),
    ({"draft_quantize": "q8_0"}, "--draft-quantize requires a DRAFT model"),
    ({"from_": "a/b/c/d"}, "invalid model name"),
    ({"from_": "m", "remote_host": "http://[::1"}, "bad remote"),
    ({"from_": "m", "remote_host": "ftp://x"}, "bad remote"),
    ({"from_": "m:cloud", "draft_files": {"d.gguf": DIGEST}}, "DRAFT cannot be used with remote models"),
    ({"info": {"context_length": "1"}}, 'info field "context_length" must be a number'),
    ({"info": {"context_length": -1}}, 'info field "context_length" must be a non-negative integer'),
    ({"info": {"embedding_length": 1.5}}, 'info field "embedding_length" must be a non-negative integer'),
    ({"info": {"base_name": 1}}, 'info field "base_name" must be a string'),
    ({"template": "{{ .Prompt"}, "template error: template: :1: unclosed action"),
    ({"template": "{{ if .Prompt }}"}, "template error: template: :1: unexpected EOF"),
    ({"template": "{{ Prompt }}"}, 'template error: template: :1: function "Prompt" not defined'),
    ({"requires": "x"}, "requires must be a valid semver (e.g. 0.14.0)"),
    ({"parameters": {"top_p": 3}}, 'option "top_p" must be between 0 and 1, got 3'),
    ({"files": {"a.gguf": DIGEST}}, f'blob "{DIGEST}" not found'),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED)
async def test_bad_requests_are_refused_with_the_reference_text(lab: Lab, fields: dict[str, Any], message: str) -> None:
    with pytest.raises((InvalidRequestError, InvalidNameError)) as caught:
        await lab.create(**fields)
    assert caught.value.message == message
    assert lab.store.names() == ()


async def test_bad_name_is_refused(lab: Lab) -> None:
    with pytest.raises(InvalidNameError, match="invalid model name"):
        await lab.create(model="bad name!")


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"PK\x03\x04", InvalidRequestError, "supplied file was not in GGUF format"),
        (b"GGUF\x03\0\0\0", ModelFileError, "weights.gguf"),
    ],
)
async def test_files_that_are_no_models_are_refused_by_their_own_name(
    lab: Lab, data: bytes, error: type[DonabeError], message: str
) -> None:
    with pytest.raises(error) as caught:
        await lab.create(files={"weights.gguf": lab.upload(data)})
    assert message in caught.value.message
    assert "sha256-" not in caught.value.message


async def test_safetensors_are_refused_with_the_way_out(lab: Lab) -> None:
    with pytest.raises(InvalidRequestError, match=r"model\.safetensors is not in GGUF format") as caught:
        await lab.create(files={"config.json": lab.upload(b"{}"), "model.safetensors": lab.upload(b"xx")})
    assert "convert" in str(caught.value.hint)


async def test_more_than_one_adapter_is_refused(lab: Lab) -> None:
    adapters = {"a.gguf": lab.upload(adapter().encode()), "b.gguf": lab.upload(adapter().encode())}
    with pytest.raises(InvalidRequestError, match="only one adapter is currently supported"):
        await lab.create(adapters=adapters)


async def test_model_as_adapter_is_refused(lab: Lab) -> None:
    with pytest.raises(InvalidRequestError, match=r"a\.gguf is a model, not a LoRA adapter"):
        await lab.create(adapters={"a.gguf": lab.upload(tiny_model().encode())})


async def test_unknown_parameter_is_kept_with_a_warning(lab: Lab) -> None:
    statuses = await lab.create(parameters={"num_gqa": 8})
    assert statuses[0] == 'warning: parameter "num_gqa" is not known and will have no effect'
    assert lab.data("params") == b'{"num_gqa":8}\n'


# --- remote ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://ollama.com", "https://ollama.com:11434"),
        ("ollama.com", "https://ollama.com:443"),
        ("http://ollama.com", "https://ollama.com:443"),
        ("/x", "http://localhost:11434/x"),
        ("host", "http://host:11434"),
        ("host:80/", "http://host:80"),
        ("https://h//a/b/", "https://h:11434/a/b"),
        ("[::1]:9", "http://[::1]:9"),
    ],
)
def test_remote_host_is_normalised(text: str, expected: str) -> None:
    assert remote_url(text) == expected


async def test_remote_model_is_a_config_only(lab: Lab) -> None:
    await lab.create(from_="gpt-oss:20b:cloud", system="S")
    config = lab.config()
    assert (config["remote_host"], config["remote_model"]) == ("https://ollama.com:443", "gpt-oss:20b")
    assert lab.kinds() == ["system"]
