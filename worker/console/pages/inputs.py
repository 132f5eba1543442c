"""List the inputs of a job with a column for each evaluator, and export what is filtered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from starlette.responses import Response, StreamingResponse

from worker.console.input_rows import input_table
from worker.console.input_selection import (
    NAMES,
    ORDERS,
    STATUSES,
    input_filter,
    position_at,
    position_text,
)
from worker.console.limits import MAX_COUNT, PAGE_ROWS, Neighbours
from worker.console.problems import not_found
from worker.console.visit import Visit
from worker.export import Format, text_pieces, without_formulas
from worker.store import input_queries, job_queries
from worker.store.input_queries import InputFilter
from worker.store.job_queries import ItemResult

PIECES = 200  # rows or lines that are sent at a time: each time is a turn of a thread
MEDIA_TYPES = {Format.JSONL: "application/x-ndjson", Format.CSV: "text/csv; charset=utf-8"}


def show(visit: Visit) -> Response:
    job_id = visit.job_id()
    wanted = input_filter(job_id, visit.query)
    before, after = position_at(visit.query, "before"), position_at(visit.query, "after")
    with visit.read() as connection:
        job = job_queries.progress_of(connection, job_id)
        positions = input_queries.list_positions(
            connection, wanted, before=before, after=after, limit=PAGE_ROWS + 1
        )
        page = Neighbours.of(positions, goes_back=before is not None, is_first=after is None)
        table = input_table(connection, job_id, page.rows)
        count = input_queries.count_inputs(connection, wanted, limit=MAX_COUNT)
        evaluators = input_queries.evaluators_of(connection, job_id)
    names = visit.query.as_dict()
    context = {name: names[name] for name in NAMES if name in names}
    earlier, later = page.links(visit.links, position_text, back="before", on="after")
    return visit.page(
        "inputs.html",
        job=job,
        table=table,
        count=count,
        most=MAX_COUNT,
        evaluators=evaluators,
        context=context,
        is_filtered=replace(wanted, order=input_queries.Order.INDEX) != InputFilter(job_id),
        statuses=STATUSES,
        orders=ORDERS,
        order=wanted.order,
        earlier=earlier,
        later=later,
    )


def export(visit: Visit) -> Response:
    """Stream what the filter leaves, in the order of inputs, as `evalworker results` writes it."""
    job_id = visit.job_id()
    try:
        form = Format(visit.path["form"])
        media_type = MEDIA_TYPES[form]
    except (ValueError, KeyError):
        raise not_found("such format: only csv and jsonl") from None
    wanted = input_filter(job_id, visit.query)
    with visit.read() as connection:
        job_queries.progress_of(connection, job_id)  # an unknown job is a page, not a file
    results = _results(visit, wanted)
    if visit.query.choice("for", ("spreadsheets",)):
        results = without_formulas(results)
    return StreamingResponse(
        _chunks(text_pieces(results, form)),
        media_type=media_type,
        headers={"Content-Disposition": f'attachment; filename="{job_id}.{form}"'},
    )


def _chunks(pieces: Iterator[str]) -> Iterator[bytes]:
    while chunk := "".join(islice(pieces, PIECES)):
        yield chunk.encode("utf-8", "backslashreplace")


def _results(visit: Visit, wanted: InputFilter) -> Iterator[ItemResult]:
    """Read chunk by chunk, so that no transaction stays open while a slow client downloads."""
    start = 0
    while True:
        with visit.read() as connection:
            chunk = input_queries.export_results(connection, wanted, start=start)
        if not chunk:
            return
        yield from chunk
        start = chunk[-1].item.item_index + 1
