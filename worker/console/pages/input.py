"""Show one input: its texts, what each evaluator said, and what happened to it."""

from __future__ import annotations

import sqlalchemy as sa
from starlette.responses import PlainTextResponse, Response

from worker.console.event_rows import event_views
from worker.console.input_selection import NAMES, input_filter
from worker.console.problems import not_found
from worker.console.reader import EXTRA_SECONDS
from worker.console.text_views import (
    TITLES,
    VIEWS,
    PageBudget,
    context_views,
    result_views,
    text_views,
    views_for,
)
from worker.console.visit import Visit
from worker.domain.lifecycle import ENDED
from worker.errors import TooSlow
from worker.store import event_queries, input_queries, job_queries
from worker.store.event_queries import EventFilter
from worker.store.input_queries import InputDetail, InputFilter, SameRequest

EVENTS = 30
SAME_REQUESTS = 10
VALUES = {"functions": "Functions", "extra": "Other fields", "metadata": "Metadata"}


def show(visit: Visit) -> Response:
    job_id, index = visit.job_id(), visit.item_index()
    view = visit.query.choice("view", VIEWS, "text")
    wanted = input_filter(job_id, visit.query)
    with visit.read() as connection:
        job = job_queries.progress_of(connection, job_id)
        given = _detail(connection, visit)
        results = input_queries.results_of(connection, job_id, index)
        previous, following = _neighbours(connection, wanted, index)
        history = event_queries.list_events(
            connection, EventFilter(job_id=job_id, item_index=index), limit=EVENTS
        )
    names = visit.query.as_dict()
    context = {name: names[name] for name in (*NAMES, "view") if name in names}
    same, same_is_complete = _same_requests(visit, given)
    budget = PageBudget()
    return visit.page(
        "input.html",
        job=job,
        given=given,
        texts=list(text_views(budget, given, view or "text")),
        results=result_views(budget, results),
        values=[
            budget.json_view(name, title, getattr(given, name)) for name, title in VALUES.items()
        ],
        contexts=list(context_views(budget, given.contexts)),
        view=view,
        views=views_for(given),
        context=context,
        previous=previous,
        following=following,
        history=event_views(history),
        same=same,
        same_is_complete=same_is_complete,
        has_ended=given.status in ENDED,
    )


def raw(visit: Visit) -> Response:
    """Return one text as it is; browsers save it as plain text and run nothing."""
    name = visit.path["text"]
    with visit.read() as connection:
        given = _detail(connection, visit)
    if name not in TITLES or (text := getattr(given, name)) is None:
        raise not_found("such text")
    filename = f"{visit.path['job_id']}-{given.item_index}-{name}.txt"
    return PlainTextResponse(
        text.encode("utf-8", "replace"),
        headers={"Content-Disposition": f'attachment; filename="{filename}"'},
    )


def _detail(connection: sa.Connection, visit: Visit) -> InputDetail:
    found = input_queries.detail_of(connection, visit.job_id(), visit.item_index())
    if found is None:
        raise not_found("such input in this job")
    return found


def _neighbours(
    connection: sa.Connection, wanted: InputFilter, index: int
) -> tuple[int | None, int | None]:
    """Return the inputs before and after this one in the list that the reader came from."""
    position = input_queries.position_of(connection, wanted, index)
    if position is None:
        return None, None
    before = input_queries.list_positions(connection, wanted, before=position, limit=1)
    after = input_queries.list_positions(connection, wanted, after=position, limit=1)
    return (before[0].item_index if before else None, after[0].item_index if after else None)


def _same_requests(visit: Visit, given: InputDetail) -> tuple[list[SameRequest], bool]:
    """Look for the request in other jobs, for as long as a page can do without it."""
    if not given.request:
        return [], True
    try:
        with visit.read(EXTRA_SECONDS) as connection:
            found = input_queries.same_requests(
                connection, visit.job_id(), given.request, limit=SAME_REQUESTS
            )
    except TooSlow:
        return [], False
    return found, True
