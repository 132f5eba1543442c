"""How submissions are written together, on both databases."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.pq import ExecStatus

from tests.support.harness import Bench, FakeRemote
from worker.gateway.group_commit import TOGETHER, Writing
from worker.gateway.reader import Reading
from worker.gateway.submit import Taking, take
from worker.store import gateway_queries, pipeline
from worker.store.tables import jobs
from worker.wire.submission import Submission

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from worker.store.database import Database


@pytest.fixture
def bench(database: Database) -> Bench:
    return Bench(database, FakeRemote())


def taking(*texts: str, judge: str = "judge", key: str | None = None) -> Taking:
    """A submission of an input for each text."""
    inputs = [{"request": text, "response": "…"} for text in texts]
    return Taking("team-a", judge, Submission.model_validate({"inputs": inputs}), key)


def writing(
    database: Database,
    do: Callable[[Writing], Coroutine[Any, Any, Any]],
    on_taken: Callable[[], None] = lambda: None,
) -> Any:
    async def run() -> Any:
        given = Writing(database, on_taken)
        try:
            return await do(given)
        finally:
            await given.close()

    return asyncio.run(run())


async def put_all(given: Writing, *takings: Taking) -> list[Any]:
    found = (given.put(one.job) for one in takings)
    return await asyncio.gather(*found, return_exceptions=True)


def test_submissions_that_come_together_are_written_together(
    database: Database, bench: Bench
) -> None:
    commits: list[None] = []
    takings = [taking(f"{n}", "second") for n in range(20)]
    found = writing(database, lambda w: put_all(w, *takings), lambda: commits.append(None))
    assert found == [True] * 20
    assert len(commits) == 1
    assert bench.events() == ["job.taken"] * 20
    for n, one in enumerate(takings):
        texts = f"SELECT request FROM eval_items WHERE job_id = '{one.id}' ORDER BY item_index"
        assert bench.rows(texts) == [(f"{n}",), ("second",)]


def test_one_that_the_database_refuses_is_refused_alone(database: Database, bench: Bench) -> None:
    refuse(database, "forbidden")
    takings = [taking("q", judge="forbidden" if n % 3 == 0 else "judge") for n in range(9)]
    found = writing(database, lambda w: put_all(w, *takings))
    refused = [place for place, one in enumerate(found) if isinstance(one, Exception)]
    assert refused == [0, 3, 6]
    assert all("no such judge" in str(found[place]) for place in refused)
    assert bench.one("SELECT count(*) FROM eval_jobs") == 6
    assert bench.one("SELECT count(*) FROM eval_items") == 6


def test_one_that_cannot_be_sent_is_nobody_elses_matter(database: Database, bench: Bench) -> None:
    """Such texts are refused before; here, answers would come to who had not asked for them."""

    async def put(given: Writing) -> list[Any]:
        found = await put_all(given, taking("1"), taking("half a pair: \ud800"), taking("2"))
        return [*found, await given.put(taking("3").job)]

    one, two, three, four = writing(database, put)
    assert (one, three, four) == (True, True, True)
    assert isinstance(two, UnicodeEncodeError)
    assert sorted(bench.rows("SELECT request FROM eval_items")) == [("1",), ("2",), ("3",)]


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


def test_equal_keys_that_come_together_are_one_job(database: Database, bench: Bench) -> None:
    takings = [taking("q", key="k") for _ in range(5)]
    assert sorted(writing(database, lambda w: put_all(w, *takings))) == [False] * 4 + [True]
    assert bench.one("SELECT count(*) FROM eval_items") == 1
    assert bench.events() == ["job.taken"]


@pytest.mark.parametrize("inputs", [1, TOGETHER, TOGETHER + 1])
def test_a_submission_comes_whole_however_large_it_is(
    database: Database, bench: Bench, inputs: int
) -> None:
    """With what a connection has no room for at once."""
    texts = [f'{n} é\\"\t' * 2000 for n in range(inputs)]
    assert writing(database, lambda w: put_all(w, taking(*texts))) == [True]
    found = bench.rows("SELECT request FROM eval_items ORDER BY item_index")
    assert [text for (text,) in found] == texts


def test_what_waits_at_the_end_is_still_written(database: Database, bench: Bench) -> None:
    async def leave(given: Writing) -> list[asyncio.Task[bool]]:
        puts = [asyncio.create_task(given.put(taking("q").job)) for _ in range(3)]
        await asyncio.sleep(0)  # they wait now
        return puts

    writing(database, leave)
    assert bench.one("SELECT count(*) FROM eval_jobs") == 3


def test_who_has_gone_before_it_was_written_wanted_nothing(
    database: Database, bench: Bench
) -> None:
    async def go(given: Writing) -> Any:
        first = asyncio.create_task(given.put(taking("first").job))
        gone = asyncio.create_task(given.put(taking("gone").job))
        await asyncio.sleep(0)
        gone.cancel()
        found = await first
        also_gone = asyncio.create_task(given.put(taking("nobody else waits").job))
        await asyncio.sleep(0)
        also_gone.cancel()
        return found

    assert writing(database, go) is True
    assert bench.rows("SELECT request FROM eval_items") == [("first",)]


def test_a_key_whose_job_was_deleted_meanwhile_makes_a_new_one(
    database: Database, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_key = gateway_queries.with_key

    async def after_deletion(*given: Any) -> Any:
        with database.engine.begin() as connection:
            connection.execute(jobs.delete())
        return await with_key(*given)

    async def twice(given: Writing) -> list[Any]:
        reading = Reading(database)
        first = await take(taking("q", key="k"), given, reading)
        monkeypatch.setattr(gateway_queries, "with_key", after_deletion)
        second = await take(taking("q", key="k"), given, reading)
        reading.close()
        return [first, second]

    first, second = writing(database, twice)
    assert first != second
    assert bench.one("SELECT id FROM eval_jobs") in (second, str(second))


def test_a_commit_whose_answer_was_lost_in_the_pipeline_makes_one_job(
    database_of_postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statement is sent again, and finds what it had written."""
    bench = Bench(database_of_postgres, FakeRemote())
    lost: list[int] = []
    real = pipeline._Line._take

    def lose(self: Any, result: Any) -> None:
        if result is not None and result.status == ExecStatus.PIPELINE_SYNC and not lost:
            lost.append(bench.one("SELECT count(*) FROM eval_jobs"))
            raise psycopg.OperationalError("lost")
        real(self, result)

    monkeypatch.setattr(pipeline._Line, "_take", lose)
    one = taking("q")

    async def put(given: Writing) -> Any:
        reading = Reading(database_of_postgres)
        try:
            return await take(one, given, reading)
        finally:
            reading.close()

    assert writing(database_of_postgres, put) == one.id
    assert lost == [1]
    assert bench.one("SELECT count(*) FROM eval_items") == 1
    assert bench.events() == ["job.taken"]
