"""Read the items of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from worker.domain.lifecycle import Status
from worker.events import Event
from worker.store.rows import select_rows
from worker.store.tables import item_is_in_batch, item_is_in_flight, items
from worker.store.transaction import Transaction
from worker.wire.inputs import COLUMN_FIELDS


class OpenItem(NamedTuple):
    """An item of a live batch that has not ended, without its texts."""

    job_id: UUID
    item_index: int
    batch_index: int
    attempts: int


class BatchItem(NamedTuple):
    """An item of a batch, which may be cancelled, with the input that is sent for it if read."""

    job_id: UUID
    item_index: int
    batch_index: int
    attempts: int
    is_cancelled: bool
    input: Any = MappingProxyType({})  # in the API's shape, unless plain SQL wrote something else


def open_items(tx: Transaction, batch_id: UUID) -> list[OpenItem]:
    """Return the items of a batch that have not ended, by their index in it."""
    return [OpenItem._make(row) for row in tx.execute(_OPEN_ITEMS, {"of_batch": batch_id})]


_OPEN_ITEMS = (
    select_rows(OpenItem, items)
    .where(items.c.batch_id == sa.bindparam("of_batch"), item_is_in_flight)
    .order_by(items.c.batch_index)
)


def batch_items(tx: Transaction, batch_id: UUID, *, with_inputs: bool = True) -> list[BatchItem]:
    """Return the items of a batch by their index in it, cancelled ones included."""
    # All rows at once and by position: to fetch each by itself, or to look up each value by its
    # name, takes longer than the query.
    given = {"of_batch": batch_id}
    if not with_inputs:
        return [BatchItem(*row) for row in tx.execute(_BATCH_ITEMS, given).all()]
    return _with_inputs(tx.execute(_BATCH_ITEMS_WITH_INPUTS, given).all())


def items_to_submit(tx: Transaction, batch_id: UUID, count: int) -> list[BatchItem]:
    """Return the items of a batch, like `batch_items`, and record that it is about to be sent."""
    return _with_inputs(
        tx.execute_recording(
            _BATCH_ITEMS_WITH_INPUTS,
            {"of_batch": batch_id},
            Event.BATCH_SUBMITTING,
            batch_id=batch_id,
            items=count,
        )
    )


def _with_inputs(rows: Sequence[sa.Row[Any]]) -> list[BatchItem]:
    return [BatchItem._make((*row[:_OWN_WIDTH], _input_of(*row[_OWN_WIDTH:]))) for row in rows]


_OWN_COLUMNS = (
    *(items.c[name] for name in ("job_id", "item_index", "batch_index", "attempts")),
    (items.c.status == Status.CANCELLED).label("is_cancelled"),
)
_OWN_WIDTH = len(_OWN_COLUMNS)
_BATCH_ITEMS = (
    sa.select(*_OWN_COLUMNS)
    .where(
        items.c.batch_id == sa.bindparam("of_batch"),
        item_is_in_batch,
        items.c.batch_index.isnot(None),
    )
    .order_by(items.c.batch_index)
)
# Not `metadata`, which stays here.
_BATCH_ITEMS_WITH_INPUTS = _BATCH_ITEMS.add_columns(
    items.c.extra, *(items.c[name] for name in COLUMN_FIELDS)
)


def _input_of(extra: Any, *values: Any) -> Any:
    """Return an item in the API's shape; a column that is NULL is left out."""
    columns = zip(COLUMN_FIELDS, values, strict=True)
    value = {name: part for name, part in columns if part is not None}
    if extra is None:
        return value
    return {**extra, **value} if isinstance(extra, dict) else extra
