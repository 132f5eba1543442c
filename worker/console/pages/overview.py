"""Show what needs a person, then the work of each judge, then the latest jobs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.responses import Response

from worker.admin import judge_states
from worker.console.job_rows import job_rows
from worker.console.visit import Visit
from worker.domain.lifecycle import BatchState
from worker.store import batch_queries, job_list_queries, job_queries, pauses
from worker.store.job_list_queries import JobFilter

SHARED_SECONDS = 2.0  # however many people load the page
LATEST_JOBS = 10
SHOWN = 10  # of a kind of trouble


def show(visit: Visit) -> Response:
    # Open pages share a read as long as their own interval: ten cost no more than one.
    seconds = (visit.is_refresh and visit.refresh_seconds()) or SHARED_SECONDS
    view = visit.reader.share("overview", lambda: _read(visit), seconds=seconds)
    return visit.page("overview.html", **view)


def _read(visit: Visit) -> dict[str, Any]:
    with visit.read() as connection:
        paused = list(pauses.list_pauses(connection))
        gates = job_queries.closed_gates(connection)
        failed_notices = job_queries.failed_notices(connection, SHOWN)
        latest = job_rows(
            connection, job_list_queries.list_job_ids(connection, JobFilter(), limit=LATEST_JOBS)
        )
        judges = judge_states(connection)
        held = batch_queries.list_batches(connection, states=[BatchState.HELD], limit=SHOWN)
    return {
        "paused": paused,
        "gates": gates,
        "held": held,
        "failed_notices": failed_notices,
        "judges": [_judge(judge) for judge in judges],
        "is_calm": not (paused or gates or held or failed_notices),
        "latest": latest,
        "everything_paused": any(pause.judge_id is None for pause in paused),
    }


def _judge(judge: dict[str, Any]) -> dict[str, Any]:
    """Add how many inputs are left, and when they end if it goes on like this."""
    left, rate = judge["waiting"] + judge["in_flight"], judge["per_minute"]
    minutes = left / rate if left and rate and not judge["paused"] else None
    ends_at = None if minutes is None else datetime.now(UTC) + timedelta(minutes=minutes)
    return {**judge, "left": left, "seconds_left": minutes and minutes * 60, "ends_at": ends_at}
