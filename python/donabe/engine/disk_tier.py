"""Prefixes on disk: they outlive the pool, the process and the machine's restart.

The engine thread takes states and gives them back; file work is done in two background threads, one that writes and
one that reads. An index of all headers is in memory, token ids included: a prefix is found by comparing tokens, never
by a hash. Files of other models share the folder and its byte budget; the least recently used goes first, by its time
of modification. A file that is not exactly what this installation wrote for this model is deleted, never used.

    <home>/prefix-cache/<model's fingerprint>/<random>.prefix
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from donabe.engine import disk_container as container
from donabe.engine.radix import Key
from donabe.engine.tokens import Int32Array, common_prefix
from donabe.errors import NativeError, StateError

if TYPE_CHECKING:
    from donabe._core import StateBlob

log = logging.getLogger(__name__)

FOLDER = "prefix-cache"
MIN_STORE_TOKENS = 256  # a shorter prefix is computed about as fast as it is read
MIN_GAIN_TOKENS = 128  # a file must save so many prompt tokens over what is in the pool or in RAM
PENDING_BYTES = 512 << 20  # states that wait to be written
MIN_FREE_BYTES = 1 << 30  # of the file system, left to others
N_CHECKPOINTS = 4  # kept of a path: the first, and the last ones
STALE_TEMP_S = 600.0
MOMENT_S = 0.02
FIRST_RATE = 200e6  # bytes read per second, before anything is measured


@dataclass(eq=False, slots=True)
class Stored:
    """A file, or one about to be written."""

    path: Path
    scope: bytes
    tokens: Int32Array
    cuts: tuple[int, ...]  # positions of its partial states
    n_bytes: int
    is_written: bool = False

    def reach(self, tokens: Int32Array, *, can_cut: bool) -> int:
        """How many of the tokens could be restored from it."""
        equal = common_prefix(self.tokens, tokens)
        if can_cut or equal == len(self.tokens):
            return equal
        return max((k for k in self.cuts if k <= equal), default=0)


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """The contents of a file, checked: the whole state, and partial states by position."""

    stored: Stored
    state: StateBlob
    checkpoints: Mapping[int, StateBlob] = field(default_factory=dict)


class DiskTier:
    """Stored prefixes of one model.

    Args:
        home: donabe's own folder: the key is in it, and the folder of prefixes. Nothing is made before it is needed.
        fingerprint: What a state depends on; see `donabe.engine.fingerprint`.
        can_cut: The memory kind can drop the tail of a sequence, so a file serves at every position.
    """

    def __init__(
        self, home: Path, fingerprint: Mapping[str, str], budget_bytes: int, *, can_cut: bool, native: Any
    ) -> None:
        self._home = home
        self._fingerprint = container.pack_texts(fingerprint)
        self._root = home / FOLDER
        self._folder = self._root / hashlib.sha256(self._fingerprint).hexdigest()[:32]
        self._budget_bytes = budget_bytes
        self._can_cut = can_cut
        self._native = native
        self._lock = threading.Lock()  # guards _index, _n_pending and _key
        self._index: list[Stored] = []
        self._n_pending = 0
        self._key: bytes | None = None
        self._rate = FIRST_RATE
        self._is_off = False
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="donabe-prefix-write")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="donabe-prefix-read")
        self._writes: set[Future[None]] = set()
        self._stuck: Future[Loaded | None] | None = None  # nothing is read while this has no end
        self._indexed = self._reader.submit(self._load_index)

    # --- engine thread ---

    @property
    def used_bytes(self) -> int:
        """Bytes of this model's files."""
        with self._lock:
            return sum(stored.n_bytes for stored in self._index)

    @property
    def is_indexed(self) -> bool:
        """Before, nothing is found and nothing is stored."""
        return self._indexed.done()

    def wait_for_index(self, timeout_s: float) -> bool:
        return not wait([self._indexed], timeout_s).not_done

    def reach(self, key: Key, tokens: Int32Array) -> int:
        """How many of the tokens a stored or soon stored prefix covers."""
        return max((s.reach(tokens, can_cut=self._can_cut) for s in self._of(key)), default=0)

    def find(
        self, key: Key, tokens: Int32Array, k_have: int, *, n_cells_max: int, token_s: float = 0.0
    ) -> Stored | None:
        """The file worth reading for these tokens, of which k_have are at hand; token_s is what computing one takes."""
        if not self.is_worth_reading(len(tokens), k_have) or (self._stuck is not None and not self._stuck.done()):
            return None
        best: tuple[int, int, Stored] | None = None
        for stored in self._of(key):
            if not stored.is_written or len(stored.tokens) > n_cells_max:
                continue
            k = stored.reach(tokens, can_cut=self._can_cut)
            if best is None or (k, -stored.n_bytes) > best[:2]:
                best = (k, -stored.n_bytes, stored)
        if best is None or not self.is_worth_reading(best[0], k_have):
            return None
        pays = not token_s or self.read_s(best[2]) < (best[0] - k_have) * token_s
        return best[2] if pays else None

    @staticmethod
    def is_worth_reading(n_tokens: int, k_have: int) -> bool:
        return n_tokens >= max(MIN_STORE_TOKENS, k_have + MIN_GAIN_TOKENS)

    def read_s(self, stored: Stored) -> float:
        """How long reading it will take, by what reading took so far."""
        return stored.n_bytes / self._rate

    def read(self, stored: Stored) -> Future[Loaded | None]:
        """Begin reading a file. The result is None when it is not what it should be; it is deleted then."""
        return self._reader.submit(self._read, stored)

    @staticmethod
    def wait_a_moment(reading: Future[Loaded | None]) -> None:
        wait([reading], MOMENT_S)

    def stop_reading_until(self, reading: Future[Loaded | None]) -> None:
        """This one has taken too long: read nothing more before it has come to an end."""
        log.warning("reading a stored prefix takes too long; prompts are computed instead")
        self._stuck = reading

    def wants(self, key: Key, tokens: Int32Array) -> bool:
        """Whether a path is worth storing: long enough, and clearly longer than what is there."""
        n = len(tokens)
        if self._is_off or not self.is_indexed or n < MIN_STORE_TOKENS or key[1].startswith("\0"):
            return False
        return self.reach(key, tokens) + max(MIN_GAIN_TOKENS, n // 8) <= n

    def store(self, key: Key, tokens: Int32Array, state: StateBlob, checkpoints: Mapping[int, StateBlob]) -> bool:
        """Begin writing a path. False when too much is waiting to be written, or it is too large for the budget."""
        positions = sorted(checkpoints)
        positions = positions[:1] + positions[1:][-(N_CHECKPOINTS - 1) :]
        blobs = [(len(tokens), state), *((k, checkpoints[k]) for k in positions)]
        n_bytes = sum(memoryview(blob).nbytes for _, blob in blobs)
        scope = self._scope(key, make=True)
        with self._lock:
            too_much = self._n_pending and self._n_pending + n_bytes > PENDING_BYTES
            if self._is_off or scope is None or too_much or n_bytes * 2 > self._budget_bytes:
                return False
            path = self._folder / f"{secrets.token_hex(12)}{container.SUFFIX}"
            stored = Stored(path, scope, tokens.copy(), tuple(positions), n_bytes)
            self._index.append(stored)
            self._n_pending += n_bytes
        write = self._writer.submit(self._write, stored, blobs)
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)
        return True

    def refuse(self, stored: Stored, reason: str) -> None:
        """The native side did not take the state: forget the file and delete it."""
        log.warning("stored prefix %s is deleted: %s", stored.path.name, reason)
        self._forget(stored)
        _remove(stored.path)

    def flush(self, timeout_s: float) -> bool:
        """Wait until what was stored is written; False when it takes longer."""
        return not wait(list(self._writes), timeout_s).not_done

    def close(self, timeout_s: float) -> None:
        """Write what is waiting, as far as the time allows."""
        self.flush(timeout_s)
        self._is_off = True
        self._writer.shutdown(wait=False, cancel_futures=True)
        self._reader.shutdown(wait=False, cancel_futures=True)

    def _of(self, key: Key) -> list[Stored]:
        scope = self._scope(key, make=False)
        with self._lock:
            return [stored for stored in self._index if stored.scope == scope]

    def _scope(self, key: Key, *, make: bool) -> bytes | None:
        with self._lock:
            if self._key is None and make and not self._is_off:
                try:
                    self._key = container.load_key(self._home)
                except OSError as error:
                    self._turn_off(error)
            return None if self._key is None else container.scope_of(self._key, *key)

    def _turn_off(self, error: OSError) -> None:
        self._is_off = True
        log.warning("prefixes are not kept on disk: %s", error)

    def _forget(self, stored: Stored) -> None:
        with self._lock:
            if stored in self._index:
                self._index.remove(stored)

    # --- reading thread ---

    def _load_index(self) -> None:
        if not self._folder.is_dir():
            return
        try:
            container.make_private_folder(self._root)
            container.make_private_folder(self._folder)
            key = container.load_key(self._home)
            paths = list(self._folder.iterdir())
        except OSError as error:
            self._turn_off(error)
            return
        found = [stored for path in paths if (stored := self._read_index_entry(path, key)) is not None]
        with self._lock:
            self._key = key
            self._index = found + self._index

    def _read_index_entry(self, path: Path, key: bytes) -> Stored | None:
        if path.suffix != container.SUFFIX:
            return None
        try:
            with container.open_container(path) as file:
                header = container.read_header(file, key)
                n_bytes = os.fstat(file.fileno()).st_size
            self._check(header)
        except (OSError, StateError) as error:
            log.warning("stored prefix %s is deleted: %s", path.name, error)
            _remove(path)
            return None
        cuts = tuple(segment.n_tokens for segment in header.segments[1:])
        return Stored(path, header.scope, header.tokens, cuts, n_bytes, is_written=True)

    def _check(self, header: container.Header) -> None:
        if header.fingerprint == self._fingerprint:
            return
        ours, theirs = (container.unpack_fields(packed) for packed in (self._fingerprint, header.fingerprint))
        names = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        raise StateError(f"it was made with another {', '.join(names)}")

    def _read(self, stored: Stored) -> Loaded | None:
        started = time.monotonic()
        try:
            assert self._key is not None, "an entry was found without a key"
            with container.open_container(stored.path) as file:
                header = container.read_header(file, self._key)
                self._check(header)
                if header.scope != stored.scope or not np.array_equal(header.tokens, stored.tokens):
                    raise StateError("it is not the file that was there before")
                blobs = [self._blob(container.read_blob(file, segment), segment) for segment in header.segments]
            os.utime(stored.path)
        except FileNotFoundError:  # another process needed the room
            self._forget(stored)
            return None
        except MemoryError:
            log.warning("stored prefix %s is too large for the memory that is free", stored.path.name)
            self._forget(stored)
            return None
        except (OSError, NativeError) as error:
            self.refuse(stored, str(error))
            return None
        rate = header.n_payload_bytes / max(time.monotonic() - started, 1e-6)
        self._rate += 0.5 * (rate - self._rate)
        return Loaded(stored, blobs[0], dict(zip(stored.cuts, blobs[1:], strict=True)))

    def _blob(self, data: bytes, segment: container.Segment) -> StateBlob:
        blob: StateBlob = self._native.StateBlob.from_bytes(data, partial=segment.partial, n_tokens=segment.n_tokens)
        return blob

    # --- writing thread ---

    def _write(self, stored: Stored, blobs: Sequence[tuple[int, StateBlob]]) -> None:
        try:
            self._write_file(stored, blobs)
        except OSError as error:
            log.warning("a prefix was not stored: %s", error)
            self._forget(stored)
        except BaseException:
            self._forget(stored)
            raise
        finally:
            with self._lock:
                self._n_pending -= sum(memoryview(blob).nbytes for _, blob in blobs)

    def _write_file(self, stored: Stored, blobs: Sequence[tuple[int, StateBlob]]) -> None:
        container.make_private_folder(self._root)
        container.make_private_folder(self._folder)
        if shutil.disk_usage(self._folder).free < MIN_FREE_BYTES + stored.n_bytes:
            raise OSError("the file system is nearly full")
        assert self._key is not None, "stored without a key"
        views = [memoryview(blob) for _, blob in blobs]
        segments = tuple(
            container.segment_of(view, n_tokens, partial=i > 0)
            for i, (view, (n_tokens, _)) in enumerate(zip(views, blobs, strict=True))
        )
        self._make_room(stored.n_bytes)
        header = container.Header(self._fingerprint, stored.scope, stored.tokens, segments)
        stored.n_bytes = container.write_container(stored.path, self._key, header, views)
        stored.is_written = True
        self._drop_covered(stored)
        self._make_room(0)

    def _drop_covered(self, new: Stored) -> None:
        """Files whose tokens the new one has at its beginning, where a file serves at every position."""
        with self._lock:
            old = [s for s in self._index if s is not new and s.scope == new.scope and len(s.tokens) <= len(new.tokens)]
        for stored in old:
            same = len(stored.tokens) == len(new.tokens)
            if (self._can_cut or same) and common_prefix(stored.tokens, new.tokens) == len(stored.tokens):
                self._forget(stored)
                _remove(stored.path)

    def _make_room(self, n_bytes: int) -> None:
        """Delete the least recently used files of all models, and what a killed process left."""
        files = []
        for path in self._root.glob("*/*"):
            try:
                info = path.lstat()
            except OSError:
                continue
            if path.suffix == container.TEMP_SUFFIX and time.time() - info.st_mtime > STALE_TEMP_S:
                _remove(path)
            elif path.suffix == container.SUFFIX:
                files.append((info.st_mtime, info.st_size, path))
        excess = sum(size for _, size, _ in files) + n_bytes - self._budget_bytes
        gone = set()
        for _, size, path in sorted(files):
            if excess <= 0:
                break
            _remove(path)
            gone.add(path)
            excess -= size
        if gone:
            with self._lock:
                self._index = [stored for stored in self._index if stored.path not in gone]


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s can't be deleted: %s", path, error)
