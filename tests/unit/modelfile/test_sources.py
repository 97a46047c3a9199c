"""Local files a Modelfile names: what is a path, what a folder gives, and how files are named in requests."""

from __future__ import annotations

from pathlib import Path

import pytest

from donabe.errors import InvalidRequestError
from donabe.modelfile.sources import check_draft, relative_names, required_files, source_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.gguf", "b.gguf", "notes.txt", "sub/c.gguf"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"GGUF")
    return tmp_path


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("a.gguf", ["a.gguf"]),
        ("./b.gguf", ["b.gguf"]),
        ("sub", ["c.gguf"]),
        (".", ["a.gguf", "b.gguf"]),
        ("", ["a.gguf", "b.gguf"]),
        ("llama3", None),
        ("hf.co/org/repo:Q4_K_M", None),
        ("org/x.gguf", None),
    ],
)
def test_existing_path_gives_files_anything_else_is_a_name(folder: Path, value: str, names: list[str] | None) -> None:
    found = source_files(value, folder)
    assert (None if found is None else [path.name for path in found]) == names


@pytest.mark.parametrize("value", ["./missing", "/missing/x", "../missing.gguf", "missing.gguf"])
def test_missing_path_is_named_in_full(folder: Path, value: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"stat /.*missing.*: no such file or directory"):
        source_files(value, folder)


def test_home_is_expanded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert required_files("~/a.gguf", Path("/")) == (folder / "a.gguf",)


def test_folder_without_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="no Modelfile or safetensors files found"):
        source_files(".", tmp_path)
    (tmp_path / "model-00001-of-00002.safetensors").touch()
    with pytest.raises(InvalidRequestError, match=r"model-00001-of-00002[.]safetensors is not in GGUF format"):
        source_files(".", tmp_path)


def test_missing_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"stat .*/lora: no such file or directory"):
        required_files("lora", tmp_path)


def test_draft_that_is_the_model_is_refused(folder: Path) -> None:
    (folder / "link.gguf").symlink_to(folder / "a.gguf")
    check_draft([folder / "b.gguf"], [folder / "a.gguf"])
    with pytest.raises(InvalidRequestError, match=r"DRAFT must not reference the same local path as FROM: .*link"):
        check_draft([folder / "link.gguf"], [folder / "a.gguf"])


def test_names_are_relative_to_the_common_folder(folder: Path) -> None:
    assert relative_names([folder / "a.gguf", folder / "sub" / "c.gguf"]) == {
        "a.gguf": folder / "a.gguf",
        "sub/c.gguf": folder / "sub" / "c.gguf",
    }
    assert list(relative_names([folder / "sub" / "c.gguf"])) == ["c.gguf"]
    assert relative_names([]) == {}
