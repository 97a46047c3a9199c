"""Receiving files a model is to be created from. A file becomes visible only when it is whole and has its digest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from donabe.errors import InvalidRequestError, VerificationError
from donabe.store.blobs import BlobWriter
from donabe.store.digest import Digest
from donabe.store.files import require_space
from donabe.store.models import ModelStore

_BATCH_BYTES = 4 << 20  # written at once, on a worker thread


class Uploads:
    """Blobs of one store, as clients send and ask for them. Digests are text here; bad ones are refused."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store

    async def has(self, digest: str) -> bool:
        """Whether the blob is here.

        Raises:
            InvalidRequestError: It is no digest.
        """
        return await asyncio.to_thread(self._store.blobs.has, Digest.parse(digest))

    async def receive(self, digest: str, chunks: AsyncIterator[bytes], *, size: int = 0) -> None:
        """Store a blob.

        Args:
            digest: What the content must have.
            chunks: The content.
            size: Its announced length; 0 = unknown.

        Raises:
            InvalidRequestError: It is no digest, or the content has another; nothing is stored then.
            StoreError, DiskFullError: It can't be written.
        """
        expected = Digest.parse(digest)
        blobs = self._store.blobs
        await asyncio.to_thread(require_space, self._store.layout.root, size)
        with blobs.writer() as writer:
            batch: list[bytes] = []
            n_bytes = 0
            async for chunk in chunks:
                batch.append(chunk)
                n_bytes += len(chunk)
                if n_bytes >= _BATCH_BYTES:
                    await asyncio.to_thread(_write, writer, batch)
                    batch, n_bytes = [], 0
            await asyncio.to_thread(_write, writer, batch)
            try:
                await asyncio.to_thread(writer.commit, expected)
            except VerificationError as error:
                raise InvalidRequestError(error.message, field="digest", hint="upload the file again") from None


def _write(writer: BlobWriter, batch: list[bytes]) -> None:
    for chunk in batch:
        writer.write(chunk)
