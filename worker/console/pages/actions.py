"""Ask before something changes: how many inputs it concerns, and that they are billed again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from starlette.responses import Response

from worker.console.pages.failures import failure_filter
from worker.console.pages.jobs import job_filter
from worker.console.parameters import MAX_INTEGER, Parameters
from worker.console.problems import PageProblem
from worker.console.visit import Visit
from worker.errors import NotPossible, UnknownJob
from worker.store import failure_queries, input_queries, job_commands, job_list_queries, pauses

MAX_JOBS = 500  # in one action
SHOWN_JOBS = 20
MATCHING = ("jobs", "failures")


@dataclass(frozen=True, slots=True)
class Selection:
    """What an action concerns: jobs with their numbers of inputs, or one input.

    `is_cut`: more jobs match than one action may change.
    """

    counts: Mapping[UUID, int]
    item_index: int | None = None
    reason: str | None = None
    everything: bool = False
    is_cut: bool = False

    @property
    def inputs(self) -> int:
        return sum(self.counts.values())


Counter = Callable[[sa.Connection, list[UUID]], dict[UUID, int]]


def preview_retry(visit: Visit) -> Response:
    everything = visit.query.choice("everything", ("yes",)) is not None
    item_index, reason = visit.query.integer("item"), visit.query.text("reason")

    def count(connection: sa.Connection, job_ids: list[UUID]) -> dict[UUID, int]:
        if item_index is not None:
            return _count_one(connection, job_ids, item_index)
        if everything:
            return job_commands.count_ended(connection, job_ids)
        return job_commands.count_failed(connection, job_ids, error=reason)

    job_ids, counts, is_cut = _select(visit, count)
    selection = Selection(counts, item_index, reason, everything, is_cut)
    return _preview(visit, "retry", selection, len(job_ids))


def preview_cancel(visit: Visit) -> Response:
    job_ids, counts, is_cut = _select(visit, job_commands.count_open)
    return _preview(visit, "cancel", Selection(counts, is_cut=is_cut), len(job_ids))


def retry(visit: Visit) -> Response:
    form = visit.form
    everything = form.choice("everything", ("yes",)) is not None
    item_index, reason = form.integer("item"), form.text("reason")

    def act(job_id: UUID) -> dict[str, int]:
        inputs = visit.admin.retry(
            job_id, everything=everything, item_index=item_index, error=reason
        )
        return {"inputs": inputs}

    return _act_on_each(visit, "retry", act, item_index=item_index)


def cancel(visit: Visit) -> Response:
    return _act_on_each(visit, "cancel", visit.admin.cancel)


def ask_pause(visit: Visit) -> Response:
    return visit.page("pause.html", judge_id=visit.query.text("judge"))


def pause(visit: Visit) -> Response:
    visit.admin.pause(visit.form.text("judge"), reason=visit.form.text("reason"))
    return visit.redirect(visit.links.to(done="pause"))


def ask_resume(visit: Visit) -> Response:
    judge_id = visit.query.text("judge")
    with visit.read() as connection:
        found = [one for one in pauses.list_pauses(connection) if one.judge_id == judge_id]
    if not found:
        raise PageProblem(409, "There is no such pause.", "Somebody may have resumed already.")
    return visit.page("resume.html", pause=found[0])


def resume(visit: Visit) -> Response:
    visit.admin.resume(visit.form.text("judge"))
    return visit.redirect(visit.links.to(done="resume"))


def _select(visit: Visit, count: Counter) -> tuple[list[UUID], dict[UUID, int], bool]:
    """Return the jobs that were ticked, or all that match, with the inputs that it concerns."""
    with visit.read() as connection:
        job_ids = _job_ids(connection, visit.query)
        counts = count(connection, job_ids[:MAX_JOBS])
    return job_ids[:MAX_JOBS], counts, len(job_ids) > MAX_JOBS


def _job_ids(connection: sa.Connection, query: Parameters) -> list[UUID]:
    """Return the jobs, and one more than an action may change if there are so many."""
    match query.choice("matching", MATCHING):
        case "jobs":
            return job_list_queries.list_job_ids(connection, job_filter(query), limit=MAX_JOBS + 1)
        case "failures":
            wanted = failure_filter(query)
            found = failure_queries.failed_by_job(connection, wanted, limit=MAX_JOBS + 1)
            return [job_id for job_id, _ in found]
    job_ids = query.uuids("job")
    if not job_ids:
        raise PageProblem(400, "No job is chosen.", "Go back, and tick at least one.")
    return job_ids


def _count_one(connection: sa.Connection, job_ids: list[UUID], item_index: int) -> dict[UUID, int]:
    found = input_queries.detail_of(connection, job_ids[0], item_index)
    return {} if found is None or found.finished_at is None else {job_ids[0]: 1}


def _preview(visit: Visit, action: str, selection: Selection, jobs: int) -> Response:
    if not selection.inputs:
        nothing = "to cancel" if action == "cancel" else "to evaluate again"
        raise PageProblem(409, f"There is nothing {nothing} here.", "It may have happened already.")
    return visit.page(
        "confirm.html",
        action=action,
        selection=selection,
        chosen=jobs,
        shown=list(selection.counts.items())[:SHOWN_JOBS],
        most=MAX_JOBS,
        back=_back(visit, selection),
    )


def _back(visit: Visit, selection: Selection) -> str:
    """Return the page to go to for somebody who changes their mind."""
    if len(selection.counts) == 1:
        return visit.links.to("jobs", next(iter(selection.counts)))
    return visit.links.to("failures" if visit.query.text("matching") == "failures" else "jobs")


def _act_on_each(
    visit: Visit,
    action: str,
    act: Callable[[UUID], Mapping[str, int]],
    *,
    item_index: int | None = None,
) -> Response:
    """Act on each job that the preview showed, in a transaction each, and go on to the result."""
    job_ids = visit.form.uuids("job")[:MAX_JOBS]
    if not job_ids:
        raise PageProblem(400, "No job is chosen.", "Go back, and tick at least one.")
    totals: dict[str, int] = {}
    refused = 0
    for job_id in job_ids:
        try:
            numbers = act(job_id)
        except (NotPossible, UnknownJob):
            if len(job_ids) == 1:
                raise
            refused += 1
            continue
        for name, number in numbers.items():
            totals[name] = min(totals.get(name, 0) + number, MAX_INTEGER)
    outcome = {"done": action, "jobs": len(job_ids) - refused, "refused": refused, **totals}
    if len(job_ids) > 1:
        return visit.redirect(visit.links.to("jobs", **outcome))
    where = ("inputs", item_index) if item_index is not None else ()
    return visit.redirect(visit.links.to("jobs", job_ids[0], *where, **outcome))
