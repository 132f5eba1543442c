"""How inputs come into batches and batches are sent, on both databases."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import pytest

from tests.support.fake_judge_api import FakeJudgeAPI, answering, questions
from tests.support.manual_replica import ManualReplica
from worker.admin import Admin
from worker.pipeline.dispatcher import Dispatcher
from worker.store import batch_items
from worker.store.database import Database


def test_items_of_several_jobs_share_a_batch(replica: ManualReplica, remote: FakeJudgeAPI) -> None:
    for n in range(30):
        replica.enqueue([f"a{n}", f"b{n}"], tags=["x"])
    replica.enqueue(["elsewhere"], tags=["y"])
    replica.enqueue(["other judge"], judge_id="second")
    replica.finish()
    sizes = sorted(len(batch.inputs) for batch in remote.batches.values())
    assert sizes == [1, 1, 60]
    assert replica.one("SELECT count(*) FROM eval_jobs WHERE status = 'completed'") == 32
    assert replica.every_result_is_at_its_own_input()


def test_higher_priorities_go_first_and_equals_in_turn(database: Database) -> None:
    remote = FakeJudgeAPI()
    replica = ManualReplica(database, remote, batch_size=2, max_in_flight=2)
    replica.enqueue(questions(20), judge_id="big")
    replica.enqueue(["small"], judge_id="small")
    replica.step()
    assert sorted(batch.judge_id for batch in remote.batches.values()) == ["big", "small"]
    replica.enqueue(["urgent 1", "urgent 2", "urgent 3"], judge_id="urgent", priority=5)
    replica.pass_time()
    replica.step()
    replica.step()
    last_two = list(remote.batches.values())[-2:]
    assert [batch.judge_id for batch in last_two] == ["urgent", "urgent"]


def test_no_more_batches_are_live_than_allowed(database: Database) -> None:
    remote = FakeJudgeAPI()
    remote.done = False
    replica = ManualReplica(database, remote, batch_size=1, max_in_flight=3)
    replica.enqueue(questions(10))
    for _ in range(4):
        replica.step()
        replica.pass_time()
    assert len(remote.batches) == 3
    remote.done = True
    replica.finish()
    assert len(remote.batches) == 10


def test_a_part_filled_batch_waits_for_company(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    replica.context.policy = replace(replica.context.policy, linger=1000.0)
    replica.enqueue(questions(150))
    replica.step()
    assert [len(batch.inputs) for batch in remote.batches.values()] == [100]
    replica.enqueue(questions(50))
    replica.step()
    assert [len(batch.inputs) for batch in remote.batches.values()] == [100, 100]


def test_a_job_without_inputs_fails_with_that_reason(replica: ManualReplica) -> None:
    with replica.database.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO eval_jobs (judge_id, created_at)"
            " VALUES ('judge', '2020-01-01 00:00:00.000000+00:00')"
        )
    replica.finish()
    assert replica.one("SELECT status, error FROM eval_jobs") == ("failed", "the job has no inputs")


def test_bad_rows_by_plain_sql_fail_alone(replica: ManualReplica, remote: FakeJudgeAPI) -> None:
    job_id = replica.enqueue(["good", "bad", "also good", "emptied"])
    with replica.database.engine.begin() as connection:
        connection.exec_driver_sql(
            'UPDATE eval_items SET contexts = \'{"not": "a list"}\' WHERE item_index = 1'
        )
        connection.exec_driver_sql(
            "UPDATE eval_items SET request = NULL, response = ' ', expected_output = 'an answer'"
            " WHERE item_index = 3"
        )
        connection.exec_driver_sql("INSERT INTO eval_jobs (judge_id, tags) VALUES ('j', '[\"\"]')")
        connection.exec_driver_sql("INSERT INTO eval_jobs (judge_id) VALUES ('')")
        connection.exec_driver_sql(f"INSERT INTO eval_jobs (judge_id) VALUES ('{'j' * 9000}')")
    replica.finish()
    assert replica.rows("SELECT item_index, status FROM eval_items ORDER BY item_index") == [
        (0, "completed"),
        (1, "failed"),
        (2, "completed"),
        (3, "failed"),
    ]
    assert replica.one("SELECT error FROM eval_items WHERE item_index = 3") == (
        "needs `request`, `response` or `turns`; found: response (empty), expected_output"
    )
    assert "contexts must be a list" in replica.one(
        "SELECT error FROM eval_items WHERE item_index=1"
    )
    failed = replica.rows("SELECT error FROM eval_jobs WHERE status = 'failed' ORDER BY error")
    assert [error for (error,) in failed] == [
        "judge_id is too long: 9,000 characters, 255 are allowed",
        "judge_id must not be empty",
        "tags[0] must not be empty",
    ]
    assert [given["request"] for given in remote.inputs()] == ["good", "also good"]
    assert replica.every_result_is_at_its_own_input()
    assert job_id


def test_text_that_is_not_json_on_sqlite_stops_nothing(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    replica = ManualReplica(database, FakeJudgeAPI())
    replica.enqueue(["good"])
    with database.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO eval_jobs (judge_id, tags) VALUES ('j', '[oops')")
    replica.finish()
    assert replica.rows("SELECT status, error FROM eval_jobs ORDER BY status") == [
        ("completed", None),
        ("failed", "tags must be a list of strings, not a string"),
    ]
    database.close()


def test_inputs_that_come_after_the_jobs_end_are_not_left_lying(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    job_id = replica.enqueue(["early"])
    replica.finish()
    with replica.database.engine.begin() as connection:
        connection.exec_driver_sql(
            f"INSERT INTO eval_items (job_id, item_index, request) VALUES ('{job_id}', 1, 'late')"
        )
    replica.dispatcher._sweeps_at = float("-inf")
    replica.finish()
    assert [given["request"] for given in remote.inputs()] == ["early", "late"]
    assert replica.one("SELECT status, completed FROM eval_job_progress") == ("completed", 2)


def test_submitting_is_committed_before_the_post_leaves(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    seen: list[str] = []

    def look(_: httpx.Request) -> None:
        seen.append(replica.one("SELECT state FROM eval_batches"))

    remote.next_answer(look)
    replica.enqueue(["q"])
    replica.step()
    assert seen == ["submitting"]
    assert replica.states() == ["submitted"]


def test_one_bad_input_fails_alone_after_logarithmically_many_requests(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    def picky(request: httpx.Request) -> httpx.Response | None:
        remote.answers.insert(0, picky)
        if request.method == "POST" and b"question 37" in request.content:
            return httpx.Response(400, json={"inputs": ["question 37 is not acceptable"]})
        return None

    remote.next_answer(picky)
    replica.enqueue(questions(100))
    replica.finish()
    assert replica.one("SELECT completed, failed, status FROM eval_job_progress") == (
        99,
        1,
        "completed",
    )
    failed = replica.one("SELECT item_index, error FROM eval_items WHERE status = 'failed'")
    assert failed[0] == 37
    assert "question 37 is not acceptable" in failed[1]
    assert remote.posts() <= 2 * 7 + 1  # 2 log2(100) and the first
    assert len(remote.inputs()) == 99
    assert replica.every_result_is_at_its_own_input()


def test_a_batch_that_is_too_large_is_split_without_blame(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    def small_only(request: httpx.Request) -> httpx.Response | None:
        remote.answers.insert(0, small_only)
        if request.method == "POST" and request.content.count(b'"request"') > 30:
            return httpx.Response(413, json={"detail": "too large"})
        return None

    remote.next_answer(small_only)
    replica.enqueue(questions(100))
    replica.finish()
    assert replica.one("SELECT completed, failed FROM eval_job_progress") == (100, 0)
    assert all(len(batch.inputs) == 25 for batch in remote.batches.values())


def test_an_unknown_judge_fails_its_items_with_the_apis_words(
    replica: ManualReplica, remote: FakeJudgeAPI
) -> None:
    remote.next_answer(answering(404, {"detail": "No Judge matches the given query."}))
    replica.enqueue(questions(3))
    replica.finish()
    status, error = replica.one("SELECT status, error FROM eval_jobs")
    assert status == "failed"
    assert "No Judge matches the given query." in error


@pytest.mark.one_database("sqlite")
def test_a_sweep_for_stray_inputs_that_had_to_wait_is_repeated_within_minutes(
    replica: ManualReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept: list[float] = []
    now = [0.0]

    def sweep(_: object) -> None:
        swept.append(now[0])
        now[0] += 300.0  # the database was away

    monkeypatch.setattr("worker.store.job_completion.wake_stray_jobs", sweep)
    dispatcher = Dispatcher(replace(replica.context, monotonic=lambda: now[0]))
    for _ in range(3):
        dispatcher.turn()
        now[0] += 599.0
        dispatcher.turn()
        now[0] += 1.0
    assert swept == [0.0, 900.0, 1800.0]


def test_a_submission_that_begins_too_late_is_put_back_and_counts_as_no_attempt(
    database: Database, remote: FakeJudgeAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = ManualReplica(database, remote)
    seconds = [0.0]
    monkeypatch.setattr(replica.context, "monotonic", lambda: seconds[0])
    run = database.run

    def slowly(work: Any, **options: Any) -> Any:
        seconds[0] += 25.0
        return run(work, **options)

    replica.enqueue(questions(3))
    replica.dispatcher.turn()
    with monkeypatch.context() as patch:
        patch.setattr(database, "run", slowly)
        for _ in range(20):
            replica.deliver()
            replica.pass_time()
            replica.dispatcher.turn()
    assert remote.posts() == 0
    assert set(replica.states()) == {"planned"}
    replica.finish()
    assert replica.rows("SELECT attempts FROM eval_items") == [(1,)] * 3


def test_an_input_that_is_cancelled_while_its_batch_begins_keeps_its_place(
    database_of_postgres: Database, remote: FakeJudgeAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = ManualReplica(database_of_postgres, remote)
    first, second = (replica.enqueue([name]) for name in ("first", "second"))
    replica.enqueue(["third"])
    admin = Admin(database_of_postgres.engine.url.render_as_string(hide_password=False))
    replica.dispatcher.turn()
    admin.cancel(first)
    read = batch_items.items_to_submit

    def meanwhile(*given: Any) -> Any:
        rows = read(*given)
        admin.cancel(second)
        return rows

    monkeypatch.setattr("worker.store.submission.items_to_submit", meanwhile)
    replica.deliver()
    assert [given["request"] for given in remote.inputs()] == ["second", "third"]
    indices = replica.rows("SELECT batch_index FROM eval_items ORDER BY request")
    assert indices == [(None,), (0,), (1,)]
    admin.close()
