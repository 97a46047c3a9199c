from __future__ import annotations

import io

import pytest

from donabe.cli.run_model.wrap import WrappedWriter


def screen(raw: str) -> list[str]:
    """What a terminal shows after the cursor-back and erase sequences that the writer uses."""
    lines = [""]
    index = 0
    while index < len(raw):
        if raw.startswith("\x1b[", index):
            end = next(i for i in range(index + 2, len(raw)) if raw[i].isalpha())
            if raw[end] == "D":
                lines[-1] = lines[-1][: -int(raw[index + 2 : end])]
            index = end + 1
            continue
        if raw[index] == "\n":
            lines.append("")
        else:
            lines[-1] += raw[index]
        index += 1
    return lines


def written(width: int | None, *parts: str) -> str:
    stream = io.StringIO()
    writer = WrappedWriter(stream, width)
    for part in parts:
        writer.write(part)
    return stream.getvalue()


def test_without_width_text_passes_unchanged() -> None:
    assert written(None, "a" * 50, "\n") == "a" * 50 + "\n"


@pytest.mark.parametrize("parts", [("hello brave world",), tuple("hello brave world"), ("hello br", "ave wor", "ld")])
def test_words_move_to_the_next_line_however_they_arrive(parts: tuple[str, ...]) -> None:
    assert screen(written(10, *parts)) == ["hello ", "brave ", "world"]


def test_word_longer_than_a_line_is_split() -> None:
    assert screen(written(10, "a" * 25)) == ["a" * 10, "a" * 10, "a" * 5]


def test_wide_characters_count_twice() -> None:
    assert screen(written(10, "土" * 7)) == ["土" * 5, "土" * 2]


def test_newline_starts_a_fresh_line() -> None:
    assert screen(written(10, "12345678\n12345678")) == ["12345678", "12345678"]
