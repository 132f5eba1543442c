"""The tables, as SQLAlchemy sees them; `migrations/` creates them, and a test proves both equal.

Producers write `eval_jobs` and `eval_items`; every other table and column is the worker's. People
read the views (`eval_job_progress`, `eval_item_results`, `eval_scores`, `eval_job_notices`), which
only migrations define. Two kinds of time rule the work:

- `due_at`: from when on somebody may act on this row. NULL on a job means that none of its items
  waits; on a batch, that it has ended. While a batch is claimed, it is the end of the lease.
- `epoch`: counts the claims of a batch. Whoever claimed it writes only while it still stands.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from worker.domain.lifecycle import ENDED, LIVE_STATES, BatchState, NoticeState, Status
from worker.store.column_types import Id, Json, UtcTime
from worker.store.sql_functions import among
from worker.store.views import TABLES

# --- Types: one Python value, stored in each database's own best form --------------------------


# --- Expressions that the two databases spell differently --------------------------------------


class _LaneOf(FunctionElement[str]):
    """Judge, version and tags in one short key: items of one lane may share a batch."""

    type = sa.Text()
    inherit_cache = True


@compiles(_LaneOf, "postgresql")
def _lane_on_postgresql(element: _LaneOf, compiler: Any, **kw: Any) -> str:  # noqa: ARG001
    return "md5((judge_id || chr(31)) || (COALESCE(judge_version_id, '') || chr(31)) || tags::text)"


@compiles(_LaneOf, "sqlite")
def _lane_on_sqlite(element: _LaneOf, compiler: Any, **kw: Any) -> str:  # noqa: ARG001
    return "judge_id || char(31) || coalesce(judge_version_id, '') || char(31) || tags"


def _in(column: str, values: Iterable[str]) -> str:
    words = ", ".join(f"'{value}'" for value in sorted(values))
    return f"{column} IN ({words})"


# --- Tables -------------------------------------------------------------------------------------
# Server defaults are spelled out in the migrations alone: here it is enough that there is one.

_DEFAULT = sa.FetchedValue()

metadata = sa.MetaData()

jobs = sa.Table(
    "eval_jobs",
    metadata,
    sa.Column("id", Id, primary_key=True, server_default=_DEFAULT),
    sa.Column("judge_id", sa.Text, nullable=False),
    sa.Column("judge_version_id", sa.Text),
    sa.Column("tags", Json, nullable=False, server_default=_DEFAULT),
    sa.Column("idempotency_key", sa.Text, unique=True),
    sa.Column("priority", sa.Integer, nullable=False, server_default=_DEFAULT),
    sa.Column("metadata", Json),
    sa.Column("created_at", UtcTime, nullable=False, server_default=_DEFAULT),
    sa.Column("status", sa.Text, nullable=False, server_default=_DEFAULT),
    sa.Column("due_at", UtcTime, server_default=_DEFAULT),
    sa.Column("started_at", UtcTime),
    sa.Column("finished_at", UtcTime),
    sa.Column("error", sa.Text),
    sa.Column("owner", sa.Text),  # by the gateway: whose key submitted it
    sa.Column("callback_url", sa.Text),  # by the producer: whom to tell of the job's end
    sa.Column("lane", sa.Text, sa.Computed(_LaneOf(), persisted=True)),
    sa.Column("trace_context", sa.Text),  # by the producer: its span, as W3C `traceparent`
    sa.CheckConstraint(_in("status", Status), "eval_jobs_status"),
    sa.CheckConstraint(f"({_in('status', ENDED)}) = (finished_at IS NOT NULL)", "eval_jobs_ended"),
)
sa.Index(
    "eval_jobs_due",
    jobs.c.lane,
    jobs.c.priority.desc(),
    jobs.c.id,
    unique=True,  # the id is; SQLite then knows that a job comes once, and sorts nothing
    postgresql_where=jobs.c.due_at.isnot(None),
    sqlite_where=jobs.c.due_at.isnot(None),
)
sa.Index(
    "eval_jobs_owned",
    jobs.c.owner,
    jobs.c.id,
    postgresql_where=jobs.c.owner.isnot(None),
    sqlite_where=jobs.c.owner.isnot(None),
)

items = sa.Table(
    "eval_items",
    metadata,
    sa.Column("job_id", Id, sa.ForeignKey("eval_jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("item_index", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("request", sa.Text),
    sa.Column("response", sa.Text),
    sa.Column("contexts", Json),
    sa.Column("functions", Json),
    sa.Column("expected_output", sa.Text),
    sa.Column("extra", Json),
    sa.Column("status", sa.Text, nullable=False, server_default=_DEFAULT),
    sa.Column("due_at", UtcTime, nullable=False, server_default=_DEFAULT),
    sa.Column("attempts", sa.Integer, nullable=False, server_default=_DEFAULT),
    sa.Column("error", sa.Text),
    sa.Column("batch_id", Id),
    sa.Column("batch_index", sa.Integer),
    sa.Column("execution_log_id", sa.Text),
    sa.Column("finished_at", UtcTime),
    sa.CheckConstraint(_in("status", Status), "eval_items_status"),
    sa.CheckConstraint(f"({_in('status', ENDED)}) = (finished_at IS NOT NULL)", "eval_items_ended"),
)
# Conditions on items, spelled as the partial indexes are: SQLite uses one only where its condition
# stands in the statement to the letter.
item_is_live = among(items.c.status, (Status.PENDING, Status.PROCESSING))
item_is_waiting = sa.and_(item_is_live, items.c.status == sa.literal_column("'pending'"))
item_is_in_batch = sa.and_(
    among(items.c.status, (Status.PROCESSING, Status.CANCELLED)), items.c.batch_id.isnot(None)
)
item_is_in_flight = sa.and_(item_is_in_batch, items.c.status == sa.literal_column("'processing'"))
sa.Index(
    "eval_items_live",
    items.c.job_id,
    items.c.item_index,
    postgresql_where=item_is_live,
    sqlite_where=item_is_live,
)
sa.Index(
    "eval_items_in_flight",
    items.c.batch_id,
    items.c.batch_index,
    postgresql_where=item_is_in_batch,
    sqlite_where=item_is_in_batch,
)

batches = sa.Table(
    "eval_batches",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("judge_id", sa.Text, nullable=False),
    sa.Column("judge_version_id", sa.Text),
    sa.Column("tags", Json, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("due_at", UtcTime),
    sa.Column("epoch", sa.Integer, nullable=False, server_default=_DEFAULT),
    sa.Column("lease_holder", sa.Text),
    sa.Column("claims", sa.Integer, nullable=False, server_default=_DEFAULT),
    sa.Column("failures", sa.Integer, nullable=False, server_default=_DEFAULT),
    sa.Column("nudged_at", UtcTime),
    sa.Column("gate", sa.Text),
    sa.Column("own_tag", sa.Text),
    sa.Column("item_count", sa.Integer, nullable=False),
    sa.Column("completed_count", sa.Integer),
    sa.Column("failed_count", sa.Integer),
    sa.Column("remote_batch_id", sa.Text, unique=True),
    sa.Column("remote_status", sa.Text),
    sa.Column("status_url", sa.Text),
    sa.Column("ran_judge_version_id", sa.Text),
    sa.Column("submissions", sa.Integer, nullable=False, server_default=_DEFAULT),
    sa.Column("looks", sa.Integer, nullable=False, server_default=_DEFAULT),
    sa.Column("polls", sa.Integer, nullable=False, server_default=_DEFAULT),
    sa.Column("error", sa.Text),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("submitting_at", UtcTime),
    sa.Column("submitted_at", UtcTime),
    sa.Column("finished_at", UtcTime),
    sa.CheckConstraint(_in("state", BatchState), "eval_batches_state"),
    sa.CheckConstraint(f"({_in('state', LIVE_STATES)}) = (due_at IS NOT NULL)", "eval_batches_due"),
)
sa.Index(
    "eval_batches_live",
    batches.c.due_at,
    postgresql_where=batches.c.due_at.isnot(None),
    sqlite_where=batches.c.due_at.isnot(None),
)
batch_is_held = batches.c.state == sa.literal_column("'held'")
sa.Index(
    "eval_batches_held", batches.c.id, postgresql_where=batch_is_held, sqlite_where=batch_is_held
)

evaluator_results = sa.Table(
    "eval_evaluator_results",
    metadata,
    sa.Column("job_id", Id, primary_key=True),
    sa.Column("item_index", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("evaluator_name", sa.Text, nullable=False),
    sa.Column("score", sa.Double),
    sa.Column("justification", sa.Text),
    sa.Column("evaluator_id", sa.Text),
    sa.Column("evaluator_version_id", sa.Text),
    sa.Column("confidence", sa.Double),
    sa.Column("extra", Json),
    sa.ForeignKeyConstraint(
        ["job_id", "item_index"],
        ["eval_items.job_id", "eval_items.item_index"],
        ondelete="CASCADE",
    ),
)

notices = sa.Table(
    "eval_notices",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("job_id", Id, sa.ForeignKey("eval_jobs.id", ondelete="CASCADE"), nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("payload", Json, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("due_at", UtcTime),
    sa.Column("epoch", sa.Integer, nullable=False, server_default=_DEFAULT),
    sa.Column("lease_holder", sa.Text),
    sa.Column("attempts", sa.Integer, nullable=False, server_default=_DEFAULT),
    sa.Column("nudged_at", UtcTime),
    sa.Column("error", sa.Text),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("finished_at", UtcTime),
    sa.CheckConstraint(_in("state", NoticeState), "eval_notices_state"),
    sa.CheckConstraint(
        f"({_in('state', [NoticeState.WAITING])}) = (due_at IS NOT NULL)", "eval_notices_due"
    ),
)
sa.Index(
    "eval_notices_live",
    notices.c.due_at,
    postgresql_where=notices.c.due_at.isnot(None),
    sqlite_where=notices.c.due_at.isnot(None),
)
sa.Index("eval_notices_of_job", notices.c.job_id)

gates = sa.Table(
    "eval_gates",
    metadata,
    sa.Column("scope", sa.Text, primary_key=True),
    sa.Column("opens_at", UtcTime, nullable=False),
    sa.Column("probing_until", UtcTime),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("closed_at", UtcTime),
    sa.Column("refused_at", UtcTime),  # last, since it was closed
)

pace = sa.Table(
    "eval_pace",
    metadata,
    sa.Column("scope", sa.Text, primary_key=True),  # "api": the whole of it
    sa.Column("watch_due_at", UtcTime),  # when its list is read next
    sa.Column("in_flight_limit", sa.Double),  # batches it let run when it refused one more
    sa.Column("limited_at", UtcTime),
)

events = sa.Table(
    "eval_events",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("job_id", Id),
    sa.Column("item_index", sa.Integer),
    sa.Column("batch_id", Id),
    sa.Column("detail", Json),
)
sa.Index("eval_events_of_job", events.c.job_id, events.c.id)
sa.Index("eval_events_of_batch", events.c.batch_id, events.c.id)

for _table in metadata.sorted_tables:  # a test tells which of them is not explained
    _said = TABLES.get(_table.name, {})
    _table.comment = _said.get("")
    for _column in _table.columns:
        _column.comment = _said.get(_column.name)
