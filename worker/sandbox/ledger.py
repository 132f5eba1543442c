"""Store the sandbox's batches in SQLite, and count how often each input was evaluated.

With a file, a sandbox that is killed and restarted still knows its batches, as a real API does.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.store.private_file import create_private_file

IN_MEMORY = ":memory:"  # in place of a path
SCHEMA = """
CREATE TABLE IF NOT EXISTS batches (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    judge TEXT NOT NULL,
    created_at REAL NOT NULL,
    ends_at REAL NOT NULL,
    head TEXT NOT NULL,
    items TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS evaluated (
    input TEXT NOT NULL PRIMARY KEY,
    times INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS requests (
    kind TEXT NOT NULL,
    status INTEGER NOT NULL,
    times INTEGER NOT NULL,
    PRIMARY KEY (kind, status)
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """A batch: `head` has the fields that do not change, `items` are as they will end."""

    number: int
    id: str
    created_at: float
    ends_at: float
    head: dict[str, Any]
    items: list[dict[str, Any]]


class Ledger:
    """One connection for all threads. Each method is one transaction."""

    def __init__(self, path: str | Path = IN_MEMORY) -> None:
        if path != IN_MEMORY:
            create_private_file(Path(path))
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._lock = threading.Lock()
        self._connection.executescript("PRAGMA journal_mode=WAL;" + SCHEMA)

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def add(
        self,
        batch_id: str,
        judge_id: str,
        *,
        created_at: float,
        ends_at: float,
        head: dict[str, Any],
        items: Sequence[dict[str, Any]],
    ) -> None:
        """Store a batch and count its inputs as evaluated, before the response is sent."""
        inputs = [(input_key(judge_id, item["input"]),) for item in items]
        with self._lock, self._connection as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(
                "INSERT INTO batches (id, judge, created_at, ends_at, head, items)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (batch_id, judge_id, created_at, ends_at, json.dumps(head), json.dumps(items)),
            )
            connection.executemany(
                "INSERT INTO evaluated VALUES (?, 1) ON CONFLICT DO UPDATE SET times = times + 1",
                inputs,
            )

    def get(self, batch_id: str) -> StoredBatch | None:
        rows = self._read("WHERE id = ?", (batch_id,))
        return rows[0] if rows else None

    def list(
        self, *, judge_id: str | None, before: int | None, limit: int
    ) -> Sequence[StoredBatch]:
        """Return batches below the number `before`, newest first, without items."""
        return self._read(
            "WHERE (?1 IS NULL OR judge = ?1) AND (?2 IS NULL OR number < ?2)"
            " ORDER BY number DESC LIMIT ?3",
            (judge_id, before, limit),
            items="'[]'",
        )

    def running(self, now: float) -> int:
        """Count the batches that have not ended at this time."""
        with self._lock:
            row = self._connection.execute(
                "SELECT count(*) FROM batches WHERE ends_at > ?", (now,)
            ).fetchone()
        return int(row[0])

    def count_request(self, kind: str, status: int) -> None:
        with self._lock:
            self._connection.execute(
                "INSERT INTO requests VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET times = times + 1",
                (kind, status),
            )

    def account(self) -> dict[str, Any]:
        """Return the totals; `evaluated_again` counts evaluations of an input beyond its first."""
        with self._lock:
            (batches,) = self._connection.execute("SELECT count(*) FROM batches").fetchone()
            distinct, total = self._connection.execute(
                "SELECT count(*), coalesce(sum(times), 0) FROM evaluated"
            ).fetchone()
            requests = self._connection.execute(
                "SELECT kind, status, times FROM requests ORDER BY kind, status"
            ).fetchall()
        return {
            "batches": batches,
            "inputs_evaluated": total,
            "distinct_inputs": distinct,
            "evaluated_again": total - distinct,
            "requests": {f"{kind} {status}": times for kind, status, times in requests},
        }

    def _read(
        self, condition: str, values: tuple[Any, ...], *, items: str = "items"
    ) -> Sequence[StoredBatch]:
        with self._lock:
            rows = self._connection.execute(
                f"SELECT number, id, created_at, ends_at, head, {items} FROM batches {condition}",  # noqa: S608 (both are literals above)
                values,
            ).fetchall()
        return [
            StoredBatch(number, batch_id, created, ends, json.loads(head), json.loads(shown))
            for number, batch_id, created, ends, head, shown in rows
        ]


def input_key(judge_id: str, fields: dict[str, Any]) -> str:
    """Return a hash: evaluations are the same if judge and input are."""
    text = json.dumps([judge_id, fields], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
