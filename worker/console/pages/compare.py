"""Compare two jobs: is the second one better, and is that more than chance?"""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from starlette.responses import Response

from worker.console.changed_pairs import changed_pairs
from worker.console.comparison_charts import difference_line, largest_reach, outcome_bar
from worker.console.job_rows import job_rows
from worker.console.limits import PAGE_ROWS
from worker.console.parameters import Parameters
from worker.console.problems import PageProblem, invalid_parameter
from worker.console.visit import Visit
from worker.domain.number_format import difference_text, p_text
from worker.domain.pair_key import CHOICES, PairedBy, Pairing
from worker.errors import NotPossible
from worker.store import comparison_queries, job_list_queries
from worker.store.comparison_document import comparison_document
from worker.store.comparison_notes import comparison_notes
from worker.store.comparison_queries import JobPair
from worker.store.job_list_queries import JobFilter

CHANGES = 15  # in each direction
EXPORTED_CHANGES = 1_000  # of each evaluator, in each direction


def show(visit: Visit) -> Response:
    if ticked := visit.query.uuids("job"):
        return _of_ticked(visit, ticked)
    first, second = visit.query.uuid("a"), visit.query.uuid("b")
    if first is None or second is None:
        return _ask(visit, first, second)
    pairing, cluster = pairing_of(visit.query), visit.query.text("cluster")
    form: dict[str, Any] = {
        "first": first,
        "second": second,
        "pairing": pairing,
        "cluster": cluster,
        "choices": tuple(PairedBy),
    }
    jobs = JobPair(first, second, pairing, cluster)
    with visit.read() as connection:
        try:
            found = comparison_queries.compare_jobs(connection, first, second, pairing, cluster)
        except NotPossible as error:
            return visit.page(
                "compare_problem.html", status=409, reason=error, evaluators=(), **form
            )
        notes = comparison_notes(connection, found)
        names = [one.scores.evaluator_name for one in found.evaluators]
        evaluator = visit.query.text("evaluator")
        changes = changed_pairs(
            connection, jobs, limit=CHANGES, evaluator=evaluator if evaluator in names else None
        )
    return visit.page(
        "compare.html",
        found=found,
        notes=notes,
        losses=changes.losses,
        gains=changes.gains,
        evaluators=names,
        reach=largest_reach(list(found.evaluators)),
        difference=difference_text,
        p=p_text,
        difference_line=difference_line,
        outcome_bar=outcome_bar,
        swapped=visit.links.here(a=second, b=first),
        **form,
    )


def export(visit: Visit) -> Response:
    """Return the comparison as `evalworker compare --json` prints it, with more of the changes."""
    first, second = visit.query.uuid("a"), visit.query.uuid("b")
    if first is None or second is None:
        raise PageProblem(400, "The address names no two jobs.", "It needs both a and b.")
    pairing, cluster = pairing_of(visit.query), visit.query.text("cluster")
    with visit.read() as connection:
        found = comparison_queries.compare_jobs(connection, first, second, pairing, cluster)
        document = comparison_document(connection, found, changes=EXPORTED_CHANGES)
    return Response(
        json.dumps(document, ensure_ascii=False, default=str).encode("utf-8", "replace"),
        media_type="application/json",
        headers={"Content-Disposition": 'attachment; filename="comparison.json"'},
    )


def pairing_of(query: Parameters) -> Pairing:
    """Read what pairs inputs: `by`, and the name of the metadata in it or in `key`."""
    by = query.text("by") or PairedBy.INDEX
    if by == PairedBy.METADATA and (key := query.text("key")):
        by = f"{by}:{key}"
    try:
        return Pairing.parse(by)
    except ValueError:
        raise invalid_parameter("by", by, f"one of {CHOICES}") from None


def _of_ticked(visit: Visit, ticked: list[UUID]) -> Response:
    """Go to the comparison of two ticked jobs, the earlier one first."""
    if len(ticked) != 2:
        raise PageProblem(
            400, f"A comparison is of two jobs; {len(ticked)} are ticked.", "Go back, and tick two."
        )
    first, second = sorted(ticked)
    return visit.redirect(visit.links.to("compare", a=first, b=second))


def _ask(visit: Visit, first: UUID | None, second: UUID | None) -> Response:
    with visit.read() as connection:
        latest = job_list_queries.list_job_ids(connection, JobFilter(), limit=PAGE_ROWS)
        rows = job_rows(connection, latest)
    return visit.page("compare_form.html", rows=rows, first=first, second=second)
