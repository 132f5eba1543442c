"""List jobs by status, judge, tag, metadata and time."""

from __future__ import annotations

from starlette.responses import Response

from worker.console.job_rows import job_rows
from worker.console.limits import MAX_COUNT, PAGE_ROWS, Neighbours
from worker.console.parameters import Parameters
from worker.console.visit import Visit
from worker.domain.lifecycle import Status
from worker.store.job_list_queries import JobFilter, count_jobs, list_job_ids

STATUSES = tuple(Status)
FILTERS = ("status", "judge", "tag", "metadata", "since", "until")


def job_filter(query: Parameters) -> JobFilter:
    """Read the filter from the query; raises `PageProblem`."""
    return JobFilter(
        status=query.choice("status", STATUSES),
        judge_id=query.text("judge"),
        tag=query.text("tag"),
        metadata=query.pair("metadata"),
        since=query.moment("since"),
        until=query.moment("until"),
    )


def show(visit: Visit) -> Response:
    wanted = job_filter(visit.query)
    before, after = visit.query.uuid("before"), visit.query.uuid("after")
    with visit.read() as connection:
        found = list_job_ids(connection, wanted, before=before, after=after, limit=PAGE_ROWS + 1)
        page = Neighbours.of(found, goes_back=after is not None, is_first=before is None)
        rows = job_rows(connection, page.rows)
        count = count_jobs(connection, wanted, limit=MAX_COUNT)
    newer, older = page.links(visit.links, str, back="after", on="before")
    return visit.page(
        "jobs.html",
        rows=rows,
        count=count,
        most=MAX_COUNT,
        is_filtered=wanted != JobFilter(),
        statuses=STATUSES,
        filters={name: visit.query.text(name) for name in FILTERS},
        newer=newer,
        older=older,
    )
