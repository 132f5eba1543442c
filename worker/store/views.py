"""Describe the views that people read, as SQLAlchemy tables; only migrations define them."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Column, Table, Text

from worker.store.column_types import Id, Json, UtcTime

view_metadata = sa.MetaData()

# fmt: off

job_progress = Table(
    "eval_job_progress",
    view_metadata,
    Column("job_id", Id, comment="The job."),
    Column("judge_id", Text, comment="Its judge."),
    Column("judge_version_id", Text, comment="The version that was requested; NULL: the latest."),
    Column("tags", Json, comment="JSON array of its tags."),
    Column("metadata", Json, comment="Its producer's own JSON."),
    Column("status", Text,
        comment="pending, processing, completed, failed (nothing could be evaluated) or "
        "cancelled."),
    Column("total", sa.BigInteger, comment="The number of its inputs."),
    Column("waiting", sa.BigInteger, comment="Inputs that are in no batch."),
    Column("in_flight", sa.BigInteger, comment="Inputs in a live batch."),
    Column("completed", sa.BigInteger, comment="Inputs with results."),
    Column("failed", sa.BigInteger,
        comment="Inputs that ended without results; eval_item_results.error has the reason."),
    Column("cancelled", sa.BigInteger,
        comment="Inputs that were cancelled before there was a result."),
    Column("created_at", UtcTime, comment="When it was enqueued."),
    Column("finished_at", UtcTime, comment="When its last input ended; NULL: not yet."),
    Column("error", Text, comment="Why the job failed."),
    comment="The progress of each job.",
)
item_results = Table(
    "eval_item_results",
    view_metadata,
    Column("job_id", Id, comment="Its job."),
    Column("item_index", sa.Integer, comment="Its index in the job, from 0."),
    Column("status", Text, comment="pending, processing, completed, failed or cancelled."),
    Column("request", Text, comment="What was asked."),
    Column("response", Text, comment="What was evaluated."),
    Column("expected_output", Text, comment="What the response should have been."),
    Column("attempts", sa.Integer,
        comment="The number of attempts that ended, with or without success; `evalworker retry` "
        "resets it."),
    Column("error", Text,
        comment="Why its last attempt failed, in the API's words if there are any."),
    Column("batch_id", Id, comment="Its latest batch."),
    Column("remote_batch_id", Text, comment="The API's batch_execution_id of that batch."),
    Column("execution_log_id", Text, comment="The API's id of the evaluation's log."),
    Column("finished_at", UtcTime, comment="When it ended; NULL: not yet."),
    Column("metadata", Json, comment="Its producer's own JSON about this input."),
    comment="The outcome of each input.",
)
scores = Table(
    "eval_scores",
    view_metadata,
    Column("job_id", Id, comment="The job of the input."),
    Column("item_index", sa.Integer, comment="The input's index in the job."),
    Column("judge_id", Text, comment="The judge."),
    Column("judge_version_id", Text,
        comment="The version that ran; where the API did not say, the requested one."),
    Column("tags", Json, comment="JSON array of the job's tags."),
    Column("evaluator_name", Text, comment="The evaluator's name, from the API."),
    Column("score", sa.Double, comment="NULL: the evaluator gave no score."),
    Column("justification", Text, comment="The evaluator's reason."),
    Column("confidence", sa.Double, comment="The evaluator's confidence; NULL on older servers."),
    Column("finished_at", UtcTime, comment="When the input ended."),
    Column("metadata", Json, comment="The producer's own JSON about the input."),
    comment="The score of each evaluator for each input.",
)

score_summary = Table(
    "eval_score_summary",
    view_metadata,
    Column("job_id", Id, comment="A job that has ended."),
    Column("judge_id", Text, comment="Its judge."),
    Column("judge_version_id", Text,
        comment="The version that ran; where the API did not say, the requested one."),
    Column("tags", Json, comment="JSON array of the job's tags."),
    Column("evaluator_name", Text, comment="The evaluator's name, from the API."),
    Column("scored", sa.BigInteger, comment="Results with a score."),
    Column("unscored", sa.BigInteger, comment="Results without a score."),
    Column("mean", sa.Double, comment="The mean of the scores."),
    Column("sum", sa.Double, comment="Their sum, from which means over several jobs follow."),
    Column("sum_of_squares", sa.Double,
        comment="The sum of their squares, from which standard deviations follow."),
    Column("least", sa.Double, comment="The lowest score."),
    Column("most", sa.Double, comment="The highest score."),
    Column("bins", Json,
        comment="JSON array of ten counts: the scores from 0.0 up to 0.1, from 0.1 up to 0.2, …, "
        "and from 0.9 to 1.0; NULL: there are no scores, or not all are from 0 to 1."),
    Column("finished_at", UtcTime, comment="When the job ended."),
    comment="The scores of each ended job in sums, which are read in no time.",
)

job_notices = Table(
    "eval_job_notices",
    view_metadata,
    Column("job_id", Id, comment="The job."),
    Column("notice_id", Id, comment="The webhook, whose webhook-id this is."),
    Column("state", Text, comment="waiting, sent or failed."),
    Column("attempts", sa.Integer, comment="The number of deliveries that were begun."),
    Column("error", Text, comment="Why the last attempt failed."),
    Column("created_at", UtcTime, comment="When the job ended."),
    Column("finished_at", UtcTime, comment="When it was received or given up; NULL: not yet."),
    comment="The deliveries of webhooks about ended jobs.",
)
