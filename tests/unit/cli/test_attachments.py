from __future__ import annotations

from pathlib import Path

import pytest

from donabe.cli.run_model.attachments import extract_attachments
from donabe.errors import InvalidRequestError

PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 8
WAV = b"RIFF\0\0\0\0WAVEfmt "


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "a.png").write_bytes(PNG + b"outer")
    (inner / "a.png").write_bytes(PNG + b"inner")
    (inner / "s.wav").write_bytes(WAV)
    (inner / "text.png").write_bytes(b"hello")
    monkeypatch.chdir(inner)
    return inner


@pytest.mark.parametrize(
    ("prompt", "text", "ends"),
    [
        ("what is ./a.png", "what is", [b"inner"]),
        ("what is '../a.png'?", "what is ?", [b"outer"]),
        ("../a.png and ./a.png", "and", [b"outer", b"inner"]),
        ("hear ./s.wav now", "hear  now", [b"fmt "]),
        ("see ./nope.png", "see ./nope.png", []),
        ("see a.png", "see a.png", []),
        ("http://x.org/a.png", "http://x.org/a.png", []),
    ],
)
def test_paths_in_a_prompt(folder: Path, prompt: str, text: str, ends: list[bytes]) -> None:
    rest, files = extract_attachments(prompt)
    assert rest == text
    assert [data[-len(end) :] for data, end in zip(files, ends, strict=True)] == ends


def test_file_that_is_no_image_is_an_error(folder: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"text\.png: invalid file type"):
        extract_attachments("x ./text.png")


def test_escaped_blank_is_undone(folder: Path) -> None:
    (folder / "a b.png").write_bytes(PNG)
    assert extract_attachments(r"see ./a\ b.png") == ("see", [PNG])
