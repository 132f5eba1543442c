"""Rows that plain SQL can write and nobody can use cost their own job, and no other one."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
from worker.store.database import Database

DIGITS = "1" * 5000  # of a number that Python refuses to parse
DEEP = "[" * 1500 + "]" * 1500


@pytest.fixture
def replica_of_postgres(database_of_postgres: Database, remote: FakeJudgeAPI) -> ManualReplica:
    return ManualReplica(database_of_postgres, remote)


def write(replica: ManualReplica, statement: str, **values: object) -> None:
    with replica.database.engine.begin() as connection:
        connection.execute(sa.text(statement), values)


def finish_beside_a_good_job(replica: ManualReplica) -> None:
    good = replica.enqueue(["good"], judge_id="other")
    replica.finish()
    assert replica.one(f"SELECT status FROM eval_jobs WHERE id = '{good}'") == "completed"


@pytest.mark.parametrize("tags", [f"[{DIGITS}]", DEEP])
def test_tags_that_python_cannot_read_fail_their_job_alone(
    replica_of_postgres: ManualReplica, tags: str
) -> None:
    replica = replica_of_postgres
    bad = replica.enqueue(["bad"])
    write(
        replica,
        "UPDATE eval_jobs SET tags = CAST(:tags AS jsonb) WHERE id = :id",
        tags=tags,
        id=bad,
    )
    finish_beside_a_good_job(replica)
    status, error = replica.one(f"SELECT status, error FROM eval_jobs WHERE id = '{bad}'")
    assert (status, error.startswith("tags must be a list")) == ("failed", True)


def test_an_input_that_python_cannot_read_fails_alone_in_its_batch(
    replica_of_postgres: ManualReplica,
) -> None:
    replica = replica_of_postgres
    replica.enqueue(["bad", "good"])
    write(
        replica,
        "UPDATE eval_items SET functions = CAST(:functions AS jsonb) WHERE item_index = 0",
        functions=f'[{{"a": {DIGITS}}}]',
    )
    replica.finish()
    assert replica.rows("SELECT status FROM eval_items ORDER BY item_index") == [
        ("failed",),
        ("completed",),
    ]


def test_the_metadata_of_a_job_that_python_cannot_read_costs_no_result(
    replica_of_postgres: ManualReplica,
) -> None:
    replica = replica_of_postgres
    replica.enqueue(["good"])
    write(replica, "UPDATE eval_jobs SET metadata = CAST(:it AS jsonb)", it=f'{{"a": {DIGITS}}}')
    replica.finish()
    assert replica.one("SELECT status FROM eval_jobs") == "completed"


def test_the_largest_index_is_evaluated_like_any_other(replica: ManualReplica) -> None:
    replica.enqueue(["first", "last"])
    write(replica, "UPDATE eval_items SET item_index = 2147483647 WHERE item_index = 1")
    finish_beside_a_good_job(replica)
    assert replica.one("SELECT count(*) FROM eval_items WHERE status = 'completed'") == 3


@pytest.mark.parametrize("due_at", ["infinity", "12000-01-01"])
def test_an_input_that_is_never_due_lets_others_go(
    replica_of_postgres: ManualReplica, due_at: str
) -> None:
    replica = replica_of_postgres
    replica.enqueue(["never"])
    write(replica, "UPDATE eval_items SET due_at = CAST(:due_at AS timestamptz)", due_at=due_at)
    good = replica.enqueue(["good"])
    for _ in range(4):
        replica.step()
        replica.pass_time()
    assert replica.one(f"SELECT status FROM eval_jobs WHERE id = '{good}'") == "completed"


def test_an_input_that_was_always_due_does_not_wait_for_a_full_batch(
    database_of_postgres: Database, remote: FakeJudgeAPI
) -> None:
    replica = ManualReplica(database_of_postgres, remote, linger=5.0)
    replica.enqueue(["due"])
    write(replica, "UPDATE eval_items SET due_at = '-infinity'")
    replica.step()
    assert remote.posts() == 1


def test_the_version_of_a_judge_that_is_no_text_fails_its_job_alone(
    database: Database, remote: FakeJudgeAPI
) -> None:
    replica = ManualReplica(database, remote)
    bad = replica.enqueue(["bad"])
    write(replica, "UPDATE eval_jobs SET judge_version_id = '' WHERE id = :id", id=str(bad))
    finish_beside_a_good_job(replica)
    status, error = replica.one(f"SELECT status, error FROM eval_jobs WHERE id = '{bad}'")
    assert (status, error) == ("failed", "judge_version_id must not be empty")


def test_sqlite_refuses_an_index_that_is_no_number(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    replica = ManualReplica(database, FakeJudgeAPI())
    job_id = replica.enqueue(["good"])
    insert = "INSERT INTO eval_items (job_id, item_index, request) VALUES (:id, 'one', 'q')"
    with pytest.raises(sa.exc.IntegrityError, match="item_index must be a whole number"):
        write(replica, insert, id=str(job_id))
    database.close()
