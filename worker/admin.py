"""Operate an installation from Python: one method for each operation of the command line.

    from worker.admin import Admin

    with Admin("postgresql://…") as admin:  # without a URL: EVALWORKER_DATABASE_URL
        admin.pause("answer-quality", reason="its prompt is being changed")

Each method is one transaction (`prune` runs many) that is committed when the method returns. Rows
are returned as dictionaries with the column names as keys. Times are `datetime` values in UTC.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from copy import copy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar
from uuid import UUID

import sqlalchemy as sa

from worker.config import load_settings
from worker.domain.lifecycle import LIVE_STATES, BatchState
from worker.domain.pair_key import Pairing
from worker.errors import NotPossible
from worker.export import Format, without_formulas, write_file
from worker.store import (
    batch_commands,
    batch_queries,
    comparison_queries,
    id_prefix,
    job_commands,
    job_queries,
    pauses,
    replicas,
    retention,
)
from worker.store.comparison_document import comparison_document
from worker.store.database import open_database
from worker.store.schema_version import check_schema
from worker.validation import judge_offences

if TYPE_CHECKING:
    from worker.store.job_queries import ItemResult
    from worker.store.retention import Pruned
    from worker.store.transaction import Transaction

Result = TypeVar("Result")

UNSETTLED = LIVE_STATES | {BatchState.HELD}
"""States of batches that have not ended, those on hold included."""
LATEST_JOBS = 20
LATEST_NOTICES = 5  # that failed
RATE_WINDOW = 300.0  # seconds


class Admin:
    """Operations on one database. Use it as a context manager, or call `close`.

    Args:
        database_url: `sqlite:///FILE` or `postgresql://…`. `None` means the setting
            `EVALWORKER_DATABASE_URL`.
        actor: Name of the person who acts, which the events of `eval_events` then have in their
            detail.

    Raises:
        ConfigurationError: The URL or another setting is invalid.
        Unreachable: The database does not respond.
        SchemaMismatch: The schema is missing, older or newer than this version, or the file of a
            SQLite database does not exist.
    """

    def __init__(self, database_url: str | None = None, *, actor: str | None = None) -> None:
        given = {} if database_url is None else {"database_url": database_url}
        self.actor = actor
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
        """Close the connections to the database."""
        self.database.close()

    def acting_as(self, actor: str) -> Admin:
        """Return the same operations on the same connections, for another person.

        Args:
            actor: Name of the person, as in the constructor.

        Returns:
            A view of this object, which need not be closed.
        """
        view = copy(self)
        view.actor = actor
        return view

    def status(self) -> dict[str, Any]:
        """Return an overview of the installation.

        Returns:
            A dictionary with the following keys.

            - `jobs`: number of jobs by status.
            - `batches`: number of live batches by state, those on hold excluded.
            - `paused`: rows of pauses: `judge_id` (`None`: all judges), `reason`, `since`.
            - `waiting_for`: rows of the gates that are closed because the judge API refuses
              requests, with `scope`, `reason`, `closed_at` and `opens_at`.
            - `replicas`: rows of the replicas that cannot do a part of their work: `holder`,
              `key_refused_at` and `key_error` where the judge API refuses its key,
              `send_failed_at` and `send_error` where the broker takes no messages from it.
            - `in_doubt`: rows of the batches whose submission had no usable response, and that
              are searched for at the judge API: `id`, `judge_id`, `item_count`, `submissions`,
              `due_at` (of the next search), `error`.
            - `held`: rows of the batches on hold: `id`, `judge_id`, `item_count`,
              `remote_batch_id`, `error`.
            - `notices`: number of webhook notices by state, and `latest_failed`, the last 5
              rows of `eval_job_notices` that failed.
            - `latest`: the newest 20 rows of `eval_job_progress`.
        """
        with self.database.read() as connection:
            return {
                "jobs": job_queries.job_counts(connection),
                "batches": _live_batches_by_state(connection),
                "paused": _rows(pauses.list_pauses(connection)),
                "waiting_for": _rows(job_queries.closed_gates(connection)),
                "replicas": _rows(replicas.list_troubled(connection)),
                "in_doubt": _rows(job_queries.batches_in_doubt(connection)),
                "held": _rows(job_queries.held_batches(connection)),
                "notices": {
                    **job_queries.notice_counts(connection),
                    "latest_failed": _rows(job_queries.failed_notices(connection, LATEST_NOTICES)),
                },
                "latest": _rows(job_queries.recent_progress(connection, LATEST_JOBS)),
            }

    def find_job(self, prefix: str) -> UUID:
        """Return the id of the job whose id begins with some characters.

        Args:
            prefix: The first hexadecimal digits of the id, with or without dashes.

        Returns:
            The id. A complete one is returned as it is, whether or not there is such a job.

        Raises:
            NotPossible: No job has such an id, or several have. The message names those.
        """
        with self.database.read() as connection:
            return id_prefix.find_job(connection, prefix)

    def find_batch(self, prefix: str) -> UUID:
        """Return the id of the batch whose id begins with some characters.

        Args:
            prefix: The first hexadecimal digits of the id, with or without dashes.

        Returns:
            The id. A complete one is returned as it is, whether or not there is such a batch.

        Raises:
            NotPossible: No batch has such an id, or several have. The message names those.
        """
        with self.database.read() as connection:
            return id_prefix.find_batch(connection, prefix)

    def job(self, job_id: UUID) -> dict[str, Any]:
        """Return the progress of a job.

        Args:
            job_id: Id of the job, as `enqueue` returned it.

        Returns:
            The job's row of `eval_job_progress`.

        Raises:
            UnknownJob: No job has this id.
        """
        with self.database.read() as connection:
            return _row(job_queries.progress_of(connection, job_id))

    def notices(self, job_id: UUID) -> list[dict[str, Any]]:
        """Return the webhook notices of a job, oldest first.

        Args:
            job_id: Id of the job.

        Returns:
            Rows of `eval_job_notices`, one for each time that the job has ended. Empty if the job
            has no `callback_url`.
        """
        with self.database.read() as connection:
            return _rows(job_queries.notices_of(connection, job_id))

    def failures(self, job_id: UUID, limit: int) -> list[dict[str, Any]]:
        """Return the first failed inputs of a job.

        Args:
            job_id: Id of the job.
            limit: Maximum number of rows.

        Returns:
            Rows of `eval_item_results`, ordered by `item_index`.
        """
        with self.database.read() as connection:
            return _rows(job_queries.failures_of(connection, job_id, limit))

    def judges(self) -> list[dict[str, Any]]:
        """Return the state of each judge that has work, recent results or a pause.

        Returns:
            A dictionary for each judge, ordered by `judge_id`, with the following keys.

            - `judge_id`
            - `jobs`: number of jobs that have not ended.
            - `waiting`: number of inputs that are not in a batch yet.
            - `in_flight`: number of inputs in a batch that has not ended.
            - `oldest`: when its oldest open job was enqueued, or `None`.
            - `batches`: number of open batches by state.
            - `per_minute`: inputs evaluated per minute, over the last 5 minutes.
            - `paused`: whether a pause applies to it.
        """
        with self.database.read() as connection:
            return judge_states(connection)

    def batches(
        self,
        states: Collection[BatchState] = UNSETTLED,
        *,
        judge_id: str | None = None,
        job_id: UUID | None = None,
        limit: int = 100,
    ) -> list[dict[str, Any]]:
        """Return batches, newest first.

        Args:
            states: States to include. By default, all that have not ended.
            judge_id: Only batches of this judge.
            job_id: Only batches that contain inputs of this job now.
            limit: Maximum number of rows.

        Returns:
            Rows of `eval_batches`, with the columns that matter to operators.

        Raises:
            UnknownJob: No job has this id.
        """
        with self.database.read() as connection:
            if job_id is not None:
                job_queries.progress_of(connection, job_id)
            return _rows(
                batch_queries.list_batches(
                    connection, states=states, judge_id=judge_id, job_id=job_id, limit=limit
                )
            )

    def results(self, job_id: UUID) -> Iterator[ItemResult]:
        """Iterate over the inputs of a job with their scores, ordered by `item_index`.

        Rows are read in chunks of 1,000, so a job of any size needs little memory.

        Args:
            job_id: Id of the job.

        Yields:
            Results with `item`, a row of `eval_item_results`, and `scores`, its rows of
            `eval_scores`.

        Raises:
            UnknownJob: No job has this id. Raised when iteration starts.
        """
        with self.database.read() as connection:
            job_queries.progress_of(connection, job_id)
            yield from job_queries.results_of(connection, job_id)

    def export(
        self,
        job_id: UUID,
        path: Path,
        form: Format,
        *,
        for_spreadsheets: bool = False,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Write the results of a job to a file.

        The file appears under its name once it is complete. Until then, its name ends in `.part`.

        Args:
            job_id: Id of the job.
            path: File to write. An existing file is replaced.
            form: `jsonl` has a line for each input. `csv` and `parquet` have a row for each
                input and evaluator.
            for_spreadsheets: Put a `'` before texts that a spreadsheet would take for formulas.
            on_progress: Called with the number of inputs written so far.

        Raises:
            UnknownJob: No job has this id.
            EvalWorkerError: The file cannot be written, or the format is `parquet` and pyarrow is
                not installed.
        """

        def counted() -> Iterator[ItemResult]:
            results = self.results(job_id)
            harmless = without_formulas(results) if for_spreadsheets else results
            for number, result in enumerate(harmless, 1):
                yield result
                on_progress(number)

        write_file(counted(), path, form)

    def is_drained(self) -> bool:
        """Return whether workers have nothing left to do.

        Batches on hold and paused work do not count, because they wait for a person.
        """
        with self.database.read() as connection:
            return job_queries.is_drained(connection)

    def means(self, job_id: UUID) -> list[dict[str, Any]]:
        """Return the mean score of each evaluator of a job.

        Args:
            job_id: Id of the job.

        Returns:
            A dictionary for each evaluator, with `evaluator_name`, `mean` (`None` without any
            score), and the numbers of inputs that are `scored` and `unscored`.
        """
        with self.database.read() as connection:
            return _rows(job_queries.mean_scores(connection, job_id))

    def events(self, job_id: UUID) -> Iterator[dict[str, Any]]:
        """Iterate over the history of a job, its inputs and its batches, oldest first.

        Args:
            job_id: Id of the job.

        Yields:
            Rows of `eval_events`.

        Raises:
            UnknownJob: No job has this id. Raised when iteration starts.
        """
        with self.database.read() as connection:
            job_queries.progress_of(connection, job_id)
            yield from map(_row, batch_queries.history_of(connection, job_id))

    def compare(
        self,
        first_id: UUID,
        second_id: UUID,
        *,
        by: str = "index",
        cluster: str | None = None,
        changes: int = 5,
    ) -> dict[str, Any]:
        """Compare the scores of two jobs, input by input.

        Args:
            first_id: Id of the job that is compared with.
            second_id: Id of the job that is judged to be better or worse.
            by: What makes two inputs a pair: `index`, `request`, or `metadata:KEY` for the value
                under a name of their metadata.
            cluster: A name in the inputs' metadata. Inputs with the same value belong together,
                and count as less evidence.
            changes: Maximum number of pairs to return for each evaluator, in each direction.

        Returns:
            A dictionary with the following keys. Differences are the second score minus the first.

            - `first`, `second`: the jobs, with `job_id`, `judge_id`, `judge_version_id`, `tags`,
              `status`, `total`, `completed`.
            - `by`, `cluster`: as given.
            - `pairs`, `only_first`, `only_second`, `without_key`, `different_requests`: numbers of
              inputs.
            - `evaluators`: for each, `evaluator_name`, `pairs`, `groups`, `first_mean`,
              `second_mean`, `difference` with the ends of its interval of 95 % (`low`, `high`, or
              `without_interval`, a reason), the numbers of pairs that are `better`, `same`,
              `worse`, the `p` of the sign test, the `smallest_visible` difference, a `verdict`
              with its `sentence`, and the largest `losses` and `gains`: their indexes, scores,
              difference and request.
            - `not_compared`: names of evaluators without scores in both jobs.
            - `notes`: sentences on what else differs between the jobs.

        Raises:
            UnknownJob: One of the jobs does not exist.
            NotPossible: `by` is invalid, both ids are the same, no inputs pair, or several inputs
                of a job have the same key.
        """
        try:
            pairing = Pairing.parse(by)
        except ValueError as error:
            raise NotPossible(str(error)) from error
        with self.database.read() as connection:
            found = comparison_queries.compare_jobs(
                connection, first_id, second_id, pairing, cluster
            )
            return comparison_document(connection, found, changes=changes)

    def retry(
        self,
        job_id: UUID,
        *,
        everything: bool = False,
        item_index: int | None = None,
        error: str | None = None,
    ) -> int:
        """Evaluate inputs of a job again. By default, those that failed.

        Each gets its full number of attempts again, and may be billed again. With `everything` or
        `item_index`, earlier results of these inputs are deleted.

        Args:
            job_id: Id of the job.
            everything: Include all inputs that have ended: failed, completed and cancelled.
            item_index: Include only this input, which must have ended.
            error: Include only inputs that failed with exactly this error.

        Returns:
            Number of inputs that wait for evaluation again.

        Raises:
            UnknownJob: No job has this id.
            NotPossible: The input has not ended or does not exist, the texts of the job were
                pruned, or a cancelled input is still in a batch at the judge.
        """
        return self._run(
            lambda tx: job_commands.retry(
                tx, job_id, everything=everything, item_index=item_index, error=error
            )
        )

    def cancel(self, job_id: UUID) -> dict[str, int]:
        """Cancel the inputs of a job that have not ended, and so the job.

        Inputs that have not been submitted never will be. Batches at the judge cannot be stopped:
        they are evaluated, and the results of cancelled inputs are dropped.

        Args:
            job_id: Id of the job.

        Returns:
            `inputs`, the number of cancelled inputs, and `at_judge`, how many of them the judge
            evaluates or may evaluate all the same.

        Raises:
            UnknownJob: No job has this id.
        """

        def work(tx: Transaction) -> dict[str, int]:
            inputs = job_commands.cancel(tx, job_id)
            return {"inputs": inputs, "at_judge": job_commands.count_dropped(tx, job_id)}

        return self._run(work)

    def pause(self, judge_id: str | None = None, *, reason: str | None = None) -> bool:
        """Stop submissions to a judge, or to all judges, until `resume`.

        Batches that are already at the judge are polled and recorded as usual.

        Args:
            judge_id: The judge to pause. `None` pauses all of them.
            reason: Text for other operators, shown wherever the pause is. `None` keeps the
                reason of a pause that exists already.

        Returns:
            `True` if this started the pause. `False` if it existed already; a given reason
            replaces its own.

        Raises:
            NotPossible: `judge_id` is not a valid id.
        """
        if judge_id is not None and (offences := judge_offences(judge_id)):
            raise NotPossible("; ".join(offences))
        return self._run(lambda tx: pauses.pause(tx, judge_id, reason))

    def resume(self, judge_id: str | None = None) -> None:
        """End one pause. Other pauses stay.

        Args:
            judge_id: End the pause of this judge. `None` ends the pause of all judges.

        Raises:
            NotPossible: There is no such pause. The message names the existing ones.
        """
        if self._run(lambda tx: pauses.resume(tx, judge_id)):
            return
        with self.database.read() as connection:
            others = [pause.judge_id for pause in pauses.list_pauses(connection)]
        raise NotPossible(_not_paused(judge_id, others))

    def resolve(self, batch_id: UUID, *, resubmit: bool = False) -> BatchState:
        """Let a batch on hold continue.

        Args:
            batch_id: Id of the batch.
            resubmit: `False` searches for the batch at the judge, or reads its results again.
                `True` has its inputs evaluated again, which is billed twice if the judge has
                evaluated them already.

        Returns:
            The new state of the batch: `refused` if it was split in two, because the judge API
            failed to take it as a whole again and again.

        Raises:
            NotPossible: No batch on hold has this id.
        """
        state = self._run(lambda tx: batch_commands.resolve(tx, batch_id, resubmit=resubmit))
        if state is None:
            raise NotPossible(f"no batch on hold has the id {batch_id} (`evalworker batches`)")
        return state

    def prune(
        self,
        older_than: timedelta,
        *,
        texts_only: bool = False,
        dry_run: bool = False,
        on_progress: Callable[[Pruned], None] = lambda _: None,
    ) -> Pruned:
        """Delete jobs that ended long ago, with their inputs, results and history.

        Works in many small transactions. If it is interrupted, the next run continues.

        Args:
            older_than: Minimum time since the job ended.
            texts_only: Delete only the texts of the inputs, and keep scores and history.
            dry_run: Only count what would be deleted. Batches and events are not counted.
            on_progress: Called after each transaction with the counts so far.

        Returns:
            The counts `jobs`, `inputs`, `batches`, `events`, and `before`, the time by which
            these jobs had ended.
        """
        if dry_run:
            return retention.count(self.database, older_than, texts_only=texts_only)
        return retention.prune(
            self.database, older_than, texts_only=texts_only, on_progress=on_progress
        )

    def _run(self, work: Callable[[Transaction], Result]) -> Result:
        return self.database.run(work, actor=self.actor)


def judge_states(connection: sa.Connection) -> list[dict[str, Any]]:
    """Return what `Admin.judges` returns, by an open connection."""
    found = {row["judge_id"]: row for row in _rows(batch_queries.work_by_judge(connection))}
    for judge_id, state, count, _ in batch_queries.open_batch_counts(connection):
        _entry(found, judge_id).setdefault("batches", {})[state] = count
    recent = batch_queries.recent_output_by_judge(connection, RATE_WINDOW)
    for judge_id, inputs, since in recent:
        passed = max(1.0, min(RATE_WINDOW, (datetime.now(UTC) - since).total_seconds()))
        _entry(found, judge_id)["per_minute"] = inputs / passed * 60
    for pause in pauses.list_pauses(connection):
        for judge_id in [pause.judge_id] if pause.judge_id is not None else list(found):
            _entry(found, judge_id)["paused"] = True
    return [_NO_WORK | found[judge_id] for judge_id in sorted(found)]


_NO_WORK: dict[str, Any] = {
    "jobs": 0,
    "waiting": 0,
    "in_flight": 0,
    "oldest": None,
    "batches": {},
    "per_minute": 0.0,
    "paused": False,
}


def _entry(found: dict[str, dict[str, Any]], judge_id: str) -> dict[str, Any]:
    return found.setdefault(judge_id, {"judge_id": judge_id})


def _not_paused(judge_id: str | None, paused: list[str | None]) -> str:
    wanted = "no pause of all judges" if judge_id is None else f"no pause of judge {judge_id}"
    if not paused:
        return f"there is {wanted}, nor any other pause"
    commands = [f"resume --judge {name}" if name is not None else "resume" for name in paused]
    others = " or ".join(f"`evalworker {command}`" for command in commands)
    return f"there is {wanted}; end another one with {others}"


def _live_batches_by_state(connection: sa.Connection) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for count in batch_queries.open_batch_counts(connection):
        if count.state in LIVE_STATES:
            counts[count.state] += count.batches
    return dict(counts)


def _row(row: NamedTuple) -> dict[str, Any]:
    return row._asdict()


def _rows(rows: Iterable[NamedTuple]) -> list[dict[str, Any]]:
    return [row._asdict() for row in rows]
