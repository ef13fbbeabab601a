"""Stored responses of the Responses API, in memory or in a file. Knows no HTTP and no kind of item."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

log = logging.getLogger("swift.serve")

MAX_RESPONSES = 10_000
MAX_BYTES = 256 * 2**20
"""Bytes of JSON, of all responses and their input together."""
MEMORY = ":memory:"
_VERSION = 1
_TABLES = """
CREATE TABLE responses(
    id TEXT PRIMARY KEY, used INTEGER NOT NULL, bytes INTEGER NOT NULL, input TEXT NOT NULL, response TEXT NOT NULL
);
CREATE INDEX responses_used ON responses(used, bytes);
CREATE TABLE items(id TEXT PRIMARY KEY, response TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX items_response ON items(response);
"""

Item = dict[str, Any]


class StoredResponse(NamedTuple):
    """`response`: as it was sent. `input`: the items that the request added to those of the previous response."""

    response: dict[str, Any]
    input: list[Item]

    @property
    def id(self) -> str:
        return str(self.response["id"])

    @property
    def previous(self) -> str | None:
        previous = self.response.get("previous_response_id")
        return None if previous is None else str(previous)

    @property
    def output(self) -> list[Item]:
        return list(self.response["output"])


class Missing(KeyError):
    """A response is not stored; its argument is the id."""


class StoredResponses:
    """At most `max_responses` responses of `max_bytes` in total; those that were not used for longest are dropped.

    `path`: a SQLite file, which other servers may have open too; MEMORY keeps them in this process. Thread-safe.
    Raises ValueError for a file that is not a store, OSError for one that cannot be written.
    """

    def __init__(self, path: str = MEMORY, max_responses: int = MAX_RESPONSES, max_bytes: int = MAX_BYTES) -> None:
        self._max_responses, self._max_bytes = max_responses, max_bytes
        self._lock = threading.Lock()
        if path != MEMORY:
            path = str(Path(path).expanduser())
            # Only its owner may read what users asked. SQLite gives its other files the same permissions.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._db = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
        try:
            self._open(path)
        except sqlite3.OperationalError as error:  # locked, or read only
            self._db.close()
            raise OSError(str(error)) from error
        except (sqlite3.DatabaseError, ValueError) as error:
            self._db.close()
            raise ValueError(f"{path}: it is not a store of responses: {error}") from error

    def close(self) -> None:
        self._db.close()

    def put(self, response: dict[str, Any], own_input: Sequence[Item]) -> None:
        """Stores a response. A failure is logged: the reply is worth more than its copy."""
        stored = StoredResponse(response, list(own_input))
        texts = json.dumps(stored.input, ensure_ascii=False), json.dumps(response, ensure_ascii=False)
        size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
        items = {item["id"]: stored.id for item in (*stored.input, *stored.output)}
        try:
            with self._lock, self._transaction():
                insert = "INSERT INTO responses SELECT ?, coalesce(max(used), 0) + 1, ?, ?, ? FROM responses"
                self._db.execute(insert, (stored.id, size, *texts))
                self._db.executemany("INSERT OR REPLACE INTO items VALUES (?, ?)", items.items())
                self._drop()
        except (sqlite3.Error, UnicodeEncodeError):
            log.exception("response %s is not stored", stored.id)

    def get(self, response_id: str) -> StoredResponse:
        """Raises Missing."""
        with self._lock, self._transaction():
            return self._get(response_id)

    def delete(self, response_id: str) -> None:
        """Raises Missing."""
        with self._lock, self._transaction():
            self._get(response_id)
            self._delete(response_id)

    def conversation(self, response_id: str) -> list[StoredResponse]:
        """The response and all that it continues, oldest first. Raises Missing if one of them is not stored."""
        found: list[StoredResponse] = []
        with self._lock, self._transaction():
            following: str | None = response_id
            while following is not None:
                found.append(self._get(following))
                following = found[-1].previous
        return found[::-1]

    def item(self, item_id: str) -> Item | None:
        """An item of the input or output of any stored response; None: there is none with this id."""
        with self._lock, self._transaction():
            row = self._db.execute("SELECT response FROM items WHERE id = ?", (item_id,)).fetchone()
            if row is None:
                return None
            stored = self._get(row[0])
        return next(item for item in (*stored.output, *stored.input) if item["id"] == item_id)

    def _open(self, path: str) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if version not in (0, _VERSION) or (version == 0 and tables):
            raise ValueError("it is a database of another program, or of another version of SWIFT")
        if path != MEMORY:
            # A transaction that is lost when the machine fails loses stored responses, not the file.
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
        if version == 0:
            self._db.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {_VERSION}; COMMIT;")

    def _transaction(self) -> sqlite3.Connection:
        """The connection as a context manager, which commits, or rolls back after an exception."""
        self._db.execute("BEGIN IMMEDIATE")
        return self._db

    def _get(self, response_id: str) -> StoredResponse:
        query = "SELECT response, input FROM responses WHERE id = ?"
        row = self._db.execute(query, (response_id,)).fetchone()
        if row is None:
            raise Missing(response_id)
        used = "UPDATE responses SET used = (SELECT max(used) + 1 FROM responses) WHERE id = ?"
        self._db.execute(used, (response_id,))
        return StoredResponse(json.loads(row[0]), json.loads(row[1]))

    def _drop(self) -> None:
        """Drops responses until the limits hold."""
        count, size = self._db.execute("SELECT count(*), sum(bytes) FROM responses").fetchone()
        while count > self._max_responses or size > self._max_bytes:
            oldest, its_size = self._db.execute("SELECT id, bytes FROM responses ORDER BY used LIMIT 1").fetchone()
            self._delete(oldest)
            count, size = count - 1, size - its_size

    def _delete(self, response_id: str) -> None:
        self._db.execute("DELETE FROM responses WHERE id = ?", (response_id,))
        self._db.execute("DELETE FROM items WHERE response = ?", (response_id,))
