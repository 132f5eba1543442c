"""What every table, view and column means, in one place.

`schema` puts these texts at its tables, `evalworker migrate` into PostgreSQL, where `\\d+` shows
them, and docs/database.md is made from them. Under each relation, its own text has the key "".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

TABLES: Mapping[str, Mapping[str, str]] = {
    "eval_jobs": {
        "": "The outbox: one row per job, written by its producer in its own transaction.",
        "id": "UUIDv7 by default; a producer may bring an id of its own.",
        "judge_id": "By the producer: the judge that evaluates all inputs of this job.",
        "judge_version_id": "By the producer: a version of the judge; NULL: the latest.",
        "tags": "By the producer: JSON array of texts, passed on to the judge API.",
        "idempotency_key": "By the producer: of jobs with the same key there is one.",
        "priority": "By the producer: higher goes first.",
        "metadata": "The producer's own JSON; it comes back in the views and goes nowhere else.",
        "created_at": "When the row was written.",
        "status": "pending; processing since one of its inputs was planned; then completed, "
        "failed (nothing could be evaluated) or cancelled.",
        "due_at": "By the worker: from when on inputs of it may be planned; NULL: none waits.",
        "started_at": "By the worker: when its first input was put into a batch.",
        "finished_at": "By the worker: when its last input ended.",
        "error": "By the worker: why the job failed.",
        "owner": "By the gateway: the name of the key that submitted it; NULL: a producer's job.",
        "trace_context": "By the producer: its place in a trace, as W3C traceparent.",
        "lane": "Generated from judge, version and tags: inputs of one lane may share a batch.",
    },
    "eval_items": {
        "": "The outbox: one row per input of a job.",
        "job_id": "Its job.",
        "item_index": "By the producer: its place in the job, from 0.",
        "request": "By the producer: what was asked.",
        "response": "By the producer: what is to be evaluated.",
        "contexts": "By the producer: JSON array of texts that the response should rest on.",
        "functions": "By the producer: JSON array of the functions that were at hand.",
        "expected_output": "By the producer: what the response should have been.",
        "extra": "By the producer: JSON object of further input fields, passed on verbatim.",
        "status": "pending: waits for a batch; processing: in a live batch; completed, failed, "
        "cancelled: ended.",
        "due_at": "From when on it may be put into a batch; later than now after a failure.",
        "attempts": "By the worker: how many attempts at it have ended, well or not; "
        "`evalworker retry` begins anew.",
        "error": "By the worker: why its last attempt failed, in the API's words where it said.",
        "batch_id": "By the worker: its latest batch.",
        "batch_index": "By the worker: its place in that batch, by which the API identifies it.",
        "execution_log_id": "By the worker: the API's id of the evaluation's log.",
        "finished_at": "By the worker: when it ended.",
    },
    "eval_batches": {
        "": "The worker's: one row per batch execution, from its planning to its end.",
        "id": "UUIDv7.",
        "judge_id": "The judge of all its inputs.",
        "judge_version_id": "The version that was asked for; NULL: the latest.",
        "tags": "JSON array of the tags of its jobs.",
        "state": "planned, submitting, unknown or submitted: live; finished, refused or lost: "
        "ended; held: waits for a person, see `evalworker resolve`.",
        "due_at": "From when on somebody may act on it; while it is claimed, the end of the lease; "
        "NULL: it has ended or is held.",
        "epoch": "Counts its claims: whoever claimed it writes only while this still stands.",
        "lease_holder": "The process that claimed it last; NULL: what it did is recorded.",
        "claims": "Claims in a row of which nothing was recorded: their holders died.",
        "failures": "Requests in a row that told nothing.",
        "nudged_at": "When its message was sent again because it was overdue.",
        "gate": "The row of eval_gates that it waits for.",
        "own_tag": "The tag of its own that its latest submission carried.",
        "item_count": "Inputs that were sent, or are to be.",
        "completed_count": "Inputs that the API evaluated; NULL until it is finished.",
        "failed_count": "Inputs that it did not; NULL until it is finished.",
        "remote_batch_id": "The API's batch_execution_id; NULL until it is known.",
        "remote_status": "The API's latest word on it.",
        "status_url": "Where it is asked for, as the API said.",
        "ran_judge_version_id": "The version of the judge that really ran, as the API said.",
        "submissions": "POSTs that were begun.",
        "looks": "Searches for a lost answer in a row, that found nothing.",
        "polls": "Polls that were begun.",
        "error": "What went wrong last, or why it ended as it did.",
        "created_at": "When it was planned.",
        "submitting_at": "When its latest submission was begun.",
        "submitted_at": "When the API's id was recorded.",
        "finished_at": "When it ended.",
    },
    "eval_evaluator_results": {
        "": "The worker's: one row per input and evaluator, of the input's last evaluation.",
        "job_id": "The job of the input.",
        "item_index": "The input's place in the job.",
        "position": "The result's place in the API's answer, from 0.",
        "evaluator_name": "As the API says it.",
        "score": "NULL: the evaluator gave none, or none that is a finite number (see extra).",
        "justification": "The evaluator's reason.",
        "evaluator_id": "The API's id of the evaluator; NULL on older servers.",
        "evaluator_version_id": "The version of the evaluator; NULL on older servers.",
        "confidence": "The evaluator's own; NULL on older servers.",
        "extra": "JSON object of what the API sent and these columns cannot hold.",
    },
    "eval_gates": {
        "": "The worker's: one row per part of the API that is in trouble; none: all is well.",
        "scope": "api, api:submit, api:status, or judge:<id>.",
        "opens_at": "Nobody asks before this; the first who asks then is the probe.",
        "probing_until": "Until then the probe is the only one that asks.",
        "failures": "Failures in a row.",
        "reason": "The latest failure, in the API's words.",
        "closed_at": "Since when it holds work back; NULL: it counts failures, and holds nobody.",
        "refused_at": "When it was refused last, since it was closed.",
    },
    "eval_pace": {
        "": "The worker's: what all replicas know of the API's pace.",
        "scope": "api: the whole of it.",
        "watch_due_at": "When its list is read next, by whoever comes first.",
        "in_flight_limit": "How many batches it let run at once when it refused one more; NULL: "
        "EVALWORKER_MAX_IN_FLIGHT holds.",
        "limited_at": "When that was.",
    },
    "eval_events": {
        "": "The history, only ever added to: what happened to a job, an input or a batch.",
        "id": "Later events have higher ids, but for those of transactions that ran side by side.",
        "at": "When it happened.",
        "event": "What happened: batch.planned, item.failed, job.completed, gate.closed, …",
        "job_id": "To which job; NULL: see batch_id, or detail.",
        "item_index": "To which input of the job; NULL: to the job as a whole, or to a batch.",
        "batch_id": "To which batch, or in which.",
        "detail": "JSON object: reasons, counts, seconds.",
    },
    "eval_alembic_version": {
        "": "Which migration this database has; the worker starts on its own schema only.",
        "version_num": "The revision.",
    },
}

VIEWS: Mapping[str, Mapping[str, str]] = {
    "eval_job_progress": {
        "": "How far each job is.",
        "job_id": "The job.",
        "judge_id": "Its judge.",
        "judge_version_id": "The version that was asked for; NULL: the latest.",
        "tags": "JSON array of its tags.",
        "metadata": "Its producer's own JSON.",
        "status": "pending, processing, completed, failed (nothing could be evaluated) or "
        "cancelled.",
        "total": "Its inputs.",
        "waiting": "Inputs that are in no batch.",
        "in_flight": "Inputs in a live batch.",
        "completed": "Inputs with results.",
        "failed": "Inputs that ended without; eval_item_results.error says why.",
        "cancelled": "Inputs that were cancelled before there was a result.",
        "created_at": "When it was enqueued.",
        "finished_at": "When its last input ended; NULL: not yet.",
        "error": "Why the job failed.",
    },
    "eval_item_results": {
        "": "What became of each input.",
        "job_id": "Its job.",
        "item_index": "Its place in the job, from 0.",
        "status": "pending, processing, completed, failed or cancelled.",
        "request": "What was asked.",
        "response": "What was evaluated.",
        "expected_output": "What the response should have been.",
        "attempts": "How many attempts at it have ended, well or not; `evalworker retry` begins "
        "anew.",
        "error": "Why its last attempt failed, in the API's words where it said.",
        "batch_id": "Its latest batch.",
        "remote_batch_id": "The API's batch_execution_id of that batch.",
        "execution_log_id": "The API's id of the evaluation's log.",
        "finished_at": "When it ended; NULL: not yet.",
    },
    "eval_scores": {
        "": "What each evaluator said of each input.",
        "job_id": "The job of the input.",
        "item_index": "The input's place in the job.",
        "judge_id": "The judge.",
        "judge_version_id": "The version that ran; where the API did not say, the one asked for.",
        "tags": "JSON array of the job's tags.",
        "evaluator_name": "As the API says it.",
        "score": "NULL: the evaluator gave none.",
        "justification": "The evaluator's reason.",
        "confidence": "The evaluator's own; NULL on older servers.",
        "finished_at": "When the input ended.",
    },
}
