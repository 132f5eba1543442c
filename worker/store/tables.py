"""Define the tables, with a comment at each column. `migrations/` creates them; a test compares.

Producers write `eval_jobs` and `eval_items`; the worker writes everything else. People read the
views (see `views`). Two kinds of column guard the work:

- `due_at`: from when on a row may be worked on. NULL on a job means that none of its items waits;
  on a batch, that it has ended or is on hold. While a batch is claimed, it is the end of the lease.
- `epoch`: counts the claims of a batch. It is a fencing token: a claim writes only while it is
  unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Column, Integer, Table, Text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from worker.domain.lifecycle import ENDED, LIVE_STATES, BatchState, NoticeState, Status
from worker.store.column_types import Id, Json, UtcTime
from worker.store.sql_functions import among


class _lane_key(FunctionElement[str]):  # noqa: N801 (reads as a SQL function)
    """A short key of judge, version and tags: items with the same key may share a batch."""

    type = Text()
    inherit_cache = True


@compiles(_lane_key, "postgresql")
def _lane_on_postgresql(element: _lane_key, compiler: Any, **kw: Any) -> str:  # noqa: ARG001
    return "md5((judge_id || chr(31)) || (COALESCE(judge_version_id, '') || chr(31)) || tags::text)"


@compiles(_lane_key, "sqlite")
def _lane_on_sqlite(element: _lane_key, compiler: Any, **kw: Any) -> str:  # noqa: ARG001
    return "judge_id || char(31) || coalesce(judge_version_id, '') || char(31) || tags"


def _in(column: str, values: Iterable[str]) -> str:
    words = ", ".join(f"'{value}'" for value in sorted(values))
    return f"{column} IN ({words})"


def _counter(name: str, comment: str) -> Column[int]:
    return Column(name, Integer, nullable=False, server_default=_DEFAULT, comment=comment)


def _partial_index(
    name: str, *columns: sa.ColumnElement[Any], where: sa.ColumnElement[bool], unique: bool = False
) -> None:
    sa.Index(name, *columns, unique=unique, postgresql_where=where, sqlite_where=where)


_DEFAULT = sa.FetchedValue()  # only the migrations say which default

metadata = sa.MetaData()

# One column is one entry; formatted, each would take seven lines.
# fmt: off

jobs = Table(
    "eval_jobs",
    metadata,
    Column("id", Id, primary_key=True, server_default=_DEFAULT,
        comment="UUIDv7 by default; a producer may choose the id itself."),
    Column("judge_id", Text, nullable=False,
        comment="By the producer: the judge that evaluates all inputs of this job."),
    Column("judge_version_id", Text,
        comment="By the producer: a version of the judge; NULL: the latest."),
    Column("tags", Json, nullable=False, server_default=_DEFAULT,
        comment="By the producer: JSON array of strings, passed on to the judge API."),
    Column("idempotency_key", Text, unique=True,
        comment="By the producer: only one job can have this key."),
    Column("priority", Integer, nullable=False, server_default=_DEFAULT,
        comment="By the producer: higher goes first."),
    Column("metadata", Json,
        comment="The producer's own JSON; the views show it, and it is sent nowhere."),
    Column("created_at", UtcTime, nullable=False, server_default=_DEFAULT,
        comment="When the row was written."),
    Column("status", Text, nullable=False, server_default=_DEFAULT,
        comment="pending; processing since one of its inputs was planned; then completed, failed "
        "(nothing could be evaluated) or cancelled."),
    Column("due_at", UtcTime, server_default=_DEFAULT,
        comment="By the worker: from when on its inputs may be planned; NULL: none waits."),
    Column("started_at", UtcTime,
        comment="By the worker: when its first input was put into a batch."),
    Column("finished_at", UtcTime, comment="By the worker: when its last input ended."),
    Column("error", Text, comment="By the worker: why the job failed."),
    Column("owner", Text,
        comment="By the gateway: the name of the key that submitted it; NULL: a producer's job."),
    Column("callback_url", Text,
        comment="By the producer: the URL that gets a webhook when the job ends; NULL: none."),
    Column("lane", Text, sa.Computed(_lane_key(), persisted=True),
        comment="Generated from judge, version and tags: inputs of one lane may share a batch."),
    Column("trace_context", Text,
        comment="By the producer: the span that enqueued it, as W3C traceparent."),
    Column("content_digest", Text,
        comment="By `enqueue` and eval_enqueue, if there is an idempotency_key: a digest of judge, "
        "version, tags and inputs, by which a repeated key is compared."),
    Column("enqueued_by", Text, server_default=_DEFAULT,
        comment="On PostgreSQL: the role that inserted it, by default; on SQLite: NULL."),
    sa.CheckConstraint(_in("status", Status), "eval_jobs_status"),
    sa.CheckConstraint(f"({_in('status', ENDED)}) = (finished_at IS NOT NULL)", "eval_jobs_ended"),
    comment="The outbox: one row per job, written by its producer in its own transaction.",
)
_partial_index(
    "eval_jobs_due", jobs.c.lane, jobs.c.priority.desc(), jobs.c.id,
    where=jobs.c.due_at.isnot(None),
    unique=True,  # as the id is unique; SQLite then needs no sort
)
_partial_index("eval_jobs_owned", jobs.c.owner, jobs.c.id, where=jobs.c.owner.isnot(None))

items = Table(
    "eval_items",
    metadata,
    Column("job_id", Id, sa.ForeignKey("eval_jobs.id", ondelete="CASCADE"), primary_key=True,
        comment="Its job."),
    Column("item_index", Integer, primary_key=True, autoincrement=False,
        comment="By the producer: its index in the job, from 0."),
    Column("request", Text, comment="By the producer: what was asked."),
    Column("response", Text, comment="By the producer: what is to be evaluated."),
    Column("contexts", Json,
        comment="By the producer: JSON array of texts that the response should rest on."),
    Column("functions", Json,
        comment="By the producer: JSON array of the functions that could be called."),
    Column("expected_output", Text, comment="By the producer: what the response should have been."),
    Column("extra", Json,
        comment="By the producer: JSON object of further input fields, passed on verbatim."),
    Column("status", Text, nullable=False, server_default=_DEFAULT,
        comment="pending: waits for a batch; processing: in a live batch; completed, failed or "
        "cancelled: ended."),
    Column("due_at", UtcTime, nullable=False, server_default=_DEFAULT,
        comment="From when on it may be put into a batch; after a failure, the time of its retry."),
    _counter("attempts",
        "By the worker: the number of attempts that ended, with or without success; `evalworker "
        "retry` resets it."),
    Column("error", Text,
        comment="By the worker: why its last attempt failed, in the API's words if there are any."),
    Column("batch_id", Id, comment="By the worker: its latest batch."),
    Column("batch_index", Integer,
        comment="By the worker: its index in that batch, by which the API identifies it."),
    Column("execution_log_id", Text,
        comment="By the worker: the API's id of the evaluation's log."),
    Column("finished_at", UtcTime, comment="By the worker: when it ended."),
    Column("metadata", Json,
        comment="By the producer: JSON of its own about this input, such as an id; the views show "
        "it, and it is sent nowhere."),
    sa.CheckConstraint(_in("status", Status), "eval_items_status"),
    sa.CheckConstraint(f"({_in('status', ENDED)}) = (finished_at IS NOT NULL)", "eval_items_ended"),
    comment="The outbox: one row per input of a job.",
)
# Conditions on items. SQLite uses a partial index only in a statement that contains its condition
# to the letter, so queries use these.
item_is_live = among(items.c.status, (Status.PENDING, Status.PROCESSING))
item_is_waiting = sa.and_(item_is_live, items.c.status == sa.literal_column("'pending'"))
item_is_in_batch = sa.and_(
    among(items.c.status, (Status.PROCESSING, Status.CANCELLED)), items.c.batch_id.isnot(None)
)
item_is_in_flight = sa.and_(item_is_in_batch, items.c.status == sa.literal_column("'processing'"))
item_is_failed = items.c.status == sa.literal_column("'failed'")
_partial_index("eval_items_live", items.c.job_id, items.c.item_index, where=item_is_live)
_partial_index(
    "eval_items_in_flight", items.c.batch_id, items.c.batch_index, where=item_is_in_batch
)

_partial_index("eval_items_failed", items.c.job_id, items.c.item_index, where=item_is_failed)

batches = Table(
    "eval_batches",
    metadata,
    Column("id", Id, primary_key=True, comment="UUIDv7."),
    Column("judge_id", Text, nullable=False, comment="The judge of all its inputs."),
    Column("judge_version_id", Text, comment="The version that was requested; NULL: the latest."),
    Column("tags", Json, nullable=False, comment="JSON array of the tags of its jobs."),
    Column("state", Text, nullable=False,
        comment="planned, submitting, unknown or submitted: live; finished, refused or lost: "
        "ended; held: on hold until a person runs `evalworker resolve`."),
    Column("due_at", UtcTime,
        comment="From when on it may be claimed; while it is claimed, the end of the lease; NULL:"
        " it has ended or is on hold."),
    _counter("epoch",
        "Counts its claims; a claim writes only while this is unchanged (a fencing token)."),
    Column("lease_holder", Text,
        comment="The process that claimed it last; NULL: the outcome of that claim is recorded."),
    _counter("claims", "Consecutive claims without a recorded outcome: their holders died."),
    _counter("failures", "Consecutive requests without a usable response."),
    Column("nudged_at", UtcTime,
        comment="When its message was sent again because the batch was overdue."),
    Column("gate", Text, comment="The row of eval_gates, or the pause, that it waits for."),
    Column("own_tag", Text, comment="The tag that identifies its latest submission."),
    Column("item_count", Integer, nullable=False, comment="Inputs that were, or will be, sent."),
    Column("completed_count", Integer,
        comment="Inputs that the API evaluated; NULL until it is finished."),
    Column("failed_count", Integer,
        comment="Inputs that the API did not evaluate; NULL until it is finished."),
    Column("remote_batch_id", Text, unique=True,
        comment="The API's batch_execution_id; NULL until it is known."),
    Column("remote_status", Text, comment="The API's latest status of it."),
    Column("status_url", Text, comment="The URL of its status, as the API returned it."),
    Column("ran_judge_version_id", Text,
        comment="The version of the judge that ran, as the API returned it."),
    _counter("submissions", "The number of POST requests that were begun."),
    _counter("looks", "Consecutive searches of the API's list that did not find it."),
    _counter("polls", "The number of polls that were begun."),
    _counter("doubts",
        "Submissions that may have been evaluated although nothing shows it; each counts as an "
        "attempt."),
    Column("server_error", Text,
        comment="The 5xx response to its latest submission, in the API's words; NULL: none."),
    Column("server_error_at", UtcTime,
        comment="When its first submission with such a response was begun, or when it was split "
        "from a batch that had one."),
    Column("error", Text, comment="The last error, or why it ended as it did."),
    Column("created_at", UtcTime, nullable=False, comment="When it was planned."),
    Column("submitting_at", UtcTime, comment="When its latest submission was begun."),
    Column("submitted_at", UtcTime, comment="When the API's id was recorded."),
    Column("finished_at", UtcTime, comment="When it ended."),
    sa.CheckConstraint(_in("state", BatchState), "eval_batches_state"),
    sa.CheckConstraint(f"({_in('state', LIVE_STATES)}) = (due_at IS NOT NULL)", "eval_batches_due"),
    comment="The worker's: one row per batch execution, from its planning to its end.",
)
batch_is_live = batches.c.due_at.isnot(None)
batch_is_unclaimed = batches.c.lease_holder.is_(None)
_partial_index("eval_batches_live", batches.c.due_at, where=batch_is_live)
batch_is_held = batches.c.state == sa.literal_column("'held'")
_partial_index("eval_batches_held", batches.c.id, where=batch_is_held)

evaluator_results = Table(
    "eval_evaluator_results",
    metadata,
    Column("job_id", Id, primary_key=True, comment="The job of the input."),
    Column("item_index", Integer, primary_key=True, autoincrement=False,
        comment="The input's index in the job."),
    Column("position", Integer, primary_key=True, autoincrement=False,
        comment="The index of the result in the API's response, from 0."),
    Column("evaluator_name", Text, nullable=False, comment="The evaluator's name, from the API."),
    Column("score", sa.Double,
        comment="NULL: the evaluator gave no score, or none that is a finite number (see extra)."),
    Column("justification", Text, comment="The evaluator's reason."),
    Column("evaluator_id", Text, comment="The API's id of the evaluator; NULL on older servers."),
    Column("evaluator_version_id", Text,
        comment="The version of the evaluator; NULL on older servers."),
    Column("confidence", sa.Double, comment="The evaluator's confidence; NULL on older servers."),
    Column("extra", Json,
        comment="JSON object of what the API sent and these columns cannot hold."),
    sa.ForeignKeyConstraint(
        ["job_id", "item_index"],
        ["eval_items.job_id", "eval_items.item_index"],
        ondelete="CASCADE",
    ),
    comment="The worker's: one row per input and evaluator, from the input's last evaluation.",
)

job_scores = Table(
    "eval_job_scores",
    metadata,
    Column("job_id", Id, sa.ForeignKey("eval_jobs.id", ondelete="CASCADE"), primary_key=True,
        comment="A job that has ended."),
    Column("position", Integer, primary_key=True, autoincrement=False,
        comment="The number of this row within its job, from 1."),
    Column("evaluator_name", Text, nullable=False, comment="The evaluator's name, from the API."),
    Column("judge_version_id", Text,
        comment="The version that ran; where the API did not say, the requested one."),
    Column("scored", sa.BigInteger, nullable=False, comment="Results with a score."),
    Column("unscored", sa.BigInteger, nullable=False, comment="Results without a score."),
    Column("sum", sa.Double,
        comment="The sum of the scores; NULL: there are none, or one is too large to be added."),
    Column("sum_of_squares", sa.Double, comment="The sum of their squares; NULL: as above."),
    Column("least", sa.Double, comment="The lowest score."),
    Column("most", sa.Double, comment="The highest score."),
    Column("bins", Json,
        comment="JSON array of ten counts: the scores from 0.0 up to 0.1, from 0.1 up to 0.2, …, "
        "and from 0.9 to 1.0; NULL: there are no scores, or not all are from 0 to 1."),
    comment="The worker's: the scores of each ended job in sums, one row per evaluator and judge "
    "version.",
)

notices = Table(
    "eval_notices",
    metadata,
    Column("id", Id, primary_key=True,
        comment="UUIDv7, sent as webhook-id; repeated deliveries have the same."),
    Column("job_id", Id, sa.ForeignKey("eval_jobs.id", ondelete="CASCADE"), nullable=False,
        comment="The job that ended."),
    Column("url", Text, nullable=False,
        comment="Where it is sent: the job's callback_url when it ended."),
    Column("payload", Json, nullable=False, comment="The JSON that is sent."),
    Column("state", Text, nullable=False,
        comment="waiting; then sent (the receiver has it) or failed."),
    Column("due_at", UtcTime,
        comment="From when on it may be sent; while it is claimed, the end of the lease; NULL: it"
        " was sent or has failed."),
    _counter("epoch",
        "Counts its claims; a claim writes only while this is unchanged (a fencing token)."),
    Column("lease_holder", Text,
        comment="The process that claimed it last; NULL: the outcome of that claim is recorded."),
    _counter("attempts", "The number of deliveries that were begun."),
    Column("nudged_at", UtcTime, comment="When a message for it was last sent."),
    Column("error", Text, comment="Why the last attempt failed."),
    Column("created_at", UtcTime, nullable=False, comment="When the job ended."),
    Column("finished_at", UtcTime, comment="When it was received or given up."),
    sa.CheckConstraint(_in("state", NoticeState), "eval_notices_state"),
    sa.CheckConstraint(
        f"({_in('state', [NoticeState.WAITING])}) = (due_at IS NOT NULL)", "eval_notices_due"
    ),
    comment="The worker's: one row per webhook, written each time a job with a callback_url ends.",
)
_partial_index("eval_notices_live", notices.c.due_at, where=notices.c.due_at.isnot(None))
sa.Index("eval_notices_of_job", notices.c.job_id)

gates = Table(
    "eval_gates",
    metadata,
    Column("scope", Text, primary_key=True, comment="api, api:submit, api:status or judge:<id>."),
    Column("opens_at", UtcTime, nullable=False,
        comment="No request is sent before this; the first one after it is the probe."),
    Column("probing_until", UtcTime, comment="Until then only the probe may send requests."),
    Column("failures", Integer, nullable=False, comment="Consecutive failures."),
    Column("reason", Text, nullable=False, comment="The latest failure, in the API's words."),
    Column("closed_at", UtcTime,
        comment="Since when it stops work; NULL: it is open and only counts failures."),
    Column("refused_at", UtcTime, comment="When a request was last refused since it closed."),
    comment="The worker's: one row per part of the API that has failed lately.",
)

pauses = Table(
    "eval_pauses",
    metadata,
    Column("judge_id", Text, primary_key=True,
        comment="The judge that is paused; empty: every judge."),
    Column("reason", Text, nullable=False, comment="The reason that was given for it."),
    Column("paused_at", UtcTime, nullable=False, comment="When it was paused."),
    comment="The worker's: one row per pause; only a person begins and ends one.",
)

pace = Table(
    "eval_pace",
    metadata,
    Column("scope", Text, primary_key=True, comment="Always api: the whole of it."),
    Column("watch_due_at", UtcTime, comment="When its list of batches is read next."),
    Column("in_flight_limit", sa.Double,
        comment="How many batches ran concurrently when it refused one more; NULL: "
        "EVALWORKER_MAX_IN_FLIGHT applies."),
    Column("limited_at", UtcTime, comment="When it refused that batch."),
    comment="The worker's: what all replicas know of the API's capacity.",
)

replicas = Table(
    "eval_replicas",
    metadata,
    Column("holder", Text, primary_key=True,
        comment="The process, as in lease_holder: host, process id and a random word."),
    Column("started_at", UtcTime, nullable=False, comment="When it first wrote this row."),
    Column("expires_at", UtcTime, nullable=False,
        comment="When it counts as dead unless it writes again."),
    Column("key_refused_at", UtcTime,
        comment="Since when the API refuses its key; NULL: it does not, as far as is known."),
    Column("key_error", Text, comment="The refusal, in the API's words."),
    Column("send_failed_at", UtcTime,
        comment="Since when the broker takes no messages from it; NULL: it takes them."),
    Column("send_error", Text, comment="Why not, in the broker's words."),
    comment="The worker's: one row per replica that lives.",
)

events = Table(
    "eval_events",
    metadata,
    Column("id", sa.BigInteger().with_variant(Integer, "sqlite"), primary_key=True,
        comment="Increases over time, except between concurrent transactions."),
    Column("at", UtcTime, nullable=False, comment="When it happened."),
    Column("event", Text, nullable=False, comment="What happened; see the events below."),
    Column("job_id", Id, comment="The job; NULL: see batch_id or detail."),
    Column("item_index", Integer, comment="The input of the job; NULL: the whole job, or a batch."),
    Column("batch_id", Id, comment="The batch."),
    Column("detail", Json, comment="JSON object: reasons, counts, seconds."),
    comment="The append-only history: what happened to jobs, inputs and batches.",
)
sa.Index("eval_events_of_job", events.c.job_id, events.c.id)
sa.Index("eval_events_of_batch", events.c.batch_id, events.c.id)
