"""Stored responses and the conversations they end: one SQLite file, so that a chain of responses survives a restart.

A conversation is stored once for each response, as the list of its items, so that looking one up needs no walk along
the chain. Rows belong to the caller that made them; the oldest go as new ones come, so that number, age and bytes stay
bounded. Methods block.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from donabe.errors import StoreError
from donabe.types import JsonObject

MAX_RESPONSES = 20_000
MAX_AGE_S = 30 * 86_400.0
MAX_BYTES = 2**30  # of all responses and conversations together

_SCHEMA = """
CREATE TABLE IF NOT EXISTS responses (
    id TEXT PRIMARY KEY, caller TEXT NOT NULL, created_at REAL NOT NULL, response BLOB NOT NULL, items BLOB NOT NULL,
    n_input INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS responses_by_age ON responses (created_at);
"""
# The database keeps count of its bytes itself, so that several servers on one file hold it to one bound.
_COUNTING = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS stored (id INTEGER PRIMARY KEY CHECK (id = 1), n_bytes INTEGER NOT NULL);
INSERT INTO stored SELECT 1, (SELECT COALESCE(SUM(length(response) + length(items)), 0) FROM responses)
    WHERE NOT EXISTS (SELECT 1 FROM stored);
CREATE TRIGGER IF NOT EXISTS count_added AFTER INSERT ON responses BEGIN
    UPDATE stored SET n_bytes = n_bytes + length(new.response) + length(new.items);
END;
CREATE TRIGGER IF NOT EXISTS count_removed AFTER DELETE ON responses BEGIN
    UPDATE stored SET n_bytes = n_bytes - length(old.response) - length(old.items);
END;
COMMIT;
"""

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class StoredResponse:
    """A response, and the conversation up to and with it.

    Attributes:
        response: The object as it was answered.
        items: All items: earlier turns, this request's input, this response's output.
        n_input: How many of them are input of this request or older.
    """

    response: JsonObject
    items: list[JsonObject]
    n_input: int


class ResponseStore:
    """The responses of one server. Safe from several threads.

    Args:
        path: The database file; made on first use.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_responses: int = MAX_RESPONSES,
        max_age_s: float = MAX_AGE_S,
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._max_responses = max_responses
        self._max_age_s = max_age_s
        self._max_bytes = max_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None

    def get(self, id: str, *, caller: str) -> StoredResponse | None:
        """The response of that id, if this caller made it and it is not too old."""
        query = "SELECT response, items, n_input FROM responses WHERE id = ? AND caller = ? AND created_at >= ?"
        with self._lock:
            if self._database is None and not self._path.exists():
                return None
            row = self._run(query, (id, caller, self._oldest())).fetchone()
        if row is None:
            return None
        return StoredResponse(msgspec.json.decode(row[0]), msgspec.json.decode(row[1]), row[2])

    def put(self, stored: StoredResponse, *, caller: str) -> None:
        """Keep a response, and let go of the oldest that are too many.

        Raises:
            StoreError: It alone is larger than everything may be, or the file can't be written.
        """
        id, response, items = stored.response["id"], _encode(stored.response), _encode(stored.items)
        n_new = len(response) + len(items)
        if n_new > self._max_bytes:
            raise StoreError(
                f"a response of {n_new} bytes can't be stored: all together may have {self._max_bytes}",
                hint='send "store": false',
            )
        values = (id, caller, self._clock(), response, items, stored.n_input)
        with self._lock, self._transaction():
            self._run("DELETE FROM responses WHERE id = ?", (id,))
            self._run("INSERT INTO responses VALUES (?, ?, ?, ?, ?, ?)", values)
            self._run("DELETE FROM responses WHERE created_at < ?", (self._oldest(),))
            too_many = "SELECT id FROM responses ORDER BY created_at DESC, rowid DESC LIMIT -1 OFFSET ?"
            self._run(f"DELETE FROM responses WHERE id IN ({too_many})", (self._max_responses,))
            first = "SELECT id FROM responses WHERE id != ? ORDER BY created_at, rowid LIMIT 1"
            while self._n_bytes() > self._max_bytes:
                if not self._run(f"DELETE FROM responses WHERE id IN ({first})", (id,)).rowcount:
                    break

    def delete(self, id: str, *, caller: str) -> bool:
        """Whether there was one to delete."""
        with self._lock:
            return self._run("DELETE FROM responses WHERE id = ? AND caller = ?", (id, caller)).rowcount > 0

    def _oldest(self) -> float:
        return self._clock() - self._max_age_s

    def _n_bytes(self) -> int:
        """Of all responses and conversations, whoever stored them."""
        found: int = self._run("SELECT n_bytes FROM stored", ()).fetchone()[0]
        return found

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing of what is run inside; other servers wait."""
        self._run("BEGIN IMMEDIATE", ())
        try:
            yield
            self._run("COMMIT", ())
        finally:
            if self._database is not None and self._database.in_transaction:
                self._run("ROLLBACK", ())

    def close(self) -> None:
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None

    def _run(self, statement: str, values: tuple[object, ...]) -> sqlite3.Cursor:
        try:
            if self._database is None:
                self._database = self._open()
            return self._database.execute(statement, values)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"stored responses can't be read or written: {error}", hint='send "store": false to do without'
            ) from error

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.touch(mode=0o600, exist_ok=True)  # conversations are private
        database = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None, timeout=10.0)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.executescript(_SCHEMA)
            database.executescript(_COUNTING)
        except BaseException:
            database.close()  # the next request tries again
            raise
        return database
