"""The model store: listing, resolving, deleting, copying, pruning, and what it refuses."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from tests.fakes.registry_gguf import split_model, text, tiny_model, u32
from tests.fakes.registry_store import add_config, add_layer, add_model

from donabe.errors import DiskFullError, InvalidNameError, ModelFileError, ModelNotFoundError, StoreError
from donabe.store.blobs import BlobWriter
from donabe.store.check import check_store
from donabe.store.digest import Digest
from donabe.store.files import store_error, write_atomically
from donabe.store.foreign import HuggingFaceModels, OllamaModels, file_spec, foreign_models
from donabe.store.layout import StoreLayout
from donabe.store.manifests import Manifest
from donabe.store.models import ModelStore
from donabe.store.names import ModelName
from donabe.store.summary import require_model


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def _snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_manifest_is_where_the_layout_says(store: ModelStore) -> None:
    add_model(store, "llama3")
    assert (store.layout.root / "manifests/registry.ollama.ai/library/llama3/latest").is_file()


def test_files_have_the_layouts_modes(store: ModelStore) -> None:
    digest = add_model(store, "m")
    for path in (store.layout.blob(digest), store.layout.manifest(ModelName.parse("m"))):
        assert path.stat().st_mode & 0o777 == 0o644


def test_resolve_gives_everything_a_runner_needs(store: ModelStore) -> None:
    digest = add_model(
        store, "m", template=b"{{ .Prompt }}", system=b"Say hi!", params=b'{"top_k":10}\n', license=b"MIT",
        messages=b'[{"role":"user","content":"hi"}]',
    )  # fmt: skip
    spec = store.resolve("M")
    assert spec.name == "m:latest"
    assert spec.paths == (str(store.layout.blob(digest)),)
    assert (spec.template, spec.system, spec.parameters, spec.licenses) == (
        "{{ .Prompt }}", "Say hi!", {"top_k": 10}, ("MIT",)
    )  # fmt: skip
    assert [(message.role, message.content) for message in spec.messages] == [("user", "hi")]
    assert spec.capabilities == ("completion",)
    assert (spec.details.family, spec.details.parameter_size, spec.details.context_length) == ("llama", "12", 128)
    manifest = store.read_manifest("m")
    assert spec.digest == Digest.of_bytes(manifest.path.read_bytes()).hex
    assert spec.size_bytes == manifest.manifest.size_bytes


def test_system_layer_has_the_known_digest(store: ModelStore) -> None:
    add_model(store, "m", system=b"Say hi!")
    (layer,) = store.read_manifest("m").manifest.of_kind("system")
    assert layer.digest.hex == "f29e82a8284dbdf5910b1555580ff60b04238b8da9d5e51159ada67a4d0d5851"


def test_names_are_matched_without_case(store: ModelStore) -> None:
    add_model(store, "Foo")
    assert store.resolve("foo").name == "Foo:latest"
    assert store.has("FOO")


def test_missing_model_suggests_the_nearest_names(store: ModelStore) -> None:
    add_model(store, "smollm2:135m")
    with pytest.raises(ModelNotFoundError, match="model 'smolm2' not found") as caught:
        store.resolve("smolm2")
    assert "smollm2:135m" in str(caught.value.hint)


def test_missing_model_in_an_empty_store_says_how_to_pull(store: ModelStore) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        store.resolve("m")
    assert caught.value.hint == "pull it first: donabe pull m"
    assert not store.layout.root.exists()


def test_invalid_name_touches_nothing(store: ModelStore) -> None:
    for name in ("../../etc/passwd", "a/../b", "m@sha256:x"):
        with pytest.raises(InvalidNameError):
            store.resolve(name)
    assert not store.layout.root.exists()


def test_list_is_newest_first(store: ModelStore) -> None:
    for age, name in enumerate(("new", "old", "older")):
        add_model(store, name)
        os.utime(store.layout.manifest(ModelName.parse(name)), (1_000_000 - age * 100,) * 2)
    assert [spec.name for spec in store.list()] == ["new:latest", "old:latest", "older:latest"]


def test_list_skips_what_is_no_manifest(store: ModelStore) -> None:
    add_model(store, "good")
    folder = store.layout.manifests / "registry.ollama.ai" / "library"
    (folder / "file-at-level-3").write_text("{}")
    (folder / "good" / ".hidden").write_text("{}")
    (folder / "good" / "folder").mkdir()
    (folder / "good" / "broken").write_text("{")
    (folder / "good" / "empty").write_text("")
    assert [spec.name for spec in store.list()] == ["good:latest"]


def test_list_shows_a_model_whose_weights_are_damaged(store: ModelStore) -> None:
    digest = add_model(store, "m")
    store.layout.blob(digest).write_bytes(b"GGUF")
    assert [(spec.name, spec.capabilities) for spec in store.list()] == [("m:latest", ())]
    with pytest.raises(ModelFileError):
        store.resolve("m")


def test_missing_blob_is_named(store: ModelStore) -> None:
    digest = add_model(store, "m")
    store.layout.blob(digest).unlink()
    with pytest.raises(StoreError, match=f"blob {digest.short} is missing"):
        store.resolve("m")


def test_manifest_without_its_blobs_is_not_written(store: ModelStore) -> None:
    add_model(store, "m")
    data = store.read_manifest("m").data
    other = ModelStore(store.layout.root.parent / "other")
    with pytest.raises(StoreError, match="missing"):
        other.write_manifest(ModelName.parse("m"), data)
    assert other.names() == ()


@pytest.mark.parametrize(
    ("layers", "config", "words"),
    [
        (("tensor",), {"model_format": "safetensors"}, "safetensors"),
        ((), {"remote_host": "https://example.com:443", "remote_model": "x"}, "example.com"),
        ((), {}, "no model layer"),
    ],
)
def test_models_that_cannot_run_here_say_why(
    store: ModelStore, layers: tuple[str, ...], config: dict[str, object], words: str
) -> None:
    manifest = Manifest(add_config(store, **config), tuple(add_layer(store, kind, b"x") for kind in layers))
    store.write_manifest(ModelName.parse("m"), manifest.encode())
    with pytest.raises(StoreError, match=words):
        store.resolve("m")
    assert len(store.list()) == 1


@pytest.mark.parametrize(
    ("kind", "data"),
    [("params", b"[]"), ("params", b"{"), ("messages", b"{}x"), ("messages", b"[1]"), ("params", b"[" * 50_000)],
)  # fmt: skip
def test_damaged_side_layers_are_typed_errors(store: ModelStore, kind: str, data: bytes) -> None:
    add_model(store, "m", **{kind: data})
    with pytest.raises(StoreError, match=f"the {kind} layer"):
        store.resolve("m")


def test_side_layers_are_capped(store: ModelStore) -> None:
    add_model(store, "m", system=b"x" * ((4 << 20) + 1))
    with pytest.raises(StoreError, match="larger than"):
        store.resolve("m")


def test_projector_adapter_and_draft_are_found(store: ModelStore) -> None:
    projector = tiny_model(general__type=text("mmproj"), clip__has_audio_encoder=u32(1)).encode()
    add_model(store, "m", projector=projector, adapter=tiny_model(general__type=text("adapter")).encode(),
              draft=tiny_model(general__name=text("Draft")).encode())  # fmt: skip
    spec = store.resolve("m")
    assert spec.projector == str(store.layout.blob(Digest.of_bytes(projector)))
    assert len(spec.adapters) == 1
    assert spec.draft
    assert spec.capabilities == ("completion", "vision")


def test_delete_keeps_shared_blobs_and_removes_empty_folders(store: ModelStore) -> None:
    digest = add_model(store, "a")
    add_model(store, "b", license=b"only b")
    store.delete("a")
    assert store.layout.blob(digest).is_file()
    assert not (store.layout.manifests / "registry.ollama.ai/library/a").exists()
    store.delete("B")
    assert list(store.blobs.files()) == []
    assert not (store.layout.manifests / "registry.ollama.ai").exists()


def test_delete_missing_model(store: ModelStore) -> None:
    with pytest.raises(ModelNotFoundError):
        store.delete("m")


def test_copy_shares_blobs_and_bytes(store: ModelStore) -> None:
    add_model(store, "a")
    store.copy("A", "u/b:c")
    assert store.read_manifest("u/b:c").data == store.read_manifest("a").data
    store.copy("a", "a")
    store.delete("a")
    assert store.resolve("u/b:c").name == "u/b:c"


def test_copy_over_another_case_overwrites_it(store: ModelStore) -> None:
    add_model(store, "a", system=b"one")
    add_model(store, "Other")
    store.copy("a", "OTHER")
    assert {name.short for name in store.names()} == {"a:latest", "Other:latest"}
    assert store.resolve("other").system == "one"


def test_replacing_a_model_removes_what_nothing_uses(store: ModelStore) -> None:
    add_model(store, "m", system=b"old")
    old = store.read_manifest("m").manifest.of_kind("system")[0].digest
    add_model(store, "m", system=b"new")
    assert not store.blobs.has(old)


def test_replaced_blobs_stay_where_the_user_says_so(tmp_path: Path) -> None:
    store = ModelStore(tmp_path, keep_unused=True)
    add_model(store, "m", system=b"old")
    add_model(store, "m", system=b"new")
    assert store.blobs.has(Digest.of_bytes(b"old"))


def test_prune_keeps_fresh_and_used_blobs(store: ModelStore) -> None:
    used = add_model(store, "m")
    fresh, _ = store.blobs.add_bytes(b"fresh")
    stale, _ = store.blobs.add_bytes(b"stale")
    partial = store.layout.partial(stale)
    partial.write_bytes(b"x" * 10)
    temporary = store.layout.new_temp()
    temporary.write_bytes(b"")
    for path in (store.layout.blob(stale), partial, temporary, store.layout.blob(used)):
        os.utime(path, (1, 1))
    report = store.prune()
    assert (report.n_removed, report.freed_bytes) == (3, 15)
    assert store.blobs.has(used)
    assert store.blobs.has(fresh)
    assert store.resolve("m")


def test_prune_does_nothing_while_a_manifest_is_unreadable(store: ModelStore) -> None:
    stale, _ = store.blobs.add_bytes(b"stale")
    os.utime(store.layout.blob(stale), (1, 1))
    path = store.layout.manifest(ModelName.parse("broken"))
    path.parent.mkdir(parents=True)
    path.write_text("{")
    assert store.prune().skipped == "the manifest of broken:latest can't be read"
    assert store.blobs.has(stale)


def test_legacy_blob_names_are_adopted(store: ModelStore) -> None:
    digest = add_model(store, "m")
    path = store.layout.blob(digest)
    path.rename(path.with_name(str(digest)))
    assert store.adopt_legacy_blobs() == 1
    assert store.resolve("m")


def test_tidy_prunes_and_never_fails(store: ModelStore, tmp_path: Path) -> None:
    stale, _ = store.blobs.add_bytes(b"stale")
    os.utime(store.layout.blob(stale), (1, 1))
    assert store.tidy().n_removed == 1
    (tmp_path / "file").write_text("")
    assert ModelStore(tmp_path / "file" / "below").tidy().n_removed == 0


def test_blob_left_early_leaves_nothing(store: ModelStore) -> None:
    with pytest.raises(KeyError), store.blobs.writer() as writer:
        writer.write(b"half")
        raise KeyError
    assert list(store.blobs.files()) == []


def test_blob_with_the_wrong_digest_leaves_nothing(store: ModelStore) -> None:
    with pytest.raises(Exception, match="digest mismatch, expected"), store.blobs.writer() as writer:
        writer.write(b"data")
        writer.commit(Digest.of_bytes(b"other"))
    assert list(store.blobs.files()) == []


def test_full_disk_while_writing_a_blob(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullFile:
        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskFullError, match="the model store is full") as caught, BlobWriter(store.layout) as writer:
        assert writer._file is not None
        writer._file.close()
        monkeypatch.setattr(writer, "_file", FullFile())
        writer.write(b"x")
    assert caught.value.hint
    assert list(store.blobs.files()) == []


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.ENOSPC, DiskFullError, "full"),
        (errno.EDQUOT, DiskFullError, "full"),
        (errno.EACCES, StoreError, "not writable"),
        (errno.EROFS, StoreError, "not writable"),
        (errno.EIO, StoreError, "can't be used"),
    ],
)
def test_system_errors_become_one_line(number: int, kind: type[Exception], words: str, tmp_path: Path) -> None:
    error = store_error(OSError(number, os.strerror(number)), tmp_path)
    assert type(error) is kind
    assert words in str(error)
    assert "\n" not in str(error)
    assert error.hint


def test_store_in_the_place_of_a_file_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("")
    with pytest.raises(StoreError, match="can't be used"):
        ModelStore(tmp_path / "models").blobs.add_bytes(b"x")


def test_failed_atomic_write_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("donabe.store.files.flush_to_disk", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert _snapshot(tmp_path) == {"file": b"old"}


def test_lock_excludes_others(store: ModelStore) -> None:
    with store.lock(), pytest.raises(StoreError, match="another process"), store.lock(timeout_s=0.0):
        pass
    with store.lock(timeout_s=0.0):
        pass


def test_deleting_and_adding_at_once_never_leaves_a_model_without_blobs(store: ModelStore) -> None:
    def churn(name: str) -> None:
        for _ in range(10):
            try:
                add_model(store, name)
                store.delete(name)
            except StoreError as error:
                assert "missing" in str(error)  # the other one deleted the shared blob first

    threads = [threading.Thread(target=churn, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in store.names():
        store.resolve(name)


# --- other people's models -------------------------------------------------------------------------------------------


def test_ollama_store_is_used_in_place(store: ModelStore, tmp_path: Path) -> None:
    theirs = ModelStore(tmp_path / "ollama")
    digest = add_model(theirs, "theirs")
    before = _snapshot(theirs.layout.root)
    both = ModelStore(store.layout.root, [OllamaModels(theirs.layout.root)])
    add_model(both, "mine")
    assert {spec.name for spec in both.list()} == {"mine:latest", "theirs:latest"}
    assert both.resolve("THEIRS").paths == (str(theirs.layout.blob(digest)),)
    with pytest.raises(StoreError, match="another program"):
        both.delete("theirs")
    both.prune(grace_s=0)
    assert _snapshot(theirs.layout.root) == before


def test_own_model_hides_a_foreign_one(store: ModelStore, tmp_path: Path) -> None:
    theirs = ModelStore(tmp_path / "ollama")
    add_model(theirs, "m", system=b"theirs")
    both = ModelStore(store.layout.root, [OllamaModels(theirs.layout.root)])
    add_model(both, "m", system=b"mine")
    assert [spec.system for spec in both.list()] == ["mine"]


def test_hugging_face_cache_is_used_in_place(store: ModelStore, tmp_path: Path) -> None:
    cache = tmp_path / "hub"
    blob = tiny_model().write(cache / "models--user--Repo-GGUF" / "blobs" / "abc")
    snapshot = cache / "models--user--Repo-GGUF" / "snapshots" / "rev1"
    snapshot.mkdir(parents=True)
    (snapshot / "model-Q4_K_M.gguf").symlink_to(blob)
    (snapshot / "mmproj-F16.gguf").symlink_to(blob)
    both = ModelStore(store.layout.root, foreign_models(store.layout.root, [], cache))
    assert [spec.name for spec in both.list()] == ["hf.co/user/Repo-GGUF:Q4_K_M"]
    assert both.resolve("hf.co/user/repo-gguf:q4_k_m").paths == (str(snapshot / "model-Q4_K_M.gguf"),)
    with pytest.raises(StoreError, match="another program"):
        both.delete("hf.co/user/Repo-GGUF:Q4_K_M")


def test_missing_hugging_face_model(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        HuggingFaceModels(tmp_path).spec(ModelName.parse("hf.co/u/r"))


def test_own_store_is_not_read_twice(tmp_path: Path) -> None:
    root = tmp_path / "models"
    root.mkdir()
    assert foreign_models(root, [root, tmp_path / "absent"], tmp_path / "absent") == ()


def test_plain_file_runs_in_place(tmp_path: Path) -> None:
    path = tiny_model().write(tmp_path / "my.gguf")
    spec = file_spec(path)
    assert (spec.name, spec.paths, spec.details.quantization_level) == ("my.gguf", (str(path),), "F16")
    assert len(spec.digest) == 64


def _write_split(folder: Path, number: int, count: int, *, says: int | None = None) -> Path:
    model = tiny_model(split__count=u32(count), split__no=u32((number if says is None else says) - 1))
    return model.write(folder / f"big-{number:05d}-of-{count:05d}.gguf")


def test_split_set_is_found_from_any_member(tmp_path: Path) -> None:
    paths = [_write_split(tmp_path, number, 3) for number in (1, 2, 3)]
    assert file_spec(paths[1]).paths == tuple(str(path) for path in paths)


def test_split_set_with_a_missing_member(tmp_path: Path) -> None:
    path = _write_split(tmp_path, 1, 2)
    with pytest.raises(ModelFileError, match=r"big-00002-of-00002\.gguf: missing"):
        file_spec(path)


def test_split_set_with_a_wrong_member(tmp_path: Path) -> None:
    path = _write_split(tmp_path, 1, 2)
    _write_split(tmp_path, 2, 2, says=1)
    with pytest.raises(ModelFileError, match="its metadata says file 1 of 2"):
        file_spec(path)


def test_split_file_with_another_name(tmp_path: Path) -> None:
    path = tiny_model(split__count=u32(2), split__no=u32(0)).write(tmp_path / "odd.gguf")
    with pytest.raises(ModelFileError, match="not named like one"):
        file_spec(path)


def test_temporary_names_are_never_digests(tmp_path: Path) -> None:
    names = {StoreLayout(tmp_path).new_temp().name for _ in range(100)}
    assert len(names) == 100
    assert all(len(name) < len("sha256-") + 64 for name in names)


def test_resolve_takes_a_file_only_where_files_are_allowed(tmp_path: Path) -> None:
    path = tiny_model().write(tmp_path / "model.gguf")
    assert ModelStore(tmp_path / "store", allow_files=True).resolve(str(path)).paths == (str(path),)
    with pytest.raises(InvalidNameError):
        ModelStore(tmp_path / "store").resolve(str(path))


# --- models stored as split sets -------------------------------------------------------------------------------------


def test_model_of_several_layers_is_its_split_set_in_order(store: ModelStore) -> None:
    parts = split_model(3)
    layers = [add_layer(store, "model", parts[index]) for index in (2, 0, 1)]
    config = add_config(store, model_format="gguf")
    store.write_manifest(ModelName.parse("big"), Manifest(config, tuple(layers)).encode())
    spec = store.resolve("big")
    assert [Path(path).read_bytes() for path in spec.paths] == parts
    assert (spec.details.parameter_size, spec.details.family) == ("36", "llama")
    assert check_store(store) == ()


def test_split_set_with_a_layer_missing_is_refused_and_still_listed(store: ModelStore) -> None:
    layers = [add_layer(store, "model", part) for part in split_model(3)[:2]]
    config = add_config(store, model_format="gguf")
    store.write_manifest(ModelName.parse("big"), Manifest(config, tuple(layers)).encode())
    with pytest.raises(ModelFileError, match="split into 3 files, and only file 1, 2 is here"):
        store.resolve("big")
    assert [spec.name for spec in store.list()] == ["big:latest"]


def test_of_several_whole_models_the_last_counts(store: ModelStore) -> None:
    layers = [add_layer(store, "model", tiny_model(general__name=text(name)).encode()) for name in ("a", "b")]
    store.write_manifest(ModelName.parse("two"), Manifest(add_config(store), tuple(layers)).encode())
    assert store.resolve("two").paths == (str(store.layout.blob(layers[1].digest)),)


def test_later_file_of_a_set_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(split_model(2)[1])
    with pytest.raises(ModelFileError, match="a later file of a split model"):
        require_model(path)


def test_damaged_model_can_be_deleted(store: ModelStore) -> None:
    digest = add_model(store, "m", system=b"x")
    store.layout.blob(digest).unlink()
    store.blobs.touch(digest)
    store.delete("m")
    assert list(store.blobs.files()) == []
