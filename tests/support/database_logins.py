"""Give a PostgreSQL database a login in each role, and a job that has ended."""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
import sqlalchemy as sa

from tests.support.shared_servers import POSTGRES_TEMPLATE
from worker.config import load_settings
from worker.pipeline.brokers import grant_queue
from worker.store.database import Database
from worker.store.migrate import grant_roles

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

LOGINS = {role: role for role in ("producer", "reader", "reader_without_texts", "worker")}
LOGINS["rival"] = "producer"


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
