"""Ask before something changes: how many inputs it concerns, and that they are billed again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple
from uuid import UUID

import sqlalchemy as sa
from starlette.responses import Response

from worker.console.pages.failures import failure_filter, jobs_with
from worker.console.pages.jobs import job_filter
from worker.console.parameters import MAX_INTEGER, Parameters
from worker.console.problems import PageProblem
from worker.console.visit import Visit
from worker.errors import NotPossible, UnknownJob
from worker.store import input_queries, job_list_queries, pauses
from worker.store.affected_inputs import Affected, count_inputs

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


class Retried(NamedTuple):
    """What of a job to evaluate again: one input, everything, or what failed for a reason or any.

    Its fields are parameters of `Admin.retry`.
    """

    item_index: int | None = None
    everything: bool = False
    error: str | None = None

    @classmethod
    def read(cls, given: Parameters) -> Retried:
        """Read it from the query of the page that asks, and from its form: the same of both."""
        if (item_index := given.integer("item")) is not None:
            return cls(item_index)
        if given.choice("everything", ("yes",)):
            return cls(everything=True)
        return cls(error=given.text("reason"))


def preview_retry(visit: Visit) -> Response:
    wanted = Retried.read(visit.query)
    affected = Affected.ENDED if wanted.everything else Affected.FAILED
    with visit.read() as connection:
        job_ids = _job_ids(connection, visit.query, affected)
        chosen = job_ids[:MAX_JOBS]
        if wanted.item_index is not None:
            counts = _count_one(connection, chosen, wanted.item_index)
        else:
            counts = count_inputs(connection, chosen, affected, error=wanted.error)
    is_cut = len(job_ids) > MAX_JOBS
    selection = Selection(counts, wanted.item_index, wanted.error, wanted.everything, is_cut)
    return _preview(visit, "retry", selection)


def preview_cancel(visit: Visit) -> Response:
    with visit.read() as connection:
        job_ids = _job_ids(connection, visit.query, Affected.OPEN)
        counts = count_inputs(connection, job_ids[:MAX_JOBS], Affected.OPEN)
    return _preview(visit, "cancel", Selection(counts, is_cut=len(job_ids) > MAX_JOBS))


def retry(visit: Visit) -> Response:
    wanted = Retried.read(visit.form)

    def act(job_id: UUID) -> dict[str, int]:
        return {"inputs": visit.admin.retry(job_id, **wanted._asdict())}

    return _act_on_each(visit, "retry", act, item_index=wanted.item_index)


def cancel(visit: Visit) -> Response:
    return _act_on_each(visit, "cancel", visit.admin.cancel)


def ask_pause(visit: Visit) -> Response:
    return visit.page("pause.html", judge_id=visit.query.text("judge"))


def pause(visit: Visit) -> Response:
    visit.admin.pause(visit.form.text("judge"), reason=visit.form.text("reason"))
    return visit.redirect(visit.links.to(), done="pause")


def ask_resume(visit: Visit) -> Response:
    judge_id = visit.query.text("judge")
    with visit.read() as connection:
        found = [one for one in pauses.list_pauses(connection) if one.judge_id == judge_id]
    if not found:
        raise PageProblem(409, "There is no such pause.", "Somebody may have resumed already.")
    return visit.page("resume.html", pause=found[0])


def resume(visit: Visit) -> Response:
    visit.admin.resume(visit.form.text("judge"))
    return visit.redirect(visit.links.to(), done="resume")


def _job_ids(connection: sa.Connection, query: Parameters, affected: Affected) -> list[UUID]:
    """Return the jobs that were ticked, or all that match, and in which something would change.

    Of many, it returns one more than an action may change.
    """
    match query.choice("matching", MATCHING):
        case "jobs":
            wanted = replace(job_filter(query), affected=affected)
        case "failures":
            wanted = jobs_with(failure_filter(query))
        case _:
            return _ticked(query)
    return job_list_queries.list_job_ids(connection, wanted, limit=MAX_JOBS + 1)


def _ticked(given: Parameters) -> list[UUID]:
    job_ids = given.uuids("job")
    if not job_ids:
        raise PageProblem(400, "No job is chosen.", "Go back, and tick at least one.")
    return job_ids


def _count_one(connection: sa.Connection, job_ids: list[UUID], item_index: int) -> dict[UUID, int]:
    found = input_queries.detail_of(connection, job_ids[0], item_index)
    return {} if found is None or found.finished_at is None else {job_ids[0]: 1}


def _preview(visit: Visit, action: str, selection: Selection) -> Response:
    if not selection.inputs:
        nothing = "to cancel" if action == "cancel" else "to evaluate again"
        raise PageProblem(409, f"There is nothing {nothing} here.", "It may have happened already.")
    return visit.page(
        "confirm.html",
        action=action,
        selection=selection,
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
    job_ids = _ticked(visit.form)[:MAX_JOBS]
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
        return visit.redirect(visit.links.to("jobs"), **outcome)
    where = ("inputs", item_index) if item_index is not None else ()
    return visit.redirect(visit.links.to("jobs", job_ids[0], *where), **outcome)
