"""Submissions that wait at the same time are committed together, on both databases."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

import worker.gateway.submit as submit_module
from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
from worker.gateway.group_commit import MAX_GROUP_INPUTS, GroupCommit
from worker.gateway.reader import DatabaseReader
from worker.gateway.submit import PendingSubmission, submit
from worker.store import gateway_queries
from worker.store.tables import jobs
from worker.wire.submission import Submission

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from worker.store.database import Database


@pytest.fixture
def replica(database: Database) -> ManualReplica:
    return ManualReplica(database, FakeJudgeAPI())


def pending(*texts: str, judge: str = "judge", key: str | None = None) -> PendingSubmission:
    """Return a submission with one input for each text."""
    inputs = [{"request": text, "response": "…"} for text in texts]
    return PendingSubmission("team-a", judge, Submission.model_validate({"inputs": inputs}), key)


def with_group_commit(
    database: Database,
    do: Callable[[GroupCommit], Coroutine[Any, Any, Any]],
    on_commit: Callable[[], None] = lambda: None,
) -> Any:
    async def run() -> Any:
        group_commit = GroupCommit(database, on_commit)
        try:
            return await do(group_commit)
        finally:
            await group_commit.close()

    return asyncio.run(run())


async def insert_all(group_commit: GroupCommit, *submissions: PendingSubmission) -> list[Any]:
    inserts = (group_commit.insert(one.job) for one in submissions)
    return await asyncio.gather(*inserts, return_exceptions=True)


def test_submissions_that_wait_together_share_one_commit(
    database: Database, replica: ManualReplica
) -> None:
    commits: list[None] = []
    submissions = [pending(f"{n}", "second") for n in range(20)]
    found = with_group_commit(
        database, lambda g: insert_all(g, *submissions), lambda: commits.append(None)
    )
    assert found == [True] * 20
    assert len(commits) == 1
    assert replica.events() == ["job.taken"] * 20
    for n, one in enumerate(submissions):
        texts = f"SELECT request FROM eval_items WHERE job_id = '{one.id}' ORDER BY item_index"
        assert replica.rows(texts) == [(f"{n}",), ("second",)]


def test_a_submission_that_the_database_refuses_fails_alone(
    database: Database, replica: ManualReplica
) -> None:
    refuse(database, "forbidden")
    submissions = [pending("q", judge="forbidden" if n % 3 == 0 else "judge") for n in range(9)]
    found = with_group_commit(database, lambda g: insert_all(g, *submissions))
    refused = [index for index, one in enumerate(found) if isinstance(one, Exception)]
    assert refused == [0, 3, 6]
    assert all("no such judge" in str(found[index]) for index in refused)
    assert replica.one("SELECT count(*) FROM eval_jobs") == 6
    assert replica.one("SELECT count(*) FROM eval_items") == 6


def test_a_text_that_cannot_be_encoded_fails_alone(
    database: Database, replica: ManualReplica
) -> None:
    """Validation refuses such texts earlier; here one must not fail the rest of its group."""

    async def insert(group_commit: GroupCommit) -> list[Any]:
        found = await insert_all(
            group_commit, pending("1"), pending("half a pair: \ud800"), pending("2")
        )
        return [*found, await group_commit.insert(pending("3").job)]

    one, two, three, four = with_group_commit(database, insert)
    assert (one, three, four) == (True, True, True)
    assert isinstance(two, UnicodeEncodeError)
    assert sorted(replica.rows("SELECT request FROM eval_items")) == [("1",), ("2",), ("3",)]


def refuse(database: Database, judge_id: str) -> None:
    with database.engine.begin() as connection:
        if not database.on_postgresql:
            connection.exec_driver_sql(
                "CREATE TRIGGER refusing BEFORE INSERT ON eval_jobs "
                f"WHEN NEW.judge_id = '{judge_id}' "
                "BEGIN SELECT RAISE(ABORT, 'no such judge'); END"
            )
            return
        connection.exec_driver_sql(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$BEGIN RAISE EXCEPTION 'no such judge' USING ERRCODE = 'check_violation'; END$$"
        )
        connection.exec_driver_sql(
            "CREATE TRIGGER refusing BEFORE INSERT ON eval_jobs FOR EACH ROW "
            f"WHEN (NEW.judge_id = '{judge_id}') EXECUTE FUNCTION refuse()"
        )


def test_equal_keys_in_one_group_make_one_job(database: Database, replica: ManualReplica) -> None:
    submissions = [pending("q", key="k") for _ in range(5)]
    assert sorted(with_group_commit(database, lambda g: insert_all(g, *submissions))) == [
        False
    ] * 4 + [True]
    assert replica.one("SELECT count(*) FROM eval_items") == 1
    assert replica.events() == ["job.taken"]


@pytest.mark.parametrize("inputs", [1, MAX_GROUP_INPUTS, MAX_GROUP_INPUTS + 1])
def test_a_submission_of_any_size_is_stored_whole(
    database: Database, replica: ManualReplica, inputs: int
) -> None:
    texts = [f'{n} é\\"\t' * 2000 for n in range(inputs)]
    assert with_group_commit(database, lambda g: insert_all(g, pending(*texts))) == [True]
    found = replica.rows("SELECT request FROM eval_items ORDER BY item_index")
    assert [text for (text,) in found] == texts


def test_queued_submissions_are_committed_before_closing(
    database: Database, replica: ManualReplica
) -> None:
    async def leave(group_commit: GroupCommit) -> list[asyncio.Task[bool]]:
        inserts = [asyncio.create_task(group_commit.insert(pending("q").job)) for _ in range(3)]
        await asyncio.sleep(0)  # they wait now
        return inserts

    with_group_commit(database, leave)
    assert replica.one("SELECT count(*) FROM eval_jobs") == 3


def test_a_queued_submission_of_a_disconnected_client_is_dropped(
    database: Database, replica: ManualReplica
) -> None:
    async def go(group_commit: GroupCommit) -> Any:
        first = asyncio.create_task(group_commit.insert(pending("first").job))
        gone = asyncio.create_task(group_commit.insert(pending("gone").job))
        await asyncio.sleep(0)
        gone.cancel()
        found = await first
        also_gone = asyncio.create_task(group_commit.insert(pending("nobody else waits").job))
        await asyncio.sleep(0)
        also_gone.cancel()
        return found

    assert with_group_commit(database, go) is True
    assert replica.rows("SELECT request FROM eval_items") == [("first",)]


def test_a_key_whose_job_was_deleted_meanwhile_makes_a_new_job(
    database: Database, replica: ManualReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    def after_deletion(connection: sa.Connection, key: str) -> Any:
        with database.engine.begin() as other:
            other.execute(jobs.delete())
        return gateway_queries.keyed_job(connection, key)

    async def twice(group_commit: GroupCommit) -> list[Any]:
        reader = DatabaseReader(database)
        first = await submit(pending("q", key="k"), group_commit, reader)
        monkeypatch.setattr(submit_module, "keyed_job", after_deletion)
        second = await submit(pending("q", key="k"), group_commit, reader)
        reader.close()
        return [first, second]

    first, second = with_group_commit(database, twice)
    assert first != second
    assert replica.one("SELECT id FROM eval_jobs") in (second, str(second))
