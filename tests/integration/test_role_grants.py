"""Each role can do its part and no more, and grants can be repeated and taken away."""

from __future__ import annotations

import contextlib

import psycopg
import pytest

from tests.support.database_logins import CALL, JOB, OTHER, PUT_A_JOB, PUT_AN_INPUT, SECRETS, Logins
from worker.config import load_settings
from worker.errors import ConfigurationError, EvalWorkerError
from worker.store.database import Database
from worker.store.migrate import downgrade, grant_roles, upgrade

CAN = [
    ("producer", "insert a job by plain SQL", PUT_A_JOB),
    ("producer", "insert a job and be told its id", f"{PUT_A_JOB} RETURNING id"),
    ("producer", "insert a job that gets its id from the database",
     "INSERT INTO eval_jobs (judge_id) VALUES ('judge')"),
    ("producer", "say when a job was made",
     "INSERT INTO eval_jobs (judge_id, created_at) VALUES ('judge', now())"),
    ("producer", "insert a job and its input by plain SQL", f"{PUT_A_JOB}; {PUT_AN_INPUT}"),
    ("producer", "name whom to tell",
     "INSERT INTO eval_jobs (judge_id, callback_url) VALUES ('judge', 'https://example.com')"),
    ("producer", "call the function", f"{CALL})"),
    ("producer", "call the function with a new key", f"{CALL}, idempotency_key => 'new')"),
    ("producer", "call the function twice with a key",
     f"{CALL}, idempotency_key => 'n'); {CALL}, idempotency_key => 'n')"),
    ("producer", "see ids and keys of its jobs", "SELECT id, idempotency_key FROM eval_jobs"),
    ("producer", "take a key that begins with a word of its own and a slash",
     "INSERT INTO eval_jobs (judge_id, idempotency_key) VALUES ('j', 'orders/17')"),
    ("reader", "read how far jobs are", "SELECT * FROM eval_job_progress"),
    ("reader", "read results of inputs", "SELECT * FROM eval_item_results"),
    ("reader", "read scores", "SELECT * FROM eval_scores"),
    ("reader", "read who was told", "SELECT * FROM eval_job_notices"),
    ("reader", "listen for the ends of jobs", "LISTEN eval_job_finished"),
    ("reader_without_texts", "count and average scores",
     "SELECT evaluator_name, count(*), avg(score) FROM eval_scores GROUP BY 1"),
    ("reader_without_texts", "read the sums of scores", "SELECT * FROM eval_score_summary"),
    ("reader_without_texts", "read which inputs failed",
     "SELECT job_id, item_index, status, attempts, finished_at FROM eval_item_results"),
    ("reader_without_texts", "read how far jobs are, and find them by metadata",
     "SELECT job_id, status, total, completed FROM eval_job_progress WHERE metadata ? 'order'"),
    ("worker", "read every table and view", "SELECT * FROM eval_items, eval_events, eval_scores"),
    ("worker", "take rows of jobs and inputs",
     "SELECT 1 FROM eval_jobs, eval_items FOR UPDATE SKIP LOCKED"),
    ("worker", "write what happened",
     "INSERT INTO eval_events (at, event) VALUES (now(), 'batch.planned')"),
    ("worker", "replace results", "DELETE FROM eval_evaluator_results"),
    ("worker", "take sums of scores back", "DELETE FROM eval_job_scores"),
    ("worker", "send messages",
     "INSERT INTO eval_dramatiq.queue (message_id) VALUES (gen_random_uuid())"),
]  # fmt: skip

CANNOT = [
    ("producer", "read the inputs of a job", "SELECT request FROM eval_items"),
    ("producer", "be told what it inserted of an input",
     f"{PUT_A_JOB}; {PUT_AN_INPUT} RETURNING request"),
    ("producer", "read what others' jobs carry", "SELECT metadata FROM eval_jobs"),
    ("producer", "read which judge others use", "SELECT judge_id FROM eval_jobs"),
    ("producer", "read how far jobs are", "SELECT * FROM eval_job_progress"),
    ("producer", "read results of inputs", "SELECT * FROM eval_item_results"),
    ("producer", "read scores", "SELECT * FROM eval_scores"),
    ("producer", "read the history", "SELECT * FROM eval_events"),
    ("producer", "read batches", "SELECT * FROM eval_batches"),
    ("producer", "change a job", "UPDATE eval_jobs SET priority = 9"),
    ("producer", "overwrite a job by its key",
     "INSERT INTO eval_jobs (judge_id, idempotency_key) VALUES ('j', 'order-17')"
     " ON CONFLICT (idempotency_key) DO UPDATE SET judge_id = 'mine'"),
    ("producer", "change an input", "UPDATE eval_items SET request = 'other'"),
    ("producer", "delete a job", "DELETE FROM eval_jobs"),
    ("producer", "delete an input", "DELETE FROM eval_items"),
    ("producer", "empty the outbox", "TRUNCATE eval_jobs CASCADE"),
    ("producer", "lock a job", "SELECT id FROM eval_jobs FOR UPDATE"),
    ("producer", "insert a job that has ended",
     "INSERT INTO eval_jobs (judge_id, status, finished_at) VALUES ('j', 'completed', now())"),
    ("producer", "insert a job that nobody would plan",
     "INSERT INTO eval_jobs (judge_id, due_at) VALUES ('j', NULL)"),
    ("producer", "insert a job in another's name",
     "INSERT INTO eval_jobs (judge_id, owner) VALUES ('j', 'team-a')"),
    ("producer", "insert an input with a result",
     "INSERT INTO eval_items (job_id, item_index, status, finished_at)"
     f" VALUES ('{JOB}', 5, 'completed', now())"),
    ("producer", "put an input into a batch",
     f"INSERT INTO eval_items (job_id, item_index, batch_id) VALUES ('{JOB}', 5, '{OTHER}')"),
    ("producer", "insert a score",
     "INSERT INTO eval_evaluator_results (job_id, item_index, position, evaluator_name)"
     f" VALUES ('{JOB}', 0, 1, 'mine')"),
    ("producer", "insert a batch",
     "INSERT INTO eval_batches (id, judge_id, tags, state, item_count, created_at)"
     f" VALUES ('{OTHER}', 'j', '[]', 'held', 1, now())"),
    ("producer", "write into the history",
     "INSERT INTO eval_events (at, event) VALUES (now(), 'job.completed')"),
    ("producer", "open a gate", "DELETE FROM eval_gates"),
    ("producer", "read where notices go", "SELECT callback_url FROM eval_jobs"),
    ("producer", "have a notice of its own sent",
     "INSERT INTO eval_notices (id, job_id, url, payload, state, due_at, created_at)"
     f" VALUES ('{OTHER}', '{JOB}', 'https://example.com', '{{}}', 'waiting', now(), now())"),
    ("producer", "see messages", "SELECT * FROM eval_dramatiq.queue"),
    ("producer", "send a message",
     "INSERT INTO eval_dramatiq.queue (message_id) VALUES (gen_random_uuid())"),
    ("producer", "set the number of the schema", "UPDATE eval_alembic_version SET version_num = 1"),
    ("producer", "create a table", "CREATE TABLE eval_mine (id integer)"),
    ("producer", "replace the function",
     "CREATE OR REPLACE FUNCTION eval_uuid7() RETURNS uuid LANGUAGE sql AS 'SELECT NULL::uuid'"),
    ("producer", "read tables that are not ours", "SELECT * FROM orders"),
    ("reader", "read the tables of inputs", "SELECT * FROM eval_items"),
    ("reader", "read the table of jobs", "SELECT * FROM eval_jobs"),
    ("reader", "read batches", "SELECT * FROM eval_batches"),
    ("reader", "read the history", "SELECT * FROM eval_events"),
    ("reader", "read the table of results", "SELECT * FROM eval_evaluator_results"),
    ("reader", "read the table of sums", "SELECT * FROM eval_job_scores"),
    ("producer", "read the sums of scores", "SELECT * FROM eval_score_summary"),
    ("reader", "insert a job", PUT_A_JOB),
    ("reader", "call the function", f"{CALL})"),
    ("reader", "cancel a job", "UPDATE eval_jobs SET status = 'cancelled', finished_at = now()"),
    ("reader", "delete anything", "DELETE FROM eval_items"),
    ("reader", "read where notices go", "SELECT url FROM eval_notices"),
    ("reader", "see messages", "SELECT * FROM eval_dramatiq.queue"),
    ("reader", "drop a view", "DROP VIEW eval_scores"),
    ("reader", "create a table", "CREATE TABLE eval_mine (id integer)"),
    ("reader_without_texts", "read a request", "SELECT request FROM eval_item_results"),
    ("reader_without_texts", "read a response", "SELECT response FROM eval_item_results"),
    ("reader_without_texts", "read what was expected",
     "SELECT expected_output FROM eval_item_results"),
    ("reader_without_texts", "read an input's error", "SELECT error FROM eval_item_results"),
    ("reader_without_texts", "read a job's error", "SELECT error FROM eval_job_progress"),
    ("reader_without_texts", "read a justification", "SELECT justification FROM eval_scores"),
    ("reader_without_texts", "find texts by a condition",
     "SELECT job_id FROM eval_item_results WHERE request LIKE 'a%'"),
    ("reader_without_texts", "read whole rows", "SELECT * FROM eval_item_results"),
    ("reader_without_texts", "read whole rows as JSON",
     "SELECT to_jsonb(r) FROM eval_item_results r"),
    ("reader_without_texts", "read the tables behind", "SELECT request FROM eval_items"),
    ("worker", "delete a job", "DELETE FROM eval_jobs"),
    ("worker", "delete an input", "DELETE FROM eval_items"),
    ("worker", "delete a batch", "DELETE FROM eval_batches"),
    ("worker", "rewrite the history", "UPDATE eval_events SET event = 'job.failed'"),
    ("worker", "delete a notice", "DELETE FROM eval_notices"),
    ("worker", "forget the history", "DELETE FROM eval_events"),
    ("worker", "empty a table", "TRUNCATE eval_gates"),
    ("worker", "add a column", "ALTER TABLE eval_jobs ADD COLUMN mine integer"),
    ("worker", "drop a table", "DROP TABLE eval_gates"),
    ("worker", "drop an index", "DROP INDEX eval_jobs_due"),
    ("worker", "create a table", "CREATE TABLE eval_mine (id integer)"),
    ("worker", "create a schema", "CREATE SCHEMA mine"),
    ("worker", "add to the broker's schema", "CREATE TABLE eval_dramatiq.mine (id integer)"),
    ("worker", "replace the trigger",
     "CREATE OR REPLACE TRIGGER eval_jobs_notify AFTER INSERT ON eval_jobs"
     " FOR EACH STATEMENT EXECUTE FUNCTION eval_notify()"),
    ("worker", "set the number of the schema", "UPDATE eval_alembic_version SET version_num = 1"),
    ("worker", "read tables that are not ours", "SELECT * FROM orders"),
]  # fmt: skip


def sentences(cases: list[tuple[str, str, str]], verb: str) -> list[str]:
    return [f"the {role} {verb} {what}".replace("_", " ") for role, what, _ in cases]


@pytest.mark.parametrize(("role", "what", "statement"), CAN, ids=sentences(CAN, "can"))
def test_each_role_can_do_its_part(standing: Logins, role: str, what: str, statement: str) -> None:
    standing.attempt(role, statement)


@pytest.mark.parametrize(("role", "what", "statement"), CANNOT, ids=sentences(CANNOT, "cannot"))
def test_no_role_can_do_more(standing: Logins, role: str, what: str, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        standing.attempt(role, statement)
    with psycopg.connect(standing.url) as owner:  # nothing else is wrong with it
        owner.execute(statement.encode())
        owner.rollback()


def test_what_the_worker_grants_to_others_has_no_effect(logins: Logins) -> None:
    logins.run("worker", "GRANT SELECT ON eval_jobs TO PUBLIC")  # a warning, no error
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        logins.run("reader", "SELECT * FROM eval_jobs")


def test_the_texts_are_there_for_those_who_may_read_them(logins: Logins) -> None:
    """Otherwise the refusals above would show nothing."""
    (row,) = logins.run(
        "reader", "SELECT request, response, expected_output FROM eval_item_results"
    )
    (verdict,) = logins.run("reader", "SELECT justification FROM eval_scores")
    assert (*row, *verdict) == SECRETS


def test_granting_again_takes_away_what_is_granted_no_more(logins: Logins) -> None:
    with psycopg.connect(logins.url) as owner:
        owner.execute("GRANT DELETE, UPDATE (priority) ON eval_jobs TO evalworker_producer")
    logins.run("producer", "UPDATE eval_jobs SET priority = 1")
    with logins.owning() as database:
        grant_roles(database)
    for statement in ("UPDATE eval_jobs SET priority = 2", "DELETE FROM eval_jobs"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            logins.run("producer", statement)
    logins.run("producer", PUT_A_JOB)


def test_the_schema_can_be_dropped_while_roles_have_rights_on_it(logins: Logins) -> None:
    with logins.owning() as database:
        downgrade(database)
        upgrade(database)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            logins.run("reader", "SELECT * FROM eval_scores")
        grant_roles(database)
    assert logins.run("reader", "SELECT * FROM eval_scores") == []


def test_whoever_may_not_make_roles_is_told_what_is_missing(logins: Logins) -> None:
    database = Database(load_settings(database_url=logins.of("worker")).sqlalchemy_url)
    with contextlib.closing(database), pytest.raises(EvalWorkerError, match="owner of the tables"):
        grant_roles(database)


def test_on_sqlite_there_are_no_roles(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    with contextlib.closing(database), pytest.raises(ConfigurationError, match="SQLite"):
        grant_roles(database)
