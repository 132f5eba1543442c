"""Store batches, evaluations, samples and costs in SQLite; each method is one transaction.

A batch has items. An item that is not yet judged has an evaluation for each evaluator that asks a
model. What a model said is kept as samples, by evaluator version, model and prompt: they are what
a restart continues from, and the cache that makes the same question free. Not thread-safe: use it
on one event loop.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from worker.errors import NotPossible
from worker.judge.judges import Judge, Result
from worker.judge.model_score import ModelScore
from worker.store.private_file import create_private_file

IN_MEMORY = ":memory:"  # in place of a path
BUSY_SECONDS = 30.0
DAY_SECONDS = 86_400
BATCHES_AT_A_TIME = 10  # that are deleted in one transaction, of up to 100 items each
SAMPLES_AT_A_TIME = 1000
SCHEMA = """
CREATE TABLE IF NOT EXISTS judge_versions (
    id TEXT PRIMARY KEY, judge_id TEXT NOT NULL, content TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, judge_id TEXT NOT NULL,
    version_id TEXT NOT NULL, tags TEXT NOT NULL, total INTEGER NOT NULL,
    completed INTEGER NOT NULL DEFAULT 0, failed INTEGER NOT NULL DEFAULT 0,
    created_at REAL NOT NULL, completed_at REAL
);
CREATE INDEX IF NOT EXISTS batches_of_judge ON batches (judge_id, number);
CREATE INDEX IF NOT EXISTS batches_completed ON batches (completed_at);
CREATE TABLE IF NOT EXISTS items (
    batch INTEGER NOT NULL, item_index INTEGER NOT NULL, input TEXT NOT NULL,
    log_id TEXT NOT NULL, results TEXT NOT NULL, status TEXT NOT NULL, error TEXT NOT NULL,
    completed_at REAL, PRIMARY KEY (batch, item_index)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS evaluations (
    number INTEGER PRIMARY KEY, batch INTEGER NOT NULL, item_index INTEGER NOT NULL,
    position INTEGER NOT NULL, result TEXT, error TEXT, UNIQUE (batch, item_index, position)
);
CREATE TABLE IF NOT EXISTS samples (
    prompt TEXT NOT NULL, number INTEGER NOT NULL, score REAL, reasons TEXT, unreadable TEXT,
    used_on TEXT NOT NULL, PRIMARY KEY (prompt, number)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS samples_used ON samples (used_on);
CREATE TABLE IF NOT EXISTS usage (
    day TEXT NOT NULL, judge TEXT NOT NULL, evaluator TEXT NOT NULL, model TEXT NOT NULL,
    evaluations INTEGER NOT NULL DEFAULT 0, failures INTEGER NOT NULL DEFAULT 0,
    calls INTEGER NOT NULL DEFAULT 0, cache_hits INTEGER NOT NULL DEFAULT 0,
    input_tokens INTEGER NOT NULL DEFAULT 0, output_tokens INTEGER NOT NULL DEFAULT 0,
    cost REAL NOT NULL DEFAULT 0, PRIMARY KEY (day, judge, evaluator, model)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS waits (model TEXT PRIMARY KEY, reason TEXT NOT NULL) WITHOUT ROWID;
"""
COUNTED = (
    *("evaluations", "failures", "calls", "cache_hits"),
    *("input_tokens", "output_tokens", "cost"),
)


@dataclass(frozen=True, slots=True)
class Account:
    """Whose usage it is: the judge's, for one evaluator, with a model named in `judges.toml`."""

    judge: str
    evaluator: str
    model: str


@dataclass(frozen=True, slots=True)
class NewItem:
    """An input. It has failed already if it has an error."""

    input: dict[str, Any]
    log_id: str
    results: Sequence[Result | None] = ()  # of each evaluator; None has to ask a model
    error: str = ""

    @property
    def status(self) -> str:
        if self.error:
            return "failed"
        return "completed" if all(self.results) else "processing"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An evaluation that has to ask a model; `position` is its evaluator's in the judge."""

    number: int
    version_id: str
    position: int


@dataclass(frozen=True, slots=True)
class StoredItem:
    """An item as its row is; `results` are those of its evaluators, in order, if it has ended."""

    index: int
    input: dict[str, Any]
    log_id: str
    status: str
    error: str
    completed_at: float | None
    results: list[Result | None]


@dataclass(frozen=True, slots=True)
class StoredBatch:
    number: int
    id: str
    judge_id: str
    version_id: str
    tags: list[str]
    total: int
    completed: int
    failed: int
    created_at: float
    completed_at: float | None


@dataclass(frozen=True, slots=True)
class Sample:
    """What a model said once: a score, or why its first response could not be read."""

    score: ModelScore | None
    unreadable: str | None


class Ledger:
    """The state of a judge service, in one SQLite file. `clock` returns seconds since 1970."""

    def __init__(
        self,
        path: str | Path = IN_MEMORY,
        *,
        clock: Callable[[], float] = time.time,
        read_only: bool = False,
    ) -> None:
        self.clock = clock
        try:
            if path != IN_MEMORY and not read_only:
                create_private_file(Path(path))
            self._connection = sqlite3.connect(
                f"{Path(path).absolute().as_uri()}?mode=ro" if read_only else path,
                uri=read_only,
                check_same_thread=False,
                isolation_level=None,
                timeout=BUSY_SECONDS,
            )
            with contextlib.ExitStack() as opened:
                opened.callback(self.close)
                self._prepare(read_only=read_only)
                opened.pop_all()
        except (OSError, sqlite3.Error) as error:
            reason = getattr(error, "strerror", None) or error
            if read_only and not Path(path).exists():
                reason = "there is no such file"
            raise NotPossible(f"{path} is no state file of a judge: {reason}") from error

    def _prepare(self, *, read_only: bool) -> None:
        if read_only:
            self.waits()  # which fails in a file of another kind
            return
        # A killed process loses no commit; after a power failure the last may be gone.
        pragmas = "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"
        self._connection.executescript(pragmas + SCHEMA)

    def set_patience(self, seconds: float) -> None:
        """Set how long a statement waits for another process, and the event loop with it."""
        self._rows(f"PRAGMA busy_timeout = {round(seconds * 1000)}")

    def close(self) -> None:
        self._connection.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._connection.execute("BEGIN IMMEDIATE")
        with self._connection:
            yield self._connection

    def _rows(self, statement: str, *values: object, **named: object) -> list[Any]:
        return self._connection.execute(statement, named or values).fetchall()

    # --- judges ----------------------------------------------------------------------------------

    def remember(self, judge: Judge) -> None:
        """Keep this version, so that it can be asked for when the files have changed."""
        content = judge.model_dump_json(
            exclude={"evaluators": {"__all__": {"evaluator": {"calibration"}}}}
        )
        self._rows(
            "INSERT INTO judge_versions VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            *(judge.version_id, judge.id, content),
        )

    def judge_version(self, version_id: str) -> Judge | None:
        rows = self._rows("SELECT content FROM judge_versions WHERE id = ?", version_id)
        return Judge.model_validate_json(rows[0][0]) if rows else None

    # --- batches ---------------------------------------------------------------------------------

    def add(
        self, batch_id: str, judge: Judge, tags: Sequence[str], items: Sequence[NewItem]
    ) -> list[Evaluation]:
        """Store a batch, and return the evaluations that it needs."""
        now = self.clock()
        ends = Counter(item.status for item in items)
        with self._transaction() as connection:
            self.remember(judge)
            ((batch,),) = self._rows(
                "INSERT INTO batches (id, judge_id, version_id, tags, total, completed, failed,"
                " created_at, completed_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING number",
                *(batch_id, judge.id, judge.version_id, json.dumps(tags), len(items)),
                *(ends["completed"], ends["failed"], now),
                None if ends["processing"] else now,
            )
            connection.executemany(
                "INSERT INTO items VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    (
                        *(batch, index, json.dumps(item.input), item.log_id),
                        *(json.dumps(item.results), item.status, item.error),
                        None if item.status == "processing" else now,
                    )
                    for index, item in enumerate(items)
                ),
            )
            connection.executemany(
                "INSERT INTO evaluations (batch, item_index, position) VALUES (?, ?, ?)",
                (
                    (batch, index, position)
                    for index, item in enumerate(items)
                    for position, result in enumerate(item.results)
                    if result is None
                ),
            )
            return self.waiting(batch) if ends["processing"] else []

    def get(self, batch_id: str) -> StoredBatch | None:
        found = self._batches("WHERE id = ?", batch_id)
        return found[0] if found else None

    def page(
        self,
        *,
        judge_id: str | None = None,
        status: str | None = None,
        since: float | None = None,
        until: float | None = None,
        before: int | None = None,
        limit: int,
    ) -> Sequence[StoredBatch]:
        """Return batches below the number `before`, newest first."""
        return self._batches(
            "WHERE (:judge_id IS NULL OR judge_id = :judge_id)"
            " AND (:before IS NULL OR number < :before)"
            " AND (:since IS NULL OR created_at >= :since)"
            " AND (:until IS NULL OR created_at <= :until)"
            " AND (:status IS NULL"
            " OR :status = iif(completed_at IS NULL, 'processing', 'completed'))"
            " ORDER BY number DESC LIMIT :limit",
            judge_id=judge_id,
            before=before,
            since=since,
            until=until,
            status=status,
            limit=limit,
        )

    def _batches(self, condition: str, *values: object, **named: object) -> Sequence[StoredBatch]:
        rows = self._rows(
            "SELECT number, id, judge_id, version_id, tags, total, completed, failed, created_at,"  # noqa: S608 (literals of this module)
            f" completed_at FROM batches {condition}",
            *values,
            **named,
        )
        return [StoredBatch(*_with_json(row, 4)) for row in rows]

    def items(self, batch: StoredBatch) -> Sequence[StoredItem]:
        rows = self._rows(
            "SELECT item_index, input, log_id, status, error, completed_at, results FROM items"
            " WHERE batch = ? ORDER BY item_index",
            batch.number,
        )
        return [StoredItem(*_with_json(row, 1, 6)) for row in rows]

    def totals(self) -> tuple[int, int, int]:
        """Count batches, inputs, and inputs that differ in their judge or their content."""
        ((batches, inputs, distinct),) = self._rows(
            "SELECT (SELECT count(*) FROM batches), count(*), count(DISTINCT judge_id || input)"
            " FROM items JOIN batches ON number = batch"
        )
        return batches, inputs, distinct

    def delete_expired(self, days: int) -> bool:
        """Delete some of what ended or was used last so many days ago; return whether any was."""
        before = self.clock() - days * DAY_SECONDS
        with self._transaction() as connection:
            old = connection.execute(
                "DELETE FROM batches WHERE number IN (SELECT number FROM batches"
                " WHERE completed_at < ? LIMIT ?) RETURNING number",
                (before, BATCHES_AT_A_TIME),
            ).fetchall()
            connection.executemany("DELETE FROM items WHERE batch = ?", old)
            samples = connection.execute(
                "DELETE FROM samples WHERE (prompt, number) IN (SELECT prompt, number FROM samples"
                " WHERE used_on < ? LIMIT ?)",
                (_day(before), SAMPLES_AT_A_TIME),
            )
            return bool(old) or samples.rowcount > 0

    # --- evaluations -----------------------------------------------------------------------------

    def waiting(self, first_batch: int = 0) -> list[Evaluation]:
        """Return the evaluations of this batch and later ones that have not ended."""
        rows = self._rows(
            "SELECT e.number, version_id, position FROM evaluations AS e"
            " JOIN batches AS b ON b.number = e.batch"
            " WHERE result IS NULL AND error IS NULL AND batch >= ? ORDER BY e.number",
            first_batch,
        )
        return [Evaluation(*row) for row in rows]

    def input_of(self, evaluation: Evaluation) -> dict[str, Any] | None:
        """Return what is to be judged; None if the evaluation has ended."""
        rows = self._rows(
            "SELECT input FROM evaluations AS e"
            " JOIN items AS i ON i.batch = e.batch AND i.item_index = e.item_index"
            " WHERE number = ? AND result IS NULL AND e.error IS NULL",
            evaluation.number,
        )
        return json.loads(rows[0][0]) if rows else None

    def end(
        self, evaluation: Evaluation, account: Account, result: Result | None, error: str | None
    ) -> None:
        """Record the result or the error of an evaluation, and end what ends with it."""
        with self._transaction() as connection:
            rows = connection.execute(
                "UPDATE evaluations SET result = ?, error = ?"
                " WHERE number = ? AND result IS NULL AND error IS NULL"
                " RETURNING batch, item_index",
                (json.dumps(result) if result else None, error, evaluation.number),
            ).fetchall()
            if rows:
                self._count(account, evaluations=1, failures=int(error is not None))
                self._end_item(*rows[0])

    def _end_item(self, *item: int) -> None:
        """End an item all of whose evaluations have ended, and the batch if it was the last."""
        parts = self._rows(
            "SELECT position, result, error FROM evaluations WHERE batch = ? AND item_index = ?"
            " ORDER BY position",
            *item,
        )
        if any(result is None and error is None for _, result, error in parts):
            return
        ((known,),) = self._rows(
            "SELECT results FROM items WHERE batch = ? AND item_index = ?", *item
        )
        results = json.loads(known)
        for position, result, _ in parts:
            results[position] = json.loads(result) if result else None
        reason = "; ".join(error for *_, error in parts if error)
        now, failed = self.clock(), int(bool(reason))
        self._rows("DELETE FROM evaluations WHERE batch = ? AND item_index = ?", *item)
        self._rows(
            "UPDATE items SET status = ?, error = ?, results = ?, completed_at = ?"
            " WHERE batch = ? AND item_index = ?",
            *("failed" if failed else "completed", reason, json.dumps(results), now),
            *item,
        )
        self._rows(
            "UPDATE batches SET completed = completed + ?, failed = failed + ?,"
            " completed_at = iif(completed + failed + 1 = total, ?, NULL) WHERE number = ?",
            *(1 - failed, failed, now, item[0]),
        )

    # --- samples ---------------------------------------------------------------------------------

    def sample(self, prompt: str, number: int) -> Sample | None:
        rows = self._rows(
            "SELECT score, reasons, unreadable FROM samples WHERE prompt = ? AND number = ?",
            *(prompt, number),
        )
        if not rows:
            return None
        score, reasons, unreadable = rows[0]
        return Sample(None if score is None else ModelScore(score, reasons), unreadable)

    def add_sample(
        self,
        prompt: str,
        number: int,
        sample: Sample,
        account: Account,
        *,
        tokens: tuple[int, int],
        cost: float,
    ) -> None:
        """Record a paid call and what came of it."""
        given = sample.score
        with self._transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO samples VALUES (?, ?, ?, ?, ?, ?)",
                (
                    *(prompt, number),
                    *((given.score, given.reasons) if given else (None, None)),
                    *(sample.unreadable, self.today()),
                ),
            )
            self._count(
                account, calls=1, input_tokens=tokens[0], output_tokens=tokens[1], cost=cost
            )

    def forget_sample(self, prompt: str, number: int) -> None:
        """Let a question that failed be asked anew when it is submitted again."""
        self._rows("DELETE FROM samples WHERE prompt = ? AND number = ?", prompt, number)

    # --- usage -----------------------------------------------------------------------------------

    def count_lost_call(self, account: Account, input_tokens: int, cost: float) -> None:
        """Count a call without a response, as the endpoint may bill it."""
        with self._transaction():
            self._count(account, calls=1, input_tokens=input_tokens, cost=cost)

    def count_hit(self, prompt: str, number: int, account: Account) -> None:
        """Record that a sample was of use again, which keeps it."""
        with self._transaction():
            self._rows(
                "UPDATE samples SET used_on = :today WHERE prompt = :prompt AND number = :number"
                " AND used_on < :today",
                today=self.today(),
                prompt=prompt,
                number=number,
            )
            self._count(account, cache_hits=1)

    def _count(self, account: Account, **amounts: float) -> None:
        names, sums = ", ".join(amounts), ", ".join(f"{name} = {name} + ?" for name in amounts)
        marks = ", ".join("?" * len(amounts))
        values = tuple(amounts.values())
        self._connection.execute(
            f"INSERT INTO usage (day, judge, evaluator, model, {names})"  # noqa: S608 (names of columns, from this module)
            f" VALUES (?, ?, ?, ?, {marks}) ON CONFLICT DO UPDATE SET {sums}",
            (self.today(), account.judge, account.evaluator, account.model, *values, *values),
        )

    def today(self) -> str:
        return _day(self.clock())

    def spent_today(self, model: str) -> float:
        ((cost,),) = self._rows(
            "SELECT coalesce(sum(cost), 0) FROM usage WHERE day = ? AND model = ?",
            *(self.today(), model),
        )
        return float(cost)

    def usage(self, *, since: str = "", by: Sequence[str]) -> list[dict[str, Any]]:
        """Return sums of what is `COUNTED`, by `day`, `judge`, `evaluator` or `model`."""
        keys = ", ".join(by)
        sums = ", ".join(f"sum({name})" for name in COUNTED)
        rows = self._rows(
            f"SELECT {keys}, {sums} FROM usage WHERE day >= ? GROUP BY {keys} ORDER BY {keys}",  # noqa: S608 (names of columns, from callers' literals)
            since,
        )
        return [dict(zip((*by, *COUNTED), row, strict=True)) for row in rows]

    def set_wait(self, model: str, reason: str | None) -> None:
        """Record why a model is not asked at the moment, or that it is."""
        if reason is None:
            self._rows("DELETE FROM waits WHERE model = ?", model)
        else:
            self._rows("INSERT OR REPLACE INTO waits VALUES (?, ?)", model, reason)

    def waits(self) -> dict[str, str]:
        return dict(self._rows("SELECT model, reason FROM waits ORDER BY model"))


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()


def _with_json(row: Sequence[Any], *columns: int) -> Sequence[Any]:
    """Return a row with these columns parsed."""
    return [json.loads(value) if at in columns else value for at, value in enumerate(row)]
