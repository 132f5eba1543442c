"""Who may do what under the roles of least privilege: real logins, real statements."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

import httpx
import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
from tests.support.processes import environment, evalworker
from tests.support.scored_jobs import add_scored_job
from tests.support.servers import free_port
from tests.support.shared_servers import POSTGRES_TEMPLATE
from tests.support.webhook_receiver import SECRET, running_receiver
from tests.support.worker_thread import settings_for
from worker import InvalidInputs, enqueue
from worker.app import App
from worker.config import load_settings
from worker.domain.verdict import Verdict
from worker.errors import ConfigurationError, EvalWorkerError, IdempotencyKeyReused
from worker.gateway.server import serving_gateway
from worker.pipeline.brokers import grant_queue
from worker.sandbox.options import SandboxOptions
from worker.sandbox.server import running_sandbox
from worker.store import batch_commands, job_commands
from worker.store.comparison_queries import compare_jobs
from worker.store.database import Database
from worker.store.migrate import downgrade, grant_roles, upgrade
from worker.store.tables import metadata

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.servers import PostgresServer

QUESTION = {"request": "2 + 2?", "response": "4"}
JOB = "01932f5e-0000-7000-8000-000000000001"
OTHER = "01932f5e-0000-7000-8000-000000000002"
SECRETS = ("a secret request", "a secret response", "a secret answer", "a secret verdict")

PUT_A_JOB = f"INSERT INTO eval_jobs (id, judge_id, tags) VALUES ('{OTHER}', 'judge', '[\"t\"]')"
PUT_AN_INPUT = f"INSERT INTO eval_items (job_id, item_index, request) VALUES ('{OTHER}', 0, 'q')"
CALL = "SELECT eval_enqueue('judge', '[{\"request\": \"q\"}]'"


@dataclass
class Logins:
    """A database whose roles are granted, with a login of this test's own in each."""

    url: str
    suffix: str

    def of(self, role: str) -> str:
        """The URL of the database for the login that is a member of this role."""
        return self.url.replace("postgres@", f"{role}_{self.suffix}@")

    def run(self, role: str, statement: str) -> list[tuple[object, ...]]:
        """One statement under a login, kept where it passes."""
        with psycopg.connect(self.of(role)) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def owning(self) -> contextlib.closing[Database]:
        return contextlib.closing(Database(load_settings(database_url=self.url).sqlalchemy_url))

    def attempt(self, role: str, statement: str) -> None:
        """One statement under a login, undone where it passes."""
        with psycopg.connect(self.of(role)) as connection:
            connection.execute(statement.encode())
            connection.rollback()

    def engine(self, role: str) -> sa.Engine:
        return sa.create_engine(load_settings(database_url=self.of(role)).sqlalchemy_url)


LOGINS = {role: role for role in ("producer", "reader", "reader_without_texts", "worker")}
LOGINS["rival"] = "producer"


@contextlib.contextmanager
def granted(postgres: PostgresServer) -> Iterator[Logins]:
    with postgres.database(POSTGRES_TEMPLATE) as url:
        found = Logins(url, uuid.uuid4().hex[:12])
        with found.owning() as database:
            grant_roles(database)
        grant_queue(url)
        for name, role in LOGINS.items():
            postgres.execute(f"CREATE ROLE {name}_{found.suffix} LOGIN IN ROLE evalworker_{role}")
        with psycopg.connect(url) as owner:
            owner.execute("CREATE TABLE orders (id integer)")  # the producer's service has its own
            a_job_that_ended(owner)
        yield found
    for name in LOGINS:
        postgres.execute(f"DROP ROLE {name}_{found.suffix}")


@pytest.fixture
def logins(postgres: PostgresServer) -> Iterator[Logins]:
    with granted(postgres) as found:
        yield found


@pytest.fixture(scope="module")
def standing(postgres: PostgresServer) -> Iterator[Logins]:
    """For tests that leave nothing behind."""
    with granted(postgres) as found:
        yield found


def a_job_that_ended(owner: psycopg.Connection) -> None:
    request, response, expected, verdict = SECRETS
    owner.execute(
        "INSERT INTO eval_jobs (id, judge_id, idempotency_key, status, finished_at, due_at)"
        f" VALUES ('{JOB}', 'judge', 'order-17', 'completed', now(), NULL)".encode()
    )
    owner.execute(
        "INSERT INTO eval_items (job_id, item_index, request, response, expected_output, status,"
        f" finished_at) VALUES ('{JOB}', 0, '{request}', '{response}', '{expected}', 'completed',"
        " now())".encode()
    )
    owner.execute(
        "INSERT INTO eval_evaluator_results (job_id, item_index, position, evaluator_name, score,"
        f" justification) VALUES ('{JOB}', 0, 0, 'length', 0.5, '{verdict}')".encode()
    )
    owner.execute("INSERT INTO eval_events (at, event) VALUES (now(), 'job.completed')")


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


RIVALS = "01932f5e-0000-7000-8000-00000000000a"
NOBODYS = "01932f5e-0000-7000-8000-00000000000b"
FOREIGN_INPUT = f"INSERT INTO eval_items (job_id, item_index) VALUES ('{RIVALS}', 7)"


@pytest.fixture(scope="module")
def rivalry(standing: Logins) -> Logins:
    """Another producer has a job with an input, and one that has ended, with keys."""
    standing.run(
        "rival",
        "INSERT INTO eval_jobs (id, judge_id, idempotency_key) VALUES"
        f" ('{RIVALS}', 'judge', 'rivals-key'), ('{RIVALS[:-1]}c', 'judge', 'rivals-other-key');"
        f" INSERT INTO eval_items (job_id, item_index, request) VALUES ('{RIVALS}', 0, 'secret')",
    )
    with psycopg.connect(standing.url, autocommit=True) as owner:
        owner.execute("ANALYZE eval_jobs")
    return standing


LOOKS = [
    "SELECT id FROM eval_jobs WHERE id = '{rivals}'",
    "SELECT id FROM eval_jobs WHERE idempotency_key LIKE 'rivals%'",
    "SELECT most_common_vals, histogram_bounds FROM pg_stats WHERE tablename = 'eval_jobs'",
    "CREATE FUNCTION pg_temp.told(text) RETURNS boolean COST 0.0001 LANGUAGE plpgsql AS"
    " $$ BEGIN ASSERT $1 NOT LIKE 'rivals%', 'seen'; RETURN true; END $$;"
    " SELECT id FROM eval_jobs WHERE pg_temp.told(idempotency_key)",
    "INSERT INTO eval_jobs (judge_id, idempotency_key) VALUES ('j', 'rivals-key')"
    " ON CONFLICT DO NOTHING RETURNING id",
    "INSERT INTO eval_jobs (judge_id) SELECT idempotency_key FROM eval_jobs"
    " WHERE idempotency_key LIKE 'rivals%' RETURNING id",
    "SET ROLE evalworker_producer; SELECT id FROM eval_jobs",
    "SET LOCAL session_replication_role = DEFAULT; SELECT id FROM eval_jobs WHERE id = '{rivals}'",
]


@pytest.mark.parametrize("statement", LOOKS)
def test_a_producer_sees_nothing_of_anothers_jobs(rivalry: Logins, statement: str) -> None:
    with psycopg.connect(rivalry.of("producer")) as connection:
        with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
            cursor = connection.execute(statement.format(rivals=RIVALS).encode())
            while cursor.nextset():
                pass
            if cursor.description:
                assert cursor.fetchall() == []
        connection.rollback()


ATTACKS = {
    FOREIGN_INPUT: "ForeignKeyViolation",
    f"{FOREIGN_INPUT} ON CONFLICT DO NOTHING": "ForeignKeyViolation",
    f"INSERT INTO eval_items (job_id, item_index) SELECT '{RIVALS}', generate_series(5, 9)":
        "ForeignKeyViolation",
    f"WITH own AS ({PUT_A_JOB} RETURNING id) INSERT INTO eval_items (job_id, item_index)"
    f" SELECT id, 0 FROM own UNION ALL SELECT '{RIVALS}', 8": "ForeignKeyViolation",
    "CREATE TEMP TABLE eval_jobs (id uuid, enqueued_by text);"
    f" INSERT INTO eval_jobs VALUES ('{RIVALS}', current_user); {FOREIGN_INPUT}":
        "ForeignKeyViolation",
    "SET search_path = pg_temp, public; CREATE TEMP TABLE eval_jobs (id uuid, enqueued_by text);"
    f" INSERT INTO eval_jobs VALUES ('{RIVALS}', current_user); {FOREIGN_INPUT}":
        "ForeignKeyViolation",
    f"SET CONSTRAINTS ALL DEFERRED; {FOREIGN_INPUT}": "ForeignKeyViolation",
    f"SET row_security = off; {FOREIGN_INPUT}": "InsufficientPrivilege",
    "SET row_security = off; SELECT id FROM eval_jobs": "InsufficientPrivilege",
    "ALTER TABLE eval_items DISABLE TRIGGER USER": "InsufficientPrivilege",
    "SET session_replication_role = replica": "InsufficientPrivilege",
    f"UPDATE eval_jobs SET content_digest = 'x' WHERE id = '{RIVALS}'": "InsufficientPrivilege",
    f"UPDATE eval_items SET request = 'x' WHERE job_id = '{RIVALS}'": "InsufficientPrivilege",
    f"DELETE FROM eval_items WHERE job_id = '{RIVALS}'": "InsufficientPrivilege",
    f"SELECT id FROM eval_jobs WHERE id = '{RIVALS}' FOR KEY SHARE": "InsufficientPrivilege",
    "INSERT INTO eval_jobs (judge_id, idempotency_key) VALUES ('j', 'rivals-key')"
    " ON CONFLICT (idempotency_key) DO UPDATE SET judge_id = 'mine'": "InsufficientPrivilege",
    f"INSERT INTO eval_jobs (id, judge_id) VALUES ('{RIVALS}', 'j')"
    " ON CONFLICT (id) DO UPDATE SET priority = 9": "InsufficientPrivilege",
    "MERGE INTO eval_jobs j USING (VALUES (1)) v ON j.idempotency_key = 'rivals-key'"
    " WHEN MATCHED THEN DELETE": "InsufficientPrivilege",
    "INSERT INTO eval_jobs (judge_id, enqueued_by) VALUES ('j', 'rival')": "InsufficientPrivilege",
    "INSERT INTO eval_jobs (judge_id, idempotency_key) VALUES ('j', 'gateway/team/key/1')":
        "CheckViolation",
    f"{CALL}, idempotency_key => 'gateway/team/key/1')": "CheckViolation",
    f"{CALL}, idempotency_key => 'rivals-key')": "UniqueViolation",
    "INSERT INTO eval_jobs (judge_id, idempotency_key) VALUES ('j', 'RIVAL/17')":
        "InsufficientPrivilege",
    "CREATE TRIGGER mine BEFORE INSERT ON eval_jobs FOR EACH ROW"
    " EXECUTE FUNCTION eval_refuse_key()": "InsufficientPrivilege",
    "LOCK TABLE eval_jobs IN ROW EXCLUSIVE MODE": "InsufficientPrivilege",
    "CREATE POLICY mine ON eval_jobs USING (true)": "InsufficientPrivilege",
    "SET ROLE RIVAL": "InsufficientPrivilege",
}  # fmt: skip


@pytest.mark.parametrize("statement", ATTACKS)
def test_a_producer_changes_nothing_of_anothers_jobs(rivalry: Logins, statement: str) -> None:
    expected = getattr(psycopg.errors, ATTACKS[statement])
    with pytest.raises(expected):
        rivalry.attempt("producer", statement.replace("RIVAL", f"rival_{rivalry.suffix}"))


def test_an_input_for_anothers_job_is_refused_as_if_there_were_no_such_job(rivalry: Logins) -> None:
    def refusal(job: str) -> tuple[object, ...]:
        with pytest.raises(psycopg.errors.ForeignKeyViolation) as caught:
            rivalry.attempt("producer", FOREIGN_INPUT.replace(RIVALS, job))
        told = caught.value.diag
        shown = (told.message_primary, told.message_detail, told.constraint_name, told.table_name)
        return (*shown, told.schema_name, told.message_hint)

    assert refusal(RIVALS) == refusal(NOBODYS)


def test_copy_neither_shows_anothers_job_nor_adds_to_it(rivalry: Logins) -> None:
    with psycopg.connect(rivalry.of("producer")) as connection:
        with connection.cursor().copy("COPY (SELECT id FROM eval_jobs) TO STDOUT") as shown:
            assert list(shown) == []
        with (
            pytest.raises(psycopg.errors.ForeignKeyViolation),
            connection.cursor().copy("COPY eval_items (job_id, item_index) FROM STDIN") as copy,
        ):
            copy.write_row((RIVALS, 9))
        connection.rollback()
        with (
            pytest.raises(psycopg.errors.FeatureNotSupported),
            connection.cursor().copy("COPY eval_jobs (judge_id) FROM STDIN") as copy,
        ):
            copy.write_row(("j",))


def test_the_digest_of_anothers_job_cannot_be_set(rivalry: Logins) -> None:
    rivalry.run("producer", f"SELECT eval_record_content('{RIVALS}', 'py1:forged')")
    assert rivalry.run("rival", "SELECT DISTINCT content_digest FROM eval_jobs") == [(None,)]


def test_a_key_of_another_producer_is_refused_and_the_transaction_stays_of_use(
    rivalry: Logins,
) -> None:
    engine = rivalry.engine("producer")
    with engine.connect() as connection:
        with pytest.raises(IdempotencyKeyReused, match="this producer may not see") as caught:
            enqueue(connection, judge_id="j", inputs=[QUESTION], idempotency_key="rivals-key")
        assert caught.value.job_id is None
        own = f"producer_{rivalry.suffix}/17"  # nobody else could have taken this one
        one = enqueue(connection, judge_id="j", inputs=[QUESTION] * 1001, idempotency_key=own)
        assert (
            enqueue(connection, judge_id="j", inputs=[QUESTION] * 1001, idempotency_key=own) == one
        )
        connection.rollback()
    engine.dispose()


def test_two_logins_that_act_as_one_role_have_the_same_jobs(logins: Logins) -> None:
    service = f"service_{logins.suffix}"
    members = [logins.of(name) for name in ("producer", "rival")]
    with psycopg.connect(logins.url, autocommit=True) as owner:
        owner.execute(f"CREATE ROLE {service} IN ROLE evalworker_producer".encode())
        for name in ("producer", "rival"):
            owner.execute(f"GRANT {service} TO {name}_{logins.suffix}".encode())
            owner.execute(f"ALTER ROLE {name}_{logins.suffix} SET role = '{service}'".encode())
        found = set()
        for url in members:
            engine = sa.create_engine(load_settings(database_url=url).sqlalchemy_url)
            with engine.begin() as connection:
                inputs = [QUESTION] * 1001
                found.add(enqueue(connection, judge_id="j", inputs=inputs, idempotency_key="k"))
            engine.dispose()
        assert len(found) == 1
        digests = owner.execute("SELECT content_digest FROM eval_jobs WHERE idempotency_key = 'k'")
        assert digests.fetchone() != (None,)
        owner.execute(f"DROP ROLE {service}".encode())


def test_producers_do_not_wait_for_one_another(rivalry: Logins) -> None:
    engines = [rivalry.engine(name) for name in ("producer", "rival")]
    with engines[0].connect() as one, engines[1].connect() as two:
        for connection in (one, two, one, two):
            connection.execute(sa.text("SET LOCAL lock_timeout = '1ms'"))
            enqueue(connection, judge_id="j", inputs=[QUESTION] * 1500)
        one.rollback()
        two.rollback()
    for engine in engines:
        engine.dispose()


def test_jobs_from_before_producers_were_recorded_are_found_by_key_and_get_no_inputs(
    logins: Logins,
) -> None:
    with psycopg.connect(logins.url) as owner:
        owner.execute("UPDATE eval_jobs SET enqueued_by = NULL")
    engine = logins.engine("producer")
    with engine.begin() as connection:
        found = enqueue(connection, judge_id="j", inputs=[QUESTION], idempotency_key="order-17")
    engine.dispose()
    assert str(found) == JOB
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        logins.attempt("producer", FOREIGN_INPUT.replace(RIVALS, JOB))


def test_who_has_rights_without_a_role_of_ours_keeps_them(logins: Logins) -> None:
    name = f"reader_{logins.suffix}"
    with psycopg.connect(logins.url) as owner:
        owner.execute(f"GRANT SELECT (id), INSERT (judge_id) ON eval_jobs TO {name}".encode())
        owner.execute(f"GRANT INSERT (job_id, item_index) ON eval_items TO {name}".encode())
    assert logins.run("reader", "SELECT id FROM eval_jobs") == [(UUID(JOB),)]
    logins.attempt("reader", FOREIGN_INPUT.replace(RIVALS, JOB))


@pytest.mark.parametrize("table", metadata.tables)
def test_no_table_is_forgotten_in_what_the_worker_may(standing: Logins, table: str) -> None:
    standing.attempt("worker", f"SELECT * FROM {table}")


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


def test_a_producer_that_may_only_insert_enqueues_from_python(logins: Logins) -> None:
    engine = logins.engine("producer")
    with engine.begin() as connection:
        one = enqueue(connection, judge_id="judge", inputs=[QUESTION], idempotency_key="k")
        assert enqueue(connection, judge_id="judge", inputs=[QUESTION], idempotency_key="k") == one
        enqueue(connection, judge_id="judge", inputs=[QUESTION] * 2500, metadata={"order": 1})
    engine.dispose()
    assert logins.run("worker", "SELECT count(*) FROM eval_items") == [(1 + 1 + 2500,)]


def test_an_async_producer_that_may_only_insert_enqueues_too(logins: Logins) -> None:
    async def produce() -> None:
        engine = create_async_engine(
            load_settings(database_url=logins.of("producer")).sqlalchemy_url
        )
        async with engine.begin() as connection:
            await enqueue(connection, judge_id="judge", inputs=[QUESTION] * 1200)
        await engine.dispose()

    asyncio.run(produce())
    assert logins.run("worker", "SELECT count(*) FROM eval_items") == [(1 + 1200,)]


@pytest.mark.parametrize("good", [0, 1, 1500], ids="after {} good inputs".format)
def test_a_refused_job_of_a_producer_that_cannot_delete_leaves_nothing(
    logins: Logins, good: int
) -> None:
    engine = logins.engine("producer")
    with engine.begin() as connection:
        with pytest.raises(InvalidInputs, match=rf"inputs\[{good}\]"):
            enqueue(connection, judge_id="judge", inputs=[QUESTION] * good + [{"request": 5}])
        enqueue(connection, judge_id="judge", inputs=[QUESTION])  # the transaction is of use
    engine.dispose()
    assert logins.run("worker", "SELECT count(*) FROM eval_items") == [(1 + 1,)]
    assert logins.run("worker", "SELECT count(*) FROM eval_jobs") == [(1 + 1,)]


def test_a_whole_job_with_each_part_under_its_own_role(logins: Logins) -> None:
    """Enqueued in three ways, worked on with messages over the same database, told, and read."""
    url = logins.of("worker")
    put_a_job, call = (text.replace("'judge'", "'response-checks'") for text in (PUT_A_JOB, CALL))
    with (
        running_sandbox(SandboxOptions(latency=(0.05, 0.1))) as judge,
        running_receiver() as receiver,
    ):
        settings = settings_for(url, url, judge, webhook_secret=SECRET, webhook_allow_private=True)
        engine = logins.engine("producer")
        with engine.begin() as connection:
            enqueue(
                connection,
                judge_id="response-checks",
                inputs=[QUESTION] * 3,
                tags=["a"],
                callback_url=receiver.url,
            )
        engine.dispose()
        logins.run("producer", put_a_job)
        logins.run("producer", PUT_AN_INPUT)  # a transaction of its own: the job is its own
        logins.run("producer", f"{call})")
        with App(settings) as app:
            app.run(until=app.is_drained)
    counted = logins.run("reader", "SELECT status, total, completed FROM eval_job_progress")
    assert sorted(counted) == [("completed", 1, 1)] * 3 + [("completed", 3, 3)]
    told = logins.run("reader_without_texts", "SELECT state, attempts FROM eval_job_notices")
    assert (told, len(receiver.ids)) == ([("sent", 1)], 1)
    assert logins.run("reader_without_texts", "SELECT count(score) FROM eval_scores") == [(1 + 10,)]


def test_the_commands_of_operators_and_the_gateway_work_under_the_workers_role(
    logins: Logins,
) -> None:
    database = Database(load_settings(database_url=logins.of("worker")).sqlalchemy_url)
    keys = {"team-a": {"key": "a-secret-of-team-a"}}
    settings = load_settings(
        database_url=logins.of("worker"), gateway_port=free_port(), gateway_keys=json.dumps(keys)
    )
    with contextlib.closing(database), serving_gateway(settings, database):
        taken = httpx.post(
            f"http://127.0.0.1:{settings.gateway_port}/v1/judges/judge/batch-execute/",
            json={"inputs": [QUESTION]},
            headers={"Authorization": "Api-Key a-secret-of-team-a"},
        )
        job_id = UUID(taken.json()["batch_execution_id"])
        assert database.run(lambda tx: job_commands.cancel(tx, job_id)) == 1
        assert database.run(lambda tx: job_commands.retry(tx, job_id)) == 0
        assert database.run(lambda tx: batch_commands.resolve(tx, job_id, resubmit=True)) is None


def test_a_worker_operates_but_does_not_prune(logins: Logins) -> None:
    env = environment(database_url=logins.of("worker"))
    for command in (("pause",), ("resume",), ("batches",), ("status",)):
        assert evalworker(*command, env=env).returncode == 0
    database = Database(load_settings(database_url=logins.of("worker")).sqlalchemy_url)
    with contextlib.closing(database):
        replica = ManualReplica(database, FakeJudgeAPI())
        replica.enqueue(["a"])
        replica.finish()
    refused = evalworker("prune", "--older-than", "0s", env=env)
    assert refused.returncode == 1
    assert refused.stderr.startswith("evalworker: the database says: permission denied for table")
    assert len(refused.stderr.splitlines()) == 1


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


def test_a_reader_can_compare_two_jobs(logins: Logins) -> None:
    with logins.owning() as owner, owner.engine.begin() as connection:
        first, second = (
            add_scored_job(connection, {"length": [score] * 10}) for score in (0.1, 0.5)
        )
    engine = logins.engine("reader")
    with engine.connect() as connection:
        (length,) = compare_jobs(connection, first, second).evaluators
    engine.dispose()
    assert length.verdict is Verdict.BETTER
