"""`donabe save`, `load` and `doctor`: they work without a server, and fail with one line and exit code 1."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.fakes.command_line import Run
from tests.fakes.registry_store import add_model

from donabe.store.digest import Digest
from donabe.store.models import ModelStore


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    monkeypatch.setenv("DONABE_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("DONABE_EXTRA_STORES", str(tmp_path / "theirs"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return ModelStore(tmp_path / "models")


def test_saved_model_is_loaded_elsewhere(
    donabe_alone: Run, store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_model(store, "user/m:t", system=b"Say hi!")
    saved = donabe_alone("save", "USER/m:t")
    assert (saved.code, saved.out) == (0, "saved 'user/m:t' to m-t.tar\n")
    assert "success" in saved.err
    monkeypatch.setenv("DONABE_MODELS", str(tmp_path / "other"))
    loaded = donabe_alone("load", "m-t.tar")
    assert loaded.code == 0
    assert "loading" in loaded.err
    other = ModelStore(tmp_path / "other")
    assert other.read_manifest("user/m:t").data == store.read_manifest("user/m:t").data
    assert other.resolve("user/m:t").system == "Say hi!"


def test_missing_model_leaves_an_existing_file_alone(donabe_alone: Run, store: ModelStore, tmp_path: Path) -> None:
    (tmp_path / "kept.tar").write_text("old")
    done = donabe_alone("save", "absent", "kept.tar")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("Error: model 'absent' not found")
    assert (tmp_path / "kept.tar").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.tar"]


def test_damaged_model_leaves_no_file(donabe_alone: Run, store: ModelStore, tmp_path: Path) -> None:
    store.layout.blob(add_model(store, "m")).unlink()
    done = donabe_alone("save", "m", "out.tar")
    assert done.code == 1
    assert "is missing from the store" in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models"]


def test_model_of_another_program_is_not_saved(donabe_alone: Run, store: ModelStore, tmp_path: Path) -> None:
    add_model(ModelStore(tmp_path / "theirs"), "theirs")
    done = donabe_alone("save", "theirs")
    assert done.code == 1
    assert "belongs to another program's store" in done.err


@pytest.mark.parametrize(
    ("content", "words"), [(None, "No such file"), (b"hello", "not a bundle"), (b"\0" * 1024, "holds no model")]
)
def test_what_is_no_bundle_is_refused(
    donabe_alone: Run, store: ModelStore, tmp_path: Path, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / "x.tar").write_bytes(content)
    done = donabe_alone("load", "x.tar")
    assert done.code == 1
    assert words in done.err
    assert done.err.count("\n") == 1
    assert store.names() == ()


def test_doctor_finds_a_sound_store_sound(donabe_alone: Run, store: ModelStore) -> None:
    add_model(store, "m")
    done = donabe_alone("doctor", "--store", "--deep")
    assert done.code == 0
    assert "1 model in" in done.out
    assert done.out.endswith("no problem found\n")


def test_doctor_reports_damage_with_exit_code_1(donabe_alone: Run, store: ModelStore) -> None:
    add_model(store, "m", system=b"x")
    store.blobs.remove(Digest.of_bytes(b"x"))
    table = donabe_alone("doctor", "--store")
    assert table.code == 1
    assert "m:latest" in table.out
    assert "1 problem found" in table.out
    answer = donabe_alone("doctor", "--store", "--json")
    assert answer.code == 1
    value = json.loads(answer.out)
    assert value["problems"] == 1
    [finding] = value["findings"]
    assert finding["level"] == "problem"
    assert finding["subject"] == "m:latest"
    assert "is missing" in finding["message"]
    assert "donabe pull m:latest" in finding["hint"]


def test_doctor_names_what_is_wrong_with_the_installation(
    donabe_alone: Run, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("donabe.cli.health._DESCRIBE", "donabe.no_such_module")
    done = donabe_alone("doctor")
    assert done.code == 1
    assert "the native part can't be loaded" in done.out
    assert "No module named donabe.no_such_module" in done.out
    assert "none is running" in done.out
