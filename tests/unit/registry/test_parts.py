"""Plans and resume records of downloads."""

from __future__ import annotations

from pathlib import Path

import pytest

from donabe.registry import parts
from donabe.registry.parts import Part
from donabe.store.digest import Digest
from donabe.store.layout import StoreLayout

DIGEST = Digest.of_bytes(b"x")


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        (0, [0]),
        (1, [1]),
        (100_000_000, [100_000_000]),
        (250_000_000, [100_000_000, 100_000_000, 50_000_000]),
        (20_000_000_000, [1_000_000_000] * 20),
    ],
)
def test_plan(size: int, sizes: list[int]) -> None:
    plan = parts.plan(size)
    assert [part.size for part in plan] == sizes
    assert [part.number for part in plan] == list(range(len(sizes)))
    assert sum(part.size for part in plan) == size


def test_record_has_the_exact_text() -> None:
    assert Part(0, 0, 100_000_000).encode() == b'{"N":0,"Offset":0,"Size":100000000,"Completed":0}\n'


@pytest.fixture
def layout(tmp_path: Path) -> StoreLayout:
    return StoreLayout(tmp_path)


def _save(layout: StoreLayout, *saved: Part, size: int = 30) -> None:
    for part in saved:
        parts.save(layout, DIGEST, part)
    layout.partial(DIGEST).write_bytes(b"\0" * size)


def test_records_are_loaded_in_order(layout: StoreLayout) -> None:
    saved = [Part(number, number * 2, 2, number % 2) for number in range(15)]
    _save(layout, *reversed(saved))
    assert parts.load(layout, DIGEST, 30) == saved


@pytest.mark.parametrize(
    "saved",
    [
        [],
        [Part(0, 0, 20)],
        [Part(0, 0, 31)],
        [Part(0, 0, 10), Part(1, 11, 19)],
        [Part(0, 0, 10), Part(1, 5, 25)],
        [Part(1, 0, 30)],
        [Part(0, 0, 30, 31)],
        [Part(0, 0, 30, -1)],
        [Part(0, 0, -1), Part(1, -1, 31)],
    ],
)
def test_records_that_do_not_fit_are_ignored(layout: StoreLayout, saved: list[Part]) -> None:
    layout.blobs.mkdir(parents=True)
    _save(layout, *saved)
    assert parts.load(layout, DIGEST, 30) is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"N":0}', '{"N":"0","Offset":0,"Size":30,"Completed":0}', "5"]
)
def test_damaged_records_are_ignored(layout: StoreLayout, text: str) -> None:
    _save(layout, Part(0, 0, 30))
    layout.part_record(DIGEST, 0).write_text(text)
    assert parts.load(layout, DIGEST, 30) is None


def test_partial_file_of_another_size_is_not_resumed(layout: StoreLayout) -> None:
    _save(layout, Part(0, 0, 30), size=29)
    assert parts.load(layout, DIGEST, 30) is None


def test_discard_removes_only_this_download(layout: StoreLayout) -> None:
    _save(layout, Part(0, 0, 30))
    other = layout.partial(Digest.of_bytes(b"y"))
    other.write_bytes(b"")
    parts.discard(layout, DIGEST)
    assert list(layout.blobs.iterdir()) == [other]
