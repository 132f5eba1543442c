"""What an operator does, from Python: the command line's own operations, one method each.

    from worker.admin import Admin

    with Admin("postgresql://…") as admin:  # without a URL: that of EVALWORKER_DATABASE_URL
        admin.pause(judge_id="answer-quality", reason="its prompt is being changed")

Every method is a transaction of its own (`prune` many), and its effect is committed when it
returns. What is told are plain values: dictionaries with the columns as keys. Errors are those of
`worker.errors`: `UnknownJob`, `NotPossible` with what stands in the way, and at the start
`Unreachable` and `SchemaMismatch`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

import sqlalchemy as sa

from worker import retention
from worker.config import load_settings
from worker.domain.lifecycle import LIVE_STATES, BatchState
from worker.errors import NotPossible
from worker.export import Format, write_file
from worker.store import batch_queries, gates, job_commands, job_queries, leases
from worker.store.database import open_database
from worker.store.schema_version import check_schema
from worker.validation import judge_offences

if TYPE_CHECKING:
    from worker.retention import Pruned
    from worker.store.database import Transaction
    from worker.store.job_queries import ItemResult

UNSETTLED = LIVE_STATES | {BatchState.HELD}
"""The states of batches that have not ended."""
NO_REASON = "no reason given"
LATEST = 20  # jobs of an overview
LATEST_FAILED = 5  # notices
LATELY = 300.0  # seconds over which the rate is measured


class Admin:
    """One database to operate on; a context manager."""

    def __init__(self, database_url: str | None = None) -> None:
        given = {} if database_url is None else {"database_url": database_url}
        self.database = open_database(load_settings(**given))
        try:
            check_schema(self.database)
        except BaseException:
            self.database.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.database.close()

    # --- looking ---

    def status(self) -> dict[str, Any]:
        """Jobs and live batches by state, what waits and for whom, and the latest jobs."""
        with self.database.read() as connection:
            return {
                "jobs": job_queries.job_counts(connection),
                "batches": job_queries.batch_counts(connection),
                "paused": _rows(gates.pauses(connection)),
                "waiting_for": _rows(job_queries.closed_gates(connection)),
                "held": _rows(job_queries.held_batches(connection)),
                "notices": {
                    **job_queries.notice_counts(connection),
                    "latest_failed": _rows(job_queries.failed_notices(connection, LATEST_FAILED)),
                },
                "latest": _rows(job_queries.recent_progress(connection, LATEST)),
            }

    def job(self, job_id: UUID) -> dict[str, Any]:
        """A row of `eval_job_progress`."""
        with self.database.read() as connection:
            return _row(job_queries.progress_of(connection, job_id))

    def notices(self, job_id: UUID) -> list[dict[str, Any]]:
        """That a job has ended, to whom its producer named: one each time it did."""
        with self.database.read() as connection:
            return _rows(job_queries.notices_of(connection, job_id))

    def failures(self, job_id: UUID, limit: int) -> list[dict[str, Any]]:
        """The first failed inputs of a job, as rows of `eval_item_results`."""
        with self.database.read() as connection:
            return _rows(job_queries.failures_of(connection, job_id, limit))

    def judges(self) -> list[dict[str, Any]]:
        """Each judge with work or a pause: its inputs and batches, and what came back lately."""
        with self.database.read() as connection:
            found = {
                row["judge_id"]: row for row in _rows(batch_queries.waiting_by_judge(connection))
            }
            for judge_id, state, count in batch_queries.batches_by_judge(connection):
                _of(found, judge_id).setdefault("batches", {})[state] = count
            for judge_id, inputs, since in batch_queries.ended_lately(connection, LATELY):
                passed = max(1.0, min(LATELY, (datetime.now(UTC) - since).total_seconds()))
                _of(found, judge_id)["per_minute"] = inputs / passed * 60
            for pause in gates.pauses(connection):
                for judge_id in [pause.judge_id] if pause.judge_id is not None else list(found):
                    _of(found, judge_id)["paused"] = True
        return [_NO_WORK | found[judge_id] for judge_id in sorted(found)]

    def batches(
        self,
        states: Collection[BatchState] = UNSETTLED,
        *,
        judge_id: str | None = None,
        job_id: UUID | None = None,
        limit: int = 100,
    ) -> list[dict[str, Any]]:
        """Batches in these states, newest first; by default those that have not ended."""
        with self.database.read() as connection:
            if job_id is not None:
                job_queries.progress_of(connection, job_id)
            return _rows(
                batch_queries.list_batches(
                    connection, states=states, judge_id=judge_id, job_id=job_id, limit=limit
                )
            )

    def results(self, job_id: UUID) -> Iterator[ItemResult]:
        """Every input of a job with its scores, in order; read in pieces."""
        with self.database.read() as connection:
            job_queries.progress_of(connection, job_id)
            yield from job_queries.results_of(connection, job_id)

    def export(
        self,
        job_id: UUID,
        path: Path,
        form: Format,
        *,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        """The results of a job in a file, which is there when it is whole; `on_progress` counts."""

        def told() -> Iterator[ItemResult]:
            for number, result in enumerate(self.results(job_id), 1):
                yield result
                on_progress(number)

        write_file(told(), path, form)

    def is_drained(self) -> bool:
        """Nothing is left that a worker could do; what is held or paused waits for a person."""
        with self.database.read() as connection:
            return not job_queries.any_work(connection)

    def means(self, job_id: UUID) -> list[dict[str, Any]]:
        """Of each evaluator of a job: its mean, and how many inputs are scored or unscored."""
        with self.database.read() as connection:
            return _rows(job_queries.mean_scores(connection, job_id))

    def events(self, job_id: UUID) -> Iterator[dict[str, Any]]:
        """What happened to a job, its inputs and its batches; oldest first."""
        with self.database.read() as connection:
            job_queries.progress_of(connection, job_id)
            yield from map(_row, batch_queries.history_of(connection, job_id))

    # --- changing ---

    def retry(
        self, job_id: UUID, *, everything: bool = False, item_index: int | None = None
    ) -> int:
        """Failed inputs wait again, with all of their attempts; returns how many.

        `everything`: whatever has ended, completed and cancelled ones included. They are evaluated,
        and billed, again; `item_index`: so is that input alone.
        """
        return self.database.run(
            lambda tx: job_commands.retry(tx, job_id, everything=everything, item_index=item_index)
        )

    def cancel(self, job_id: UUID) -> dict[str, int]:
        """Ends a job: `inputs` that were cancelled; `at_judge`, those whose results are dropped."""

        def work(tx: Transaction) -> dict[str, int]:
            inputs = job_commands.cancel(tx, job_id)
            return {"inputs": inputs, "at_judge": job_commands.dropped(tx, job_id)}

        return self.database.run(work)

    def pause(self, judge_id: str | None = None, *, reason: str = NO_REASON) -> bool:
        """Nothing new is submitted to a judge, or at all; what is at the remote goes on.

        False where that was so already; the reason is then the new one.
        """
        if judge_id is not None and (offences := judge_offences(judge_id)):
            raise NotPossible("; ".join(offences))
        return self.database.run(lambda tx: gates.pause(tx, judge_id, reason))

    def resume(self, judge_id: str | None = None) -> None:
        """The end of one pause: that of a judge, or that of everything. Others stay."""
        if self.database.run(lambda tx: gates.resume(tx, judge_id)):
            return
        with self.database.read() as connection:
            others = [pause.judge_id for pause in gates.pauses(connection)]
        raise NotPossible(_not_paused(judge_id, others))

    def resolve(self, batch_id: UUID, *, resubmit: bool = False) -> BatchState:
        """A held batch goes on: looked for at the judge, or sent again, maybe billed twice."""
        state = self.database.run(lambda tx: leases.resolve(tx, batch_id, resubmit=resubmit))
        if state is None:
            raise NotPossible(f"there is no held batch {batch_id} (`evalworker batches`)")
        return state

    def prune(
        self,
        older_than: timedelta,
        *,
        texts_only: bool = False,
        dry_run: bool = False,
        on_progress: Callable[[Pruned], None] = lambda _: None,
    ) -> Pruned:
        """Jobs that ended so long ago are deleted, or only the texts of their inputs."""
        if dry_run:
            return retention.count(self.database, older_than, texts_only=texts_only)
        return retention.prune(
            self.database, older_than, texts_only=texts_only, on_progress=on_progress
        )


_NO_WORK: dict[str, Any] = {
    "jobs": 0,
    "waiting": 0,
    "in_flight": 0,
    "oldest": None,
    "batches": {},
    "per_minute": 0.0,
    "paused": False,
}


def _of(found: dict[str, dict[str, Any]], judge_id: str) -> dict[str, Any]:
    return found.setdefault(judge_id, {"judge_id": judge_id})


def _not_paused(judge_id: str | None, paused: list[str | None]) -> str:
    what = "everything" if judge_id is None else f"judge {judge_id}"
    if not paused:
        return f"{what} is not paused, nor is anything else"
    names = ", ".join("everything" if name is None else f"judge {name}" for name in paused)
    options = " or ".join("" if name is None else f" --judge {name}" for name in paused)
    return f"{what} is not paused, but {names} (`evalworker resume{options}`)"


def _row(row: sa.Row[Any]) -> dict[str, Any]:
    return dict(row._mapping)


def _rows(rows: Collection[Any]) -> list[dict[str, Any]]:
    return [_row(row) for row in rows]
