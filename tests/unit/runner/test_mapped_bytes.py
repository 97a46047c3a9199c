"""Pages of a model's files that stay beside the weights which were repacked from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from donabe.runner.memory_plan import _in_place_bytes, _mapped_bytes
from donabe.types import LoadOptions

IN_PLACE = ("CPU", "", True, 30, 5, 5)
REPACKED = ("CPU_REPACK", "CPU", True, 99, 0, 0)  # may take more than it does in the file


@pytest.mark.parametrize(
    ("uses", "use_mmap", "expected"),
    [
        ([IN_PLACE, REPACKED], None, 70),
        ([REPACKED], None, 100),
        ([IN_PLACE, REPACKED], True, 70),
        ([IN_PLACE, REPACKED], False, 0),  # read, not mapped
        ([IN_PLACE], None, 0),  # used where it is, and counted there
        ([IN_PLACE, ("AMX", "CPU", True, 0, 0, 1)], None, 0),
    ],
)
def test_file_is_counted_where_weights_are_made_of_it(
    tmp_path: Path, uses: list, use_mmap: bool | None, expected: int
) -> None:
    parts = [tmp_path / "1", tmp_path / "2"]
    for part in parts:
        part.write_bytes(b"x" * 50)
    assert _mapped_bytes(map(str, parts), LoadOptions(use_mmap=use_mmap), uses) == expected


@pytest.mark.parametrize(("use_mmap", "expected"), [(None, 30), (True, 30), (False, 0)])
def test_only_weights_that_are_mapped_can_be_dropped(use_mmap: bool | None, expected: int) -> None:
    uses = [IN_PLACE, REPACKED, ("CUDA_Host", "CUDA0", True, 7, 0, 0)]
    assert _in_place_bytes(LoadOptions(use_mmap=use_mmap), uses) == expected
