"""Where things are inside a model store. The one module that turns names and digests into paths.

    manifests/<host>/<namespace>/<model>/<tag>    JSON
    blobs/sha256-<hex>                            content
          sha256-<hex>-partial                    a download under way, with its resume records ...-partial-<N>
          sha256-<random>                         a layer being written
    .donabe/locks/                                lock files (ours; unknown to other programs sharing the store)

Takes `ModelName` and `Digest` only, never text, so no path leaves the store whatever a peer sends.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from donabe.errors import InvalidNameError
from donabe.store.digest import Digest
from donabe.store.names import ModelName


@dataclass(frozen=True, slots=True)
class StoreLayout:
    """Paths below one store folder."""

    root: Path

    @property
    def manifests(self) -> Path:
        return self.root / "manifests"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def locks(self) -> Path:
        return self.root / ".donabe" / "locks"

    def manifest(self, name: ModelName) -> Path:
        return self.manifests.joinpath(*name.parts)

    def blob(self, digest: Digest) -> Path:
        return self.blobs / digest.file_name

    def partial(self, digest: Digest) -> Path:
        return self.blobs / f"{digest.file_name}-partial"

    def part_record(self, digest: Digest, number: int) -> Path:
        return self.blobs / f"{digest.file_name}-partial-{number:d}"

    def part_records(self, digest: Digest) -> list[Path]:
        """Resume records that exist, by part number."""
        prefix = f"{digest.file_name}-partial-"
        found = [path for path in self.blobs.glob(f"{prefix}*") if path.name[len(prefix) :].isdecimal()]
        return sorted(found, key=lambda path: int(path.name[len(prefix) :]))

    def new_temp(self) -> Path:
        """A fresh name for a layer being written; no digest has this length, so prune knows it for what it is."""
        return self.blobs / f"sha256-{secrets.token_hex(8)}"

    def lock(self, purpose: str) -> Path:
        return self.locks / f"{Digest.of_bytes(purpose.encode()).hex[:32]}.lock"

    def names(self) -> Iterator[tuple[ModelName, Path]]:
        """Every manifest with a valid name, exactly four levels deep; anything else is skipped."""
        for path in sorted(self.manifests.glob("*/*/*/*")):
            try:
                name = ModelName(*path.relative_to(self.manifests).parts)
            except InvalidNameError:
                continue
            if path.is_file():
                yield name, path
