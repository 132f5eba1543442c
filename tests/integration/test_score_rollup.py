"""The sums of a job's scores are there while it has ended, and are gone while it is open."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from tests.support.fake_judge_api import FakeJudgeAPI
from tests.support.manual_replica import ManualReplica
from tests.support.servers import wait_until
from worker import enqueue
from worker.admin import Admin
from worker.store import expired_rows, job_completion, rollup_backfill, score_rollup
from worker.store.bulk import insert_rows
from worker.store.database import Database
from worker.store.migrate import downgrade, upgrade
from worker.store.tables import evaluator_results
from worker.store.transaction import Transaction
from worker.store.views import score_summary

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future
    from uuid import UUID

    from worker.store.retention import Pruned

NOW = timedelta(seconds=-60)  # "older than": everything that has ended

ROLLED_UP = """
SELECT job_id, evaluator_name, coalesce(judge_version_id, ''), scored, unscored, sum,
    sum_of_squares, least, most
FROM eval_job_scores
"""
COMPUTED = """
SELECT job_id, evaluator_name, coalesce(judge_version_id, ''), count(score),
    count(*) - count(score), sum(score), sum(score * score), min(score), max(score)
FROM eval_scores GROUP BY 1, 2, 3
"""


@pytest.fixture
def replica(database: Database) -> ManualReplica:
    return ManualReplica(database, FakeJudgeAPI(), batch_size=2, max_in_flight=3)


@pytest.fixture
def admin(database_url: str) -> Iterator[Admin]:
    with Admin(database_url) as opened:
        yield opened


def rounded(rows: list[Any]) -> list[list[Any]]:
    return sorted(
        [round(value, 9) if isinstance(value, float) else value for value in row] for row in rows
    )


def agrees(replica: ManualReplica) -> bool:
    """Whether the roll-up has the scores of all jobs, which have ended."""
    rows = replica.rows(COMPUTED)
    return bool(rows) and rounded(replica.rows(ROLLED_UP)) == rounded(rows)


def rolled_up(replica: ManualReplica, job_id: UUID) -> int:
    counted = replica.one(f"SELECT count(*) FROM eval_job_scores WHERE job_id = '{job_id}'")
    return int(counted)


def test_a_job_that_ends_has_the_sums_of_its_scores(replica: ManualReplica) -> None:
    whole = replica.enqueue(["a", "bb", "fail", "dddd", "eeeee"])
    others = [replica.enqueue([f"one {n}"]) for n in range(3)]
    failed = replica.enqueue(["fail"])
    assert replica.rows(ROLLED_UP) == []
    replica.finish()
    assert agrees(replica)
    assert all(rolled_up(replica, job_id) for job_id in (whole, *others))
    assert rolled_up(replica, failed) == 0


def test_a_cancelled_job_has_the_sums_of_what_was_evaluated_before(
    replica: ManualReplica, admin: Admin
) -> None:
    job_id = replica.enqueue([f"question {n}" for n in range(10)])
    replica.step()
    replica.pass_time()
    replica.step()
    assert rolled_up(replica, job_id) == 0
    admin.cancel(job_id)
    assert admin.job(job_id)["completed"] > 0
    assert agrees(replica)


@pytest.mark.parametrize("choice", [{"item_index": 0}, {}])
def test_a_retry_takes_them_back_until_the_job_has_ended_again(
    replica: ManualReplica, admin: Admin, choice: dict[str, Any]
) -> None:
    job_id = replica.enqueue(["a", "bb", "fail"])
    other = replica.enqueue(["ccc"])
    replica.finish()
    admin.retry(job_id, **choice)
    assert rolled_up(replica, job_id) == 0
    assert rolled_up(replica, other) > 0
    replica.finish()
    assert agrees(replica)


@pytest.mark.one_database("postgres")
def test_inputs_that_a_producer_adds_later_take_them_back_as_well(replica: ManualReplica) -> None:
    job_id = replica.enqueue(["a"])
    replica.finish()
    with replica.database.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO eval_items (job_id, item_index, request, response)"
            f" VALUES ('{job_id}', 1, 'late', 'answer')"
        )
    replica.database.run(job_completion.wake_stray_jobs)
    assert rolled_up(replica, job_id) == 0
    replica.finish()
    assert agrees(replica)
    assert replica.one("SELECT max(scored) FROM eval_job_scores") == 2


@pytest.mark.one_database("sqlite")
def test_pruning_takes_them_back_with_the_first_inputs_that_go(
    replica: ManualReplica, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expired_rows, "MAX_ROWS", 2)
    replica.enqueue([f"question {n}" for n in range(8)])
    replica.finish()

    def interrupt(_: Pruned) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        admin.prune(NOW, on_progress=interrupt)
    assert replica.rows(ROLLED_UP) == []
    admin.prune(NOW)
    assert replica.one("SELECT count(*) FROM eval_jobs") == 0


@pytest.mark.one_database("sqlite")
def test_pruning_texts_leaves_them(replica: ManualReplica, admin: Admin) -> None:
    replica.enqueue(["a", "bb"])
    replica.finish()
    admin.prune(NOW, texts_only=True)
    assert agrees(replica)


def test_migrating_sums_up_the_jobs_that_have_ended(
    replica: ManualReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollup_backfill, "MAX_JOBS", 2)
    monkeypatch.setattr(rollup_backfill, "MAX_SCORES", 3)
    for size in (1, 7, 1, 1, 2):
        replica.enqueue([f"question {n}" for n in range(size)])
    replica.enqueue(["fail"])
    replica.finish()
    replica.remote.done = False
    waiting = replica.enqueue(["still open"])
    replica.step()
    downgrade(replica.database, "0007")
    upgrade(replica.database)
    assert agrees(replica)
    assert rolled_up(replica, waiting) == 0


@pytest.mark.one_database("sqlite")
def test_migrating_again_sums_up_what_an_older_worker_ended_meanwhile(
    replica: ManualReplica,
) -> None:
    replica.enqueue(["a"])
    replica.enqueue(["bb"])
    replica.finish()
    with replica.database.engine.begin() as connection:
        connection.exec_driver_sql(
            "DELETE FROM eval_job_scores WHERE job_id = (SELECT min(id) FROM eval_jobs)"
            if not replica.database.on_postgresql
            else "DELETE FROM eval_job_scores"
        )
    assert not agrees(replica)
    upgrade(replica.database)
    assert agrees(replica)


def give_scores(replica: ManualReplica, job_id: UUID, scores: list[float | None]) -> None:
    """Replace the score of each input, and sum them up anew, under a name of great length."""
    with replica.database.engine.begin() as connection:
        for index, score in enumerate(scores):
            connection.execute(
                sa.update(evaluator_results)
                .where(
                    evaluator_results.c.job_id == job_id, evaluator_results.c.item_index == index
                )
                .values(score=score, evaluator_name="one" * 3000)
            )
        connection.exec_driver_sql("DELETE FROM eval_job_scores")
    rollup_backfill.fill(replica.database)


ODD_SCORES: list[tuple[list[float | None], float | None, float | None, list[int] | None]] = [
    ([0.0, 0.1, 0.3, 1.0], 1.4, 1.1, [1, 1, 0, 1, 0, 0, 0, 0, 0, 1]),
    ([None, 0.55, 0.95, None], 1.5, 1.205, [0, 0, 0, 0, 0, 1, 0, 0, 0, 1]),
    ([None, None, None, None], None, None, None),
    ([0.5, 3.0, 4.0, 5.0], 12.5, 50.25, None),
    ([-0.1, 0.5, 0.5, 0.5], 1.4, 0.76, None),
    ([1e308, 1e308, 1.0, 1.0], None, None, None),
    ([1e-200, 1e-200, 0.0, 0.0], 2e-200, 0.0, [4, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
]


def test_any_number_that_a_judge_may_give_is_summed_up_without_an_error(
    replica: ManualReplica,
) -> None:
    job_id = replica.enqueue([f"question {n}" for n in range(4)])
    replica.finish()
    for scores, total, squares, bins in ODD_SCORES:
        give_scores(replica, job_id, scores)
        with replica.database.read() as connection:
            (row,) = connection.execute(sa.select(score_summary))
        assert row.scored == sum(score is not None for score in scores)
        assert row.unscored == 4 - row.scored
        assert row.sum == pytest.approx(total)
        assert row.sum_of_squares == pytest.approx(squares)
        assert row.bins == bins
        assert row.mean == (pytest.approx(row.sum / row.scored) if total is not None else None)


def test_results_that_arrive_while_their_job_is_cancelled_are_dropped(
    database_of_postgres: Database, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The poll has read which inputs await results when the cancellation commits."""
    replica = ManualReplica(database_of_postgres, FakeJudgeAPI())
    cancelled = replica.enqueue(["a", "bb"])
    other = replica.enqueue(["ccc"])
    replica.step()

    def cancel_first(*given: Any) -> None:
        with Admin(postgres_url) as admin:
            admin.cancel(cancelled)
        insert_rows(*given)

    monkeypatch.setattr("worker.store.polling.insert_rows", cancel_first)
    replica.pass_time()
    replica.step()
    assert replica.states() == ["finished"]
    assert agrees(replica)
    assert rolled_up(replica, cancelled) == 0
    assert rolled_up(replica, other) == 1
    scored = replica.rows("SELECT job_id, item_index FROM eval_scores")
    assert [tuple(row) for row in scored] == [(other, 0)]


ADD_RESULTS = """
INSERT INTO eval_evaluator_results (job_id, item_index, position, evaluator_name, score)
SELECT job_id, item_index, position, 'evaluator ' || position, 0.5
FROM eval_items, generate_series(0, 1) position WHERE job_id = :job_id
"""
ROWS_READ = """
SELECT sum(idx_tup_fetch) FROM pg_stat_xact_user_tables
WHERE relname IN ('eval_items', 'eval_evaluator_results')
"""


def test_statistics_of_a_small_job_do_not_make_a_large_one_read_rows_again_and_again(
    new_postgres_url: str,
) -> None:
    with closing(Database(new_postgres_url)) as database:
        for size in (3, 300):
            with database.engine.begin() as connection:
                job_id = enqueue(
                    connection, judge_id="j", inputs=[{"request": f"{n}"} for n in range(size)]
                )
                connection.execute(sa.text(ADD_RESULTS), {"job_id": job_id})
                before = connection.scalar(sa.text(ROWS_READ)) or 0
                score_rollup.write(Transaction(connection), [job_id])
                read = (connection.scalar(sa.text(ROWS_READ)) or 0) - before
            with database.engine.begin() as connection:
                connection.execute(sa.text("ANALYZE"))
    assert read == 300 + 600  # each input and each result once


WAITS_FOR_A_LOCK = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"


def test_a_retry_while_the_last_results_are_recorded_leaves_no_sums_of_an_open_job(
    database_of_postgres: Database, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = ManualReplica(
        database_of_postgres, FakeJudgeAPI(), batch_size=1, max_in_flight=1, max_item_attempts=1
    )
    job_id = replica.enqueue(["fail", "good"])
    retried: list[Future[int]] = []
    write = score_rollup.write
    threads = ThreadPoolExecutor()

    def retry() -> int:
        with Admin(postgres_url) as admin:
            return admin.retry(job_id)

    def write_while_somebody_retries(*given: Any) -> None:
        write(*given)
        if not retried:
            retried.append(threads.submit(retry))
            wait_until(lambda: replica.one(WAITS_FOR_A_LOCK) > 0, seconds=20)

    monkeypatch.setattr(score_rollup, "write", write_while_somebody_retries)
    while not retried:
        replica.step()
        replica.pass_time()
    assert retried[0].result() == 1
    threads.shutdown()
    assert replica.open_jobs() == 1
    assert rolled_up(replica, job_id) == 0
