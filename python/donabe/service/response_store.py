"""Stored responses and the conversations they end: one SQLite file, so that a chain of responses survives a restart.

A conversation is stored once for each response, as the list of its items, so that looking one up needs no walk along
the chain. Rows belong to the caller that made them; old ones are removed as new ones come. Methods block.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from donabe.errors import StoreError
from donabe.types import JsonObject

MAX_RESPONSES = 20_000
MAX_AGE_S = 30 * 86_400.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS responses (
    id TEXT PRIMARY KEY, caller TEXT NOT NULL, created_at REAL NOT NULL, response BLOB NOT NULL, items BLOB NOT NULL,
    n_input INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS responses_by_age ON responses (created_at);
"""


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

    def __init__(self, path: Path, *, max_responses: int = MAX_RESPONSES, max_age_s: float = MAX_AGE_S) -> None:
        self._path = path
        self._max_responses = max_responses
        self._max_age_s = max_age_s
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None

    def get(self, id: str, *, caller: str) -> StoredResponse | None:
        """The response of that id, if this caller made it."""
        query = "SELECT response, items, n_input FROM responses WHERE id = ? AND caller = ?"
        with self._lock:
            if self._database is None and not self._path.exists():
                return None
            row = self._run(query, (id, caller)).fetchone()
        if row is None:
            return None
        return StoredResponse(msgspec.json.decode(row[0]), msgspec.json.decode(row[1]), row[2])

    def put(self, stored: StoredResponse, *, caller: str) -> None:
        values = (
            stored.response["id"],
            caller,
            time.time(),
            msgspec.json.encode(stored.response),
            msgspec.json.encode(stored.items),
            stored.n_input,
        )
        with self._lock:
            self._run("INSERT OR REPLACE INTO responses VALUES (?, ?, ?, ?, ?, ?)", values)
            self._run("DELETE FROM responses WHERE created_at < ?", (time.time() - self._max_age_s,))
            too_many = "SELECT id FROM responses ORDER BY created_at DESC LIMIT -1 OFFSET ?"
            self._run(f"DELETE FROM responses WHERE id IN ({too_many})", (self._max_responses,))

    def delete(self, id: str, *, caller: str) -> bool:
        """Whether there was one to delete."""
        with self._lock:
            return self._run("DELETE FROM responses WHERE id = ? AND caller = ?", (id, caller)).rowcount > 0

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
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.executescript(_SCHEMA)
        return database
