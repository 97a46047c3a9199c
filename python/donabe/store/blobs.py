"""Blobs: content-addressed files. Writing one hashes it on the way and makes it visible only when whole.

Called from worker threads; the file system is the only shared state. Which blobs are still needed is `ModelStore`'s to
know.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO

from donabe.errors import StoreError, VerificationError
from donabe.store.digest import Digest
from donabe.store.files import flush_folder, flush_to_disk, store_error, store_errors
from donabe.store.layout import StoreLayout

CHUNK_BYTES = 1 << 20


class BlobWriter:
    """One blob being written. Use as a context manager: leaving it without `commit` removes what was written.

    The temporary file is created by this object and removed only by it, whatever digest a peer announced.
    """

    def __init__(self, layout: StoreLayout) -> None:
        self._layout = layout
        self._hash = hashlib.sha256()
        self._path = layout.new_temp()
        self._file: IO[bytes] | None = None
        self.size = 0

    @property
    def path(self) -> Path:
        """The temporary file, to look inside before the commit."""
        return self._path

    def __enter__(self) -> BlobWriter:
        with store_errors(self._layout.root):
            self._layout.blobs.mkdir(parents=True, exist_ok=True)
            self._file = open(self._path, "xb")
        return self

    def write(self, data: bytes) -> None:
        if self._file is None:
            raise ValueError("the blob is closed")
        self._hash.update(data)
        self.size += len(data)
        with store_errors(self._layout.root):
            self._file.write(data)

    def flush(self) -> None:
        """Let readers of `path` see everything written so far."""
        if self._file is not None:
            with store_errors(self._layout.root):
                self._file.flush()

    @property
    def digest(self) -> Digest:
        return Digest.of_hash(self._hash)

    def commit(self, expected: Digest | None = None) -> tuple[Digest, bool]:
        """Make the blob visible under its digest.

        Returns:
            Its digest, and whether it is new to the store.

        Raises:
            VerificationError: The content is not the expected one; nothing becomes visible.
        """
        digest = self.digest
        if expected is not None and digest != expected:
            raise VerificationError(f'digest mismatch, expected "{expected}", got "{digest}"')
        target = self._layout.blob(digest)
        with store_errors(self._layout.root):
            is_new = not target.exists()
            if is_new:
                self._finish()
                os.chmod(self._path, 0o644)
                os.replace(self._path, target)
                flush_folder(target.parent)
            with contextlib.suppress(FileNotFoundError):  # just deleted with another model: write_manifest will say so
                os.utime(target)
        return digest, is_new

    def _finish(self) -> None:
        if self._file is not None:
            self._file.flush()
            flush_to_disk(self._file.fileno())
            self._file.close()
            self._file = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk fails again here; the first error is the one to report
                self._file.close()
            self._file = None
        self._path.unlink(missing_ok=True)


class BlobStore:
    """The `blobs/` folder of one store."""

    def __init__(self, layout: StoreLayout) -> None:
        self.layout = layout

    def path(self, digest: Digest) -> Path:
        """The blob's file.

        Raises:
            StoreError: It is not in the store.
        """
        path = self.layout.blob(digest)
        if not path.is_file():
            raise StoreError(f"blob {digest.short} is missing from the store", hint="pull the model again")
        return path

    def has(self, digest: Digest, size: int | None = None) -> bool:
        try:
            found = self.layout.blob(digest).stat().st_size
        except OSError:
            return False
        return size is None or size == found

    def touch(self, digest: Digest) -> None:
        """Restart the blob's grace period, because something is about to refer to it."""
        with store_errors(self.layout.root), contextlib.suppress(FileNotFoundError):
            os.utime(self.layout.blob(digest))

    def writer(self) -> BlobWriter:
        return BlobWriter(self.layout)

    def add_bytes(self, data: bytes) -> tuple[Digest, bool]:
        with self.writer() as writer:
            writer.write(data)
            return writer.commit()

    def adopt(self, path: Path) -> tuple[Digest, bool]:
        """Make a finished file on the store's own disk a blob, without copying it. The file is gone from `path` then.

        Returns:
            Its digest, and whether it is new to the store.
        """
        state = hashlib.sha256()
        with store_errors(self.layout.root):
            with open(path, "rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    state.update(chunk)
                flush_to_disk(file.fileno())
            digest = Digest.of_hash(state)
            target = self.layout.blob(digest)
            is_new = not target.exists()
            if is_new:
                os.chmod(path, 0o644)
                os.replace(path, target)
                flush_folder(target.parent)
            else:
                path.unlink()
            os.utime(target)
        return digest, is_new

    def promote(self, digest: Digest) -> None:
        """Make a blob of a finished download whose content has been verified."""
        with store_errors(self.layout.root):
            partial = self.layout.partial(digest)
            with open(partial, "rb") as file:
                flush_to_disk(file.fileno())
            os.chmod(partial, 0o644)
            os.replace(partial, self.layout.blob(digest))
            for record in self.layout.part_records(digest):
                record.unlink(missing_ok=True)
            flush_folder(self.layout.blobs)

    def read_small(self, digest: Digest, limit: int = 4 << 20) -> bytes:
        """The content of a blob that is meant to be small (config, template, parameters)."""
        path = self.path(digest)
        try:
            with open(path, "rb") as file:
                data = file.read(limit + 1)
        except OSError as error:
            raise store_error(error, self.layout.root) from error
        if len(data) > limit:
            raise StoreError(f"blob {digest.short} is larger than the {limit} bytes such a layer may have")
        return data

    def remove(self, digest: Digest) -> int:
        """Remove a blob; returns the bytes freed (0 if it was not there)."""
        path = self.layout.blob(digest)
        with store_errors(self.layout.root), contextlib.suppress(FileNotFoundError):
            size = path.stat().st_size
            path.unlink()
            return size
        return 0

    def files(self) -> Iterator[Path]:
        """Every regular file of the folder, finished blobs or not."""
        if self.layout.blobs.is_dir():
            for entry in os.scandir(self.layout.blobs):
                if entry.is_file(follow_symlinks=False):
                    yield Path(entry.path)
