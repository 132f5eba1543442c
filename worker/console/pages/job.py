"""Show one job: its scores, its failures, its worst inputs, its batches, and what it waits for."""

from __future__ import annotations

from uuid import UUID

import sqlalchemy as sa
from starlette.responses import Response

from worker.console.evaluator_rows import BarLink, evaluator_views
from worker.console.input_rows import InputTable, input_table
from worker.console.job_rows import JobRow
from worker.console.links import Links
from worker.console.pages.compare import pairing_of
from worker.console.reader import EXTRA_SECONDS
from worker.console.report import render_report
from worker.console.text_views import PageBudget
from worker.console.visit import Visit
from worker.domain.lifecycle import BatchState
from worker.domain.score_summary import Bin, ScoreSummary
from worker.errors import TooSlow
from worker.store import batch_queries, input_queries, job_list_queries, job_queries, pauses
from worker.store.input_queries import InputFilter, Order
from worker.store.job_queries import JobProgress

WORST = 10
REASONS = 10
BATCHES = 10


def show(visit: Visit) -> Response:
    job_id, cluster = visit.job_id(), visit.query.text("cluster")
    with visit.read() as connection:
        job = job_queries.progress_of(connection, job_id)
        evaluators = evaluator_views(
            connection, job_id, cluster=cluster, link=_bar_links(visit.links, job_id)
        )
        reasons = input_queries.reasons_of(connection, job_id, limit=REASONS)
        worst = _worst(connection, job_id)
        batches = batch_queries.list_batches(
            connection, states=list(BatchState), job_id=job_id, limit=BATCHES
        )
        notices = job_queries.notices_of(connection, job_id)
        waits = [] if job.finished_at else obstacles(connection, job)
    return visit.page(
        "job.html",
        job=job,
        row=JobRow(job, ()),
        evaluators=evaluators,
        cluster=cluster,
        reasons=reasons,
        worst=worst,
        batches=batches,
        notices=notices,
        waits=waits,
        metadata=PageBudget().json_view("metadata", "Metadata", job.metadata),
        previous_id=_previous(visit, job_id),
    )


def report(visit: Visit) -> Response:
    """Return one file that loads nothing, as `evalworker report` writes it."""
    job_id, against = visit.job_id(), visit.query.uuid("against")
    with visit.read() as connection:
        html = render_report(
            connection,
            job_id,
            against,
            pairing=pairing_of(visit.query),
            cluster=visit.query.text("cluster"),
        )
    return Response(
        html.encode("utf-8", "replace"),
        media_type="text/html",
        headers={"Content-Disposition": f'attachment; filename="report-{job_id}.html"'},
    )


def _bar_links(links: Links, job_id: UUID) -> BarLink:
    """Let each bar lead to the inputs that it stands for."""

    def link(summary: ScoreSummary, one: Bin) -> str:
        end = {"max": one.high} if one is summary.bins[-1] else {"below": one.high}
        name = summary.evaluator_name
        return links.to("jobs", job_id, "inputs", evaluator=name, min=one.low, **end, sort="worst")

    return link


def _worst(connection: sa.Connection, job_id: UUID) -> InputTable:
    wanted = InputFilter(job_id, order=Order.WORST)
    positions = input_queries.list_positions(connection, wanted, limit=WORST)
    return input_table(connection, job_id, positions)


def _previous(visit: Visit, job_id: UUID) -> UUID | None:
    """Return the job to compare with; None also where looking for it takes too long."""
    try:
        with visit.read(EXTRA_SECONDS) as connection:
            return job_list_queries.previous_job(connection, job_id)
    except TooSlow:
        return None


def obstacles(connection: sa.Connection, job: JobProgress) -> list[str]:
    """Say in sentences why a job has not ended."""
    found = []
    for pause in pauses.list_pauses(connection):
        if pause.judge_id in (None, job.judge_id):
            what = "Every judge" if pause.judge_id is None else f"Judge {pause.judge_id}"
            found.append(f"{what} is paused: {pause.reason}")
    scopes = ("api", "api:submit", "api:status", f"judge:{job.judge_id}")
    found += [
        f"The judge API refuses requests: {gate.reason}"
        for gate in job_queries.closed_gates(connection)
        if gate.scope in scopes
    ]
    held = batch_queries.list_batches(
        connection, states=[BatchState.HELD], job_id=job.job_id, limit=100
    )
    if held:
        found.append(f"{len(held)} of its batches are on hold until a person decides.")
    if job.in_flight:
        found.append(f"{job.in_flight:,} of its inputs are in a batch that has not ended.")
    if job.waiting and not found:
        found.append(
            f"{job.waiting:,} of its inputs wait for their turn. If this lasts, see whether a "
            "worker runs."
        )
    return found
