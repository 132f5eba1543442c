"""Group failures by reason and judge, and list the jobs that have them."""

from __future__ import annotations

from starlette.responses import Response

from worker.console.job_rows import job_rows
from worker.console.limits import PAGE_ROWS
from worker.console.parameters import Parameters
from worker.console.visit import Visit
from worker.store import failure_queries
from worker.store.affected_inputs import Affected
from worker.store.failure_queries import LATEST, FailureFilter
from worker.store.job_list_queries import JobFilter, list_job_ids


def failure_filter(parameters: Parameters) -> FailureFilter:
    """Read the filter from a query or a form; raises `PageProblem`."""
    return FailureFilter(
        judge_id=parameters.text("judge"),
        error=parameters.text("reason"),
        since=parameters.moment("since"),
        until=parameters.moment("until"),
    )


def jobs_with(wanted: FailureFilter) -> JobFilter:
    """Return the filter for the jobs that have such failures."""
    return JobFilter(
        judge_id=wanted.judge_id,
        since=wanted.since,
        until=wanted.until,
        affected=Affected.FAILED,
        error=wanted.error,
    )


def show(visit: Visit) -> Response:
    wanted = failure_filter(visit.query)
    with visit.read() as connection:
        count = failure_queries.count_failures(connection, wanted)
        groups = failure_queries.group_failures(connection, wanted, limit=PAGE_ROWS)
        jobs = []
        if wanted.error is not None:
            found = list_job_ids(connection, jobs_with(wanted), limit=PAGE_ROWS)
            jobs = job_rows(connection, found)
    return visit.page(
        "failures.html",
        groups=groups,
        count=count,
        most=LATEST,
        jobs=jobs,
        is_filtered=wanted != FailureFilter(),
    )
