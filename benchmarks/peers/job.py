"""The job that each peer does, and what the peers share: tables, statements and rows.

Inputs wait in PostgreSQL, and a hundred of them make a batch. A peer submits each batch, waits
until the judge has evaluated it, and records the scores, with the state of each input and of the
batch, in one transaction. A restarted peer continues: it does not submit again what has an id at
the remote, and records no result twice. At most `IN_FLIGHT` batches are processed at a time.

The producer's part comes before the measurement: the inputs are in their tables, and each batch has
its message or task. Scores are written by COPY, which is faster than `executemany`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import psycopg

BATCH = 100
IN_FLIGHT = 32
POLL_SECONDS = 0.05
ENDED = ("completed", "partial", "failed")
HEADERS = {"Authorization": "Api-Key key"}
SUBMIT_PATH = "/v1/judges/judge/batch-execute/"
STATUS_PATH = "/v1/judges/batch-executions/{}/"

TABLES = """
CREATE TABLE peer_batches (id integer PRIMARY KEY, remote_id text, finished_at timestamptz);
CREATE TABLE peer_inputs (
    id integer PRIMARY KEY,
    batch_id integer NOT NULL REFERENCES peer_batches,
    request text, response text, expected_output text,
    status text NOT NULL DEFAULT 'pending'
);
CREATE INDEX ON peer_inputs (batch_id);
CREATE TABLE peer_scores (
    input_id integer, evaluator text, score float8, justification text,
    PRIMARY KEY (input_id, evaluator)
);
"""

READ_BATCH = (
    "SELECT b.remote_id, i.id, i.request, i.response, i.expected_output"
    " FROM peer_batches b JOIN peer_inputs i ON i.batch_id = b.id"
    " WHERE b.id = %s AND b.finished_at IS NULL ORDER BY i.id"
)
SET_REMOTE_ID = "UPDATE peer_batches SET remote_id = %s WHERE id = %s"
# Guarded: a batch that a second delivery finds finished changes no row.
FINISH_BATCH = "UPDATE peer_batches SET finished_at = now() WHERE id = %s AND finished_at IS NULL"
FINISH_INPUTS = (
    "UPDATE peer_inputs SET status = CASE WHEN id = ANY(%s) THEN 'failed' ELSE 'completed' END"
    " WHERE batch_id = %s"
)
COPY_SCORES = "COPY peer_scores (input_id, evaluator, score, justification) FROM STDIN"


def submission(rows: Sequence[Any]) -> dict[str, Any]:
    """Return the body of a submission, given the rows of `READ_BATCH`."""
    return {
        "inputs": [
            {"request": request, "response": response, "expected_output": expected}
            for _, _, request, response, expected in rows
        ]
    }


def input_ids(batch_id: int) -> range:
    """Return the ids of a batch's inputs, by their index in it."""
    return range(batch_id * BATCH, (batch_id + 1) * BATCH)


def score_rows(batch_id: int, execution: dict[str, Any]) -> list[tuple[int, str, float, str]]:
    ids = input_ids(batch_id)
    return [
        (ids[item["index"]], r["evaluator_name"], r["score"], r["justification"])
        for item in execution["items"]
        for r in item["evaluator_results"] or ()
    ]


def failed_inputs(batch_id: int, execution: dict[str, Any]) -> list[int]:
    ids = input_ids(batch_id)
    return [ids[item["index"]] for item in execution["items"] if item["status"] != "completed"]


def record(connection: psycopg.Connection[Any], batch_id: int, execution: dict[str, Any]) -> None:
    """Record a batch that has ended, in the caller's transaction."""
    if connection.execute(FINISH_BATCH, (batch_id,)).rowcount == 0:
        return
    with connection.cursor().copy(COPY_SCORES) as copy:
        for row in score_rows(batch_id, execution):
            copy.write_row(row)
    connection.execute(FINISH_INPUTS, (failed_inputs(batch_id, execution), batch_id))


# --- around the measurement -----------------------------------------------------------------------


def insert_inputs(url: str, inputs: Sequence[dict[str, Any]]) -> int:
    """Create and fill the tables, and return the number of batches."""
    batches = -(-len(inputs) // BATCH)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(TABLES)
        connection.execute(
            "INSERT INTO peer_batches (id) SELECT generate_series(0, %s)", (batches - 1,)
        )
        statement = "COPY peer_inputs (id, batch_id, request, response, expected_output) FROM STDIN"
        with connection.cursor().copy(statement) as copy:
            for n, given in enumerate(inputs):
                copy.write_row((n, n // BATCH, *given.values()))
        connection.execute("VACUUM ANALYZE")
    return batches


def check_complete(url: str, inputs: int, results: int) -> None:
    """Raise `RuntimeError` unless all inputs are completed and have so many results in all."""
    with psycopg.connect(url) as connection:
        done = connection.execute(
            "SELECT (SELECT count(*) FROM peer_inputs WHERE status = 'completed'),"
            " (SELECT count(*) FROM peer_scores)"
        ).fetchone()
    if done != (inputs, results):
        raise RuntimeError(f"{done} completed inputs and scores, not {(inputs, results)}")


class Stopwatch:
    """Measures the time from the first batch's start to the last batch's end."""

    def __init__(self, batches: int) -> None:
        self._lock = threading.Lock()
        self._left = batches
        self._began: float | None = None
        self.all_done = threading.Event()
        self.seconds = 0.0

    def start(self) -> None:
        """Note that a batch begins."""
        with self._lock:
            if self._began is None:
                self._began = time.perf_counter()

    def finish(self) -> None:
        """Note that a batch has ended."""
        with self._lock:
            self._left -= 1
            if self._left == 0 and self._began is not None:
                self.seconds = time.perf_counter() - self._began
                self.all_done.set()
