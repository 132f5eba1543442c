"""Group failures by reason and judge, and list the jobs that have them."""

from __future__ import annotations

from uuid import UUID

from starlette.responses import Response

from worker.console.job_rows import job_rows
from worker.console.limits import PAGE_ROWS
from worker.console.parameters import Parameters
from worker.console.visit import Visit
from worker.store import failure_queries
from worker.store.failure_queries import LATEST, FailureFilter


def failure_filter(parameters: Parameters) -> FailureFilter:
    """Read the filter from a query or a form; raises `PageProblem`."""
    return FailureFilter(
        judge_id=parameters.text("judge"),
        error=parameters.text("reason"),
        since=parameters.moment("since"),
        until=parameters.moment("until"),
    )


def show(visit: Visit) -> Response:
    wanted = failure_filter(visit.query)
    with visit.read() as connection:
        count = failure_queries.count_failures(connection, wanted)
        groups = failure_queries.group_failures(connection, wanted, limit=PAGE_ROWS)
        per_job: dict[UUID, int] = {}
        jobs = []
        if wanted.error is not None:
            per_job = dict(failure_queries.failed_by_job(connection, wanted, limit=PAGE_ROWS))
            jobs = job_rows(connection, list(per_job))
    return visit.page(
        "failures.html",
        groups=groups,
        count=count,
        most=LATEST,
        jobs=jobs,
        per_job=per_job,
        is_filtered=wanted != FailureFilter(),
    )
