"""The plan of one download: which byte ranges, how far each has come, and the records that let it resume.

Part sizes and record files are those of the reference system, so that either program resumes what the other began.
Blocking, small files; used from the pull thread.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

from donabe.store.digest import Digest
from donabe.store.files import write_atomically
from donabe.store.layout import StoreLayout

N_PARALLEL = 16
MIN_PART_BYTES = 100_000_000
MAX_PART_BYTES = 1_000_000_000


@dataclass(slots=True)
class Part:
    """Bytes `[offset, offset + size)` of the file, of which the first `completed` are on disk."""

    number: int
    offset: int
    size: int
    completed: int = 0

    @property
    def end(self) -> int:
        return self.offset + self.size

    @property
    def is_done(self) -> bool:
        return self.completed >= self.size

    def encode(self) -> bytes:
        value = {"N": self.number, "Offset": self.offset, "Size": self.size, "Completed": self.completed}
        return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def plan(size: int) -> list[Part]:
    """Split a file of `size` bytes into parts."""
    part_size = min(max(size // N_PARALLEL, MIN_PART_BYTES), MAX_PART_BYTES)
    starts = range(0, max(size, 1), part_size)
    return [Part(number, start, min(part_size, size - start)) for number, start in enumerate(starts)]


def save(layout: StoreLayout, digest: Digest, part: Part) -> None:
    # Not durable: after a power failure a record may promise bytes that were lost, and the digest tells.
    write_atomically(layout.part_record(digest, part.number), part.encode(), durable=False)


def load(layout: StoreLayout, digest: Digest, size: int) -> list[Part] | None:
    """The parts of an interrupted download, or None when the records don't describe a file of this size."""
    parts: list[Part] = []
    try:
        for path in layout.part_records(digest):
            value = json.loads(path.read_bytes())
            part = Part(value["N"], value["Offset"], value["Size"], value["Completed"])
            if not all(isinstance(number, int) for number in (part.number, part.offset, part.size, part.completed)):
                return None
            parts.append(part)
        on_disk = layout.partial(digest).stat().st_size
    except (OSError, ValueError, KeyError, TypeError):
        return None
    position = 0
    for number, part in enumerate(parts):
        if part.number != number or part.offset != position or part.size < 0 or not 0 <= part.completed <= part.size:
            return None
        position = part.end
    return parts if parts and position == size == on_disk else None


def discard(layout: StoreLayout, digest: Digest) -> None:
    """Forget a download: the partial file and its records."""
    for path in [*layout.part_records(digest), layout.partial(digest)]:
        _remove(path)


def forget_records(layout: StoreLayout, digest: Digest) -> None:
    for path in layout.part_records(digest):
        _remove(path)


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
